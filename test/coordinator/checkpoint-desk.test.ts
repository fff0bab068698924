import { renameSync, rmSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { CheckpointDesk } from '../../src/coordinator/checkpoint-desk.ts';
import type { Connection } from '../../src/coordinator/connection.ts';
import type { Fact } from '../../src/coordinator/dispatch.ts';
import type { PreparedRun } from '../../src/coordinator/prepare-run.ts';
import { Session } from '../../src/coordinator/session.ts';
import { ProtocolError } from '../../src/errors.ts';
import { stateTensors } from '../../src/galore/state-table.ts';
import { SILENT_LOGGER } from '../../src/log.ts';
import { FIRST_DIGEST } from '../../src/protocol/digest.ts';
import type { Message, PartMessage } from '../../src/protocol/messages.ts';
import { temporaryDir } from '../temporary-dir.ts';
import { writeCheckpoint } from './store/checkpoints.ts';
import { bytesFor, partsOf, tinyRun } from './tiny-run.ts';

const { config, shape } = tinyRun('checkpoint.keep=1');
const STEP = 3;
const UPLOAD: readonly PartMessage[] = stateTensors(shape.slots).flatMap(({ totalBytes }, tensor) =>
  partsOf(
    { stream: 'snapshot', step: STEP, round: 0, tensor },
    bytesFor({ codec: 'f32', totalBytes }, tensor),
  ),
);

async function startDesk(t: ExecutionContext, prune = () => Promise.resolve()) {
  const checkpointsDir = join(temporaryDir(t), 'checkpoints');
  const newestCheckpoint = await writeCheckpoint(checkpointsDir, 1);
  const journal = { digestOf: () => FIRST_DIGEST, startSegment: prune, removeSegmentsBefore: prune };
  const run = {
    config,
    shape,
    checkpointsDir,
    texts: { configJson: '{}' },
    runId: 'r',
    journal,
    newestCheckpoint,
  };
  const facts: Fact[] = [];
  const awaited = new Set<string>();
  const received: string[] = [];
  const desk = new CheckpointDesk(run as unknown as PreparedRun, {
    dispatch: (fact) => {
      facts.push(fact);
      // As the core does: once nobody is waited for, everything is written.
      if (fact.type !== 'snapshotReceived' || !awaited.delete(fact.trainerId)) return;
      received.push(fact.trainerId);
      if (awaited.size === 0) desk.write({ type: 'writeCheckpoint', step: STEP, trainerIds: received });
    },
    onReport: () => {},
    logger: SILENT_LOGGER,
    nowMs: () => 0,
  });
  const joining = (trainerId: string) => {
    const sent: Message[] = [];
    const connection = {
      isOpen: true,
      send: (message: Message) => sent.push(message),
    } as unknown as Connection;
    const session = new Session(trainerId, connection, (error) => t.fail(String(error)));
    const request = (): void => {
      awaited.clear();
      awaited.add(trainerId);
      desk.request(
        {
          type: 'requestSnapshot',
          trainerId,
          step: STEP,
          sequence: 6,
          cursor: { next: 0, returned: [] },
          refreshedStep: 1,
          bases: [],
        },
        session,
        [trainerId],
      );
    };
    const send = (part: PartMessage): void => desk.acceptPart(session, part);
    const end = (): void => desk.acceptEnd(session);
    const requestLocal = (): void => {
      awaited.add(trainerId);
      desk.requestLocal(session);
    };
    const flushed = (): Promise<void> => new Promise((resolve) => session.enqueue(resolve));
    return { sent, request, requestLocal, flushed, send, end };
  };
  return { desk, facts, checkpointsDir, joining };
}

test('a trainer is asked for its state and what it sends becomes the newest checkpoint', async (t) => {
  const { desk, facts, checkpointsDir, joining } = await startDesk(t);
  const a = joining('a');
  a.request();
  await a.flushed();
  t.deepEqual(a.sent, [{ kind: 'snapshotRequest', step: STEP, sequence: 6, isLocalOnly: false }]);
  for (const part of UPLOAD) a.send(part);
  a.end();
  await desk.close();
  t.deepEqual(
    facts.map(({ type }) => type).filter((type) => type !== 'snapshotProgressed'),
    ['snapshotReceived', 'checkpointWritten'],
  );
  t.deepEqual(await readdir(checkpointsDir), ['step-000003']);
  t.regex(desk.newest.path, /step-000003$/);
});

test('a trainer lost while the files are being made leaves none, and its heir is asked all the same', async (t) => {
  const { desk, facts, checkpointsDir, joining } = await startDesk(t);
  const [a, b] = [joining('a'), joining('b')];
  b.request();
  await b.flushed(); // b's request is there to see that it is not the order of opening that counts
  await desk.abandon();
  a.request();
  await Promise.resolve(); // the files of a are being made
  await Promise.resolve();
  const abandoned = desk.abandon();
  b.request();
  await Promise.all([a.flushed(), b.flushed(), abandoned]);
  t.deepEqual(a.sent, []);
  t.is(b.sent.length, 2);
  for (const part of UPLOAD) b.send(part);
  b.end();
  await desk.close();
  t.is(facts.at(-1)?.type, 'checkpointWritten');
  t.deepEqual(await readdir(checkpointsDir), ['step-000003']);
});

test('an upload that ends before it is complete, or that nobody asked for, makes no checkpoint', async (t) => {
  const { desk, facts, checkpointsDir, joining } = await startDesk(t);
  const a = joining('a');
  const notAsked = { instanceOf: ProtocolError, message: /not asked for/ };
  t.throws(() => a.send(UPLOAD[0]!), notAsked);
  t.throws(() => a.end(), notAsked);
  a.request();
  await a.flushed();
  a.send(UPLOAD[0]!);
  t.throws(() => a.end(), { instanceOf: ProtocolError, message: /before all tensors/ });
  t.throws(() => a.end(), notAsked);
  await desk.close();
  t.deepEqual(facts, []);
  t.deepEqual(await readdir(checkpointsDir), ['step-000001']);
});

test('a checkpoint that is whole counts though what it makes superfluous cannot be deleted', async (t) => {
  const { desk, facts, joining } = await startDesk(t, () => Promise.reject(new Error('EIO')));
  const a = joining('a');
  a.request();
  await a.flushed();
  for (const part of UPLOAD) a.send(part);
  a.end();
  await desk.close();
  t.is(facts.at(-1)?.type, 'checkpointWritten');
});

test('a trainer can join while the newest checkpoint is replaced by a newer one', async (t) => {
  const folder = temporaryDir(t);
  const checkpointsDir = join(folder, 'checkpoints');
  const { path } = await writeCheckpoint(checkpointsDir, 1);
  await writeCheckpoint(folder, 2);
  rmSync(join(path, 'manifest.json')); // as if it were being deleted
  let looks = 0;
  const newestCheckpoint = {
    // The newer one is there by the time the desk looks again.
    get path() {
      if (++looks === 2) renameSync(join(folder, 'step-000002'), join(checkpointsDir, 'step-000002'));
      return `look ${looks}`;
    },
  };
  const run = { config, shape, checkpointsDir, newestCheckpoint } as unknown as PreparedRun;
  const around = { dispatch: () => {}, onReport: () => {}, logger: SILENT_LOGGER, nowMs: () => 0 };
  const checkpoint = await new CheckpointDesk(run, around).openNewest();
  t.is(checkpoint?.step, 2);
  await checkpoint?.close();
});
