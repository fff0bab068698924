/**
 * Speed of the store on this machine: appending records of 40 MB (and of 64 kB) with their sync,
 * opening the journal again, writing and verifying a checkpoint of 232 MB of weights and twice that of moments.
 * node dist/bench/store/journal-append.js [DIR]
 */
import { mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { galore } from '#messages';
import { beginCheckpoint, openCheckpoint } from '../../src/coordinator/store/checkpoint.ts';
import { FIRST_DIGEST, recordDigest } from '../../src/protocol/digest.ts';
import { Journal } from '../../src/coordinator/store/journal.ts';

const { Envelope } = galore.v1;
const MEBIBYTE = 1024 * 1024;

function report(what: string, bytes: number, startMs: number): void {
  const seconds = (performance.now() - startMs) / 1000;
  const rate = bytes / 1e6 / seconds;
  process.stdout.write(
    `${what.padEnd(52)} ${(seconds * 1000).toFixed(0).padStart(6)} ms ${rate.toFixed(0).padStart(6)} MB/s\n`,
  );
}

/** Frames of a record of `parts` Parts of `partBytes`. */
function makeFrames(sequence: number, previousDigest: Uint8Array, parts: number, partBytes: number) {
  const frames = Array.from({ length: parts }, (_, tensor) => {
    const payload = new Uint8Array(partBytes).fill(sequence + tensor);
    return Envelope.encode({
      part: { stream: 6, step: sequence, tensor, codec: 1, totalBytes: partBytes, payload },
    }).finish();
  });
  const digest = recordDigest(previousDigest, sequence, sequence, frames);
  const commit = { sequence, step: sequence, previousDigest, digest, update: { learningRate: 0.1 } };
  return { frames: [...frames, Envelope.encode({ commit }).finish()], digest };
}

async function benchAppend(dir: string, records: number, parts: number, partBytes: number): Promise<void> {
  const journal = await Journal.open(dir, () => {});
  let digest = FIRST_DIGEST;
  const times: number[] = [];
  const bytes = parts * partBytes;
  for (let sequence = 1; sequence <= records; sequence++) {
    const record = makeFrames(sequence, digest, parts, partBytes);
    digest = record.digest;
    const startMs = performance.now();
    await journal.append(record.frames, { sequence, step: sequence, digest, kind: 'update' });
    times.push(performance.now() - startMs);
  }
  const median = times.toSorted((a, b) => a - b)[times.length >> 1] as number;
  report(`append ${(bytes / 1e6).toFixed(2)} MB, median of ${records}`, bytes, performance.now() - median);
  const readMs = performance.now();
  for await (const frame of journal.frames(1)) if (frame.length === 0) throw new Error('empty frame');
  report('read all records back', records * bytes, readMs);
  await journal.close();
  const openMs = performance.now();
  await (await Journal.open(dir, () => {})).close();
  report('open again, every byte checked', records * bytes, openMs);
}

/** What the disk itself does: the same bytes, one write and one sync. */
async function benchDisk(path: string, bytes: number): Promise<void> {
  const handle = await open(path, 'w');
  const buffer = new Uint8Array(bytes).fill(1);
  const times: number[] = [];
  for (let i = 0; i < 9; i++) {
    const startMs = performance.now();
    await handle.write(buffer, 0, bytes, i * bytes);
    await handle.datasync();
    times.push(performance.now() - startMs);
  }
  await handle.close();
  const median = times.toSorted((a, b) => a - b)[4] as number;
  report(`plain write and fdatasync of ${(bytes / 1e6).toFixed(2)} MB`, bytes, performance.now() - median);
}

async function benchCheckpoint(dir: string): Promise<void> {
  const shape = [58, 1000, 1000];
  const tensors = ['weights/w', 'm/w', 'v/w'].map((name) => ({ name, shape }));
  const total = 4 * 58e6;
  const piece = new Uint8Array(MEBIBYTE).fill(3);
  const startMs = performance.now();
  const writer = await beginCheckpoint(dir, 1, tensors, { configJson: '{}' });
  for (let tensor = 0; tensor < 3; tensor++) {
    for (let offset = 0; offset < total; offset += MEBIBYTE) {
      await writer.write(tensor, offset, piece.subarray(0, Math.min(MEBIBYTE, total - offset)));
    }
  }
  const facts = {
    runId: 'bench',
    name: 'bench',
    step: 1,
    sequence: 1,
    digest: '0'.repeat(64),
    refreshedStep: 0,
    seed: 0,
  };
  const run = { ...facts, cursor: { next: 0, returned: [] }, schedulePosition: 1, members: [], created: '' };
  await writer.finish(run);
  report('write a checkpoint (58M parameters, weights, m, v)', 3 * total, startMs);
  const openMs = performance.now();
  await (await openCheckpoint(dir, 1)).close();
  report('open it, every byte checked', 3 * total, openMs);
}

const parent = process.argv[2] ?? tmpdir();
const dir = await mkdtemp(join(parent, 'galore-bench-'));
try {
  await benchDisk(join(dir, 'plain'), 40 * MEBIBYTE);
  await benchAppend(join(dir, 'large'), 15, 40, MEBIBYTE);
  await benchDisk(join(dir, 'plain'), 64 * 1024);
  await benchAppend(join(dir, 'small'), 200, 4, 16 * 1024);
  await benchCheckpoint(join(dir, 'checkpoints'));
  process.stdout.write(`peak memory ${(process.resourceUsage().maxRSS / 1024).toFixed(0)} MiB\n`);
} finally {
  await rm(dir, { recursive: true, force: true });
}
