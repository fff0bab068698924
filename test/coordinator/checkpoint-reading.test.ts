// How often a checkpoint is read for its hashes. Replaces the reading of files for the whole process: serial, and in a
// file of its own.
import fs from 'node:fs/promises';
import { open, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { CheckpointDesk } from '../../src/coordinator/checkpoint-desk.ts';
import type { PreparedRun } from '../../src/coordinator/prepare-run.ts';
import { openCheckpoint, type VerifiedStamps } from '../../src/coordinator/store/checkpoint.ts';
import { CheckpointError } from '../../src/errors.ts';
import { SILENT_LOGGER } from '../../src/log.ts';
import { temporaryDir } from '../temporary-dir.ts';
import { expectedState, readState, writeCheckpoint } from './store/checkpoints.ts';

const WEIGHTS = 'model.safetensors';

let readBytes = 0;

test.before(async () => {
  const handle = await open('/dev/null', 'r');
  const prototype = Object.getPrototypeOf(handle) as fs.FileHandle;
  await handle.close();
  const read = prototype.read as (...args: unknown[]) => Promise<{ bytesRead: number }>;
  prototype.read = async function (this: fs.FileHandle, ...args: unknown[]) {
    const done = await read.apply(this, args);
    readBytes += done.bytesRead;
    return done as never;
  };
});

/** Bytes that were read of any file meanwhile. */
async function bytesOf(work: () => Promise<{ close(): Promise<void> } | null>): Promise<number> {
  const before = readBytes;
  await (await work())?.close();
  return readBytes - before;
}

async function aDesk(t: ExecutionContext) {
  const dir = temporaryDir(t);
  const newestCheckpoint = await writeCheckpoint(dir, 1);
  const verified: VerifiedStamps = new Map();
  const run = { checkpointsDir: dir, newestCheckpoint, verified } as unknown as PreparedRun;
  const around = { dispatch: () => {}, onReport: () => {}, logger: SILENT_LOGGER, nowMs: () => 0 };
  return { dir, weights: join(dir, 'step-000001', WEIGHTS), desk: new CheckpointDesk(run, around) };
}

test.serial('a checkpoint that was read back whole is not read for its hashes again', async (t) => {
  const { dir, desk } = await aDesk(t);
  const first = await bytesOf(() => desk.openNewest());
  const second = await bytesOf(() => desk.openNewest());
  const checkpoint = await openCheckpoint(dir, 1);
  const files = Object.values(checkpoint.manifest.files).reduce((sum, { bytes }) => sum + bytes, 0);
  await checkpoint.close();
  t.true(first - second >= files, `${first} bytes at first, then ${second}; the files have ${files}`);
  const again = await desk.openNewest();
  t.deepEqual(await readState(again!), expectedState(1));
  await again?.close();
});

test.serial('of two that join at once one waits for what is read for the other', async (t) => {
  const { dir, desk } = await aDesk(t);
  const alone = await bytesOf(() => openCheckpoint(dir, 1));
  const both = await bytesOf(async () => {
    const opened = await Promise.all([desk.openNewest(), desk.openNewest()]);
    return {
      async close() {
        for (const each of opened) await each?.close();
      },
    };
  });
  t.true(both < 2 * alone - 500, `${alone} bytes for one, ${both} for two`);
});

test.serial('a byte that changes in a file that was read back is found', async (t) => {
  const { desk, weights } = await aDesk(t);
  await bytesOf(() => desk.openNewest());
  const bytes = await readFile(weights);
  await writeFile(
    weights,
    bytes.map((byte, i) => (i === bytes.length - 1 ? byte ^ 1 : byte)),
  );
  await t.throwsAsync(desk.openNewest(), { instanceOf: CheckpointError, message: /SHA-256/ });
  await writeFile(weights, bytes);
  t.true((await bytesOf(() => desk.openNewest())) > 0);
});

test.serial('after a trainer whose weights were wrong nothing is taken for whole unread', async (t) => {
  const { desk } = await aDesk(t);
  const first = await bytesOf(() => desk.openNewest());
  desk.distrust();
  t.is(await bytesOf(() => desk.openNewest()), first);
});
