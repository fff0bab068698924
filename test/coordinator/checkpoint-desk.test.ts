import { renameSync, rmSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { CheckpointDesk } from '../../src/coordinator/checkpoint-desk.ts';
import type { Connection } from '../../src/coordinator/connection.ts';
import type { Fact } from '../../src/coordinator/dispatch.ts';
import { thisHolder } from '../../src/coordinator/open-authority.ts';
import type { PreparedRun } from '../../src/coordinator/prepare-run.ts';
import { FileStateStore } from '../../src/coordinator/store/file-store.ts';
import type { Journal } from '../../src/coordinator/store/journal.ts';
import { storeClock } from '../../src/coordinator/store/store-clock.ts';
import { Session } from '../../src/coordinator/session.ts';
import { describeCheckpoint, openCheckpoint } from '../../src/coordinator/store/checkpoint.ts';
import { ProtocolError } from '../../src/errors.ts';
import { localTensors, stateTensors } from '../../src/galore/state-table.ts';
import { SILENT_LOGGER } from '../../src/log.ts';
import { FIRST_DIGEST } from '../../src/protocol/digest.ts';
import type { Message, PartMessage } from '../../src/protocol/messages.ts';
import { temporaryDir } from '../temporary-dir.ts';
import { runFacts, writeCheckpoint } from './store/checkpoints.ts';
import { bytesFor, partsOf, tinyRun } from './tiny-run.ts';

/** What is around a desk that only opens checkpoints. */
const IDLE = { dispatch: () => {}, onReport: () => {}, logger: SILENT_LOGGER, nowMs: () => 0 };
const PLAIN = tinyRun('checkpoint.keep=1');
const { config, shape } = PLAIN;
const STEP = 3;
const UPLOAD: readonly PartMessage[] = stateTensors(shape.slots).flatMap(({ totalBytes }, tensor) =>
  partsOf(
    { stream: 'snapshot', step: STEP, round: 0, tensor },
    bytesFor({ codec: 'f32', totalBytes }, tensor),
  ),
);

async function startDesk(
  t: ExecutionContext,
  prune: () => Promise<void> = () => Promise.resolve(),
  { config, shape } = PLAIN,
) {
  const checkpointsDir = join(temporaryDir(t), 'checkpoints');
  const newestCheckpoint = await writeCheckpoint(checkpointsDir, 1);
  const journal = { digestOf: () => FIRST_DIGEST, startSegment: prune, removeSegmentsBefore: prune };
  const run = {
    config,
    shape,
    checkpointsDir,
    texts: { configJson: '{}' },
    dataset: { train: { count: 8 } },
    runId: 'r',
    journal,
    authority: FileStateStore.leading(
      dirname(checkpointsDir),
      journal as unknown as Journal,
      thisHolder(),
      storeClock,
    ),
    newestCheckpoint,
    verified: new Map<number, string>(),
  };
  const facts: Fact[] = [];
  const awaited = new Set<string>();
  const received: string[] = [];
  const told: { weightsSha256: string | null } = { weightsSha256: null };
  const lose = (trainerId: string): void => {
    if (!awaited.delete(trainerId) || awaited.size > 0) return;
    desk.write({
      type: 'writeCheckpoint',
      step: STEP,
      trainerIds: received,
      weightsSha256: told.weightsSha256,
    });
  };
  const desk = new CheckpointDesk(run as unknown as PreparedRun, {
    dispatch: (fact) => {
      facts.push(fact);
      // As the core does: once nobody is waited for, everything is written.
      if (fact.type !== 'snapshotReceived') return;
      received.push(fact.trainerId);
      lose(fact.trainerId);
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
        null,
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
  return { desk, facts, checkpointsDir, joining, lose, told };
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

test('weights that are not those whose hash was told make no checkpoint', async (t) => {
  const { desk, facts, checkpointsDir, joining, told } = await startDesk(t);
  told.weightsSha256 = 'ab'.repeat(32);
  const a = joining('a');
  a.request();
  await a.flushed();
  for (const part of UPLOAD) a.send(part);
  a.end();
  await desk.close();
  const failed = facts.at(-1);
  t.is(failed?.type, 'checkpointFailed');
  t.regex(
    desk.failure!,
    /the weights that came for step 3 are not those that were told of: .*, not abababab$/,
  );
  t.deepEqual(await readdir(checkpointsDir), ['step-000001']);
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
  b.end(); // of the request that was given up
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
  const run = { config, shape, checkpointsDir, newestCheckpoint, verified: new Map() };
  const checkpoint = await new CheckpointDesk(run as unknown as PreparedRun, IDLE).openNewest();
  t.is(checkpoint?.step, 2);
  await checkpoint?.close();
});

test('a join goes on with the checkpoint it began with, if that is there and the journal goes on from it', async (t) => {
  const checkpointsDir = join(temporaryDir(t), 'checkpoints');
  for (const step of [1, 2]) await writeCheckpoint(checkpointsDir, step);
  const { sequence, digest: hex } = runFacts(1);
  const digest = new Uint8Array(Buffer.from(hex, 'hex'));
  const journal = { digestOf: (asked: number) => (asked === sequence ? digest : null) };
  const run = { config, shape, checkpointsDir, journal, runId: 'r' } as unknown as PreparedRun;
  const desk = new CheckpointDesk(run, IDLE);
  const progress = { runId: 'r', sequence, digest, tensors: 1 };
  const opened = await desk.openContinued(progress);
  t.is(opened?.step, 1);
  await opened?.close();
  for (const other of [{ runId: 'other' }, { sequence: sequence + 1 }, { digest: new Uint8Array(32) }]) {
    t.is(await desk.openContinued({ ...progress, ...other }), null, JSON.stringify(other));
  }
  rmSync(join(checkpointsDir, 'step-000001', 'model.safetensors'));
  t.is(await desk.openContinued(progress), null);
});

const POWER = tinyRun('checkpoint.keep=1', 'method.name=power', 'method.rank=2');
const SHARED = stateTensors(POWER.shape.slots);
const LOCAL = localTensors(POWER.shape.slots);

/** What a trainer sends of its own; `salt` makes it another's. */
function localUpload(salt: number, step = STEP): readonly PartMessage[] {
  return LOCAL.flatMap(({ totalBytes, dtype }, i) =>
    partsOf(
      { stream: 'snapshot', step, round: 0, tensor: SHARED.length + i },
      bytesFor({ codec: 'f32', totalBytes }, salt, i),
    ).map((part) => ({ ...part, codec: dtype })),
  );
}

function sharedUpload(): readonly PartMessage[] {
  return SHARED.flatMap(({ totalBytes, dtype }, tensor) =>
    partsOf(
      { stream: 'snapshot', step: STEP, round: 0, tensor },
      bytesFor({ codec: 'f32', totalBytes }, tensor),
    ).map((part) => ({ ...part, codec: dtype })),
  );
}

test('what each trainer keeps is in the checkpoint, in a file of its own, and read back for it alone', async (t) => {
  const { desk, checkpointsDir, joining } = await startDesk(t, undefined, POWER);
  const [a, b, c] = [joining('a'), joining('b'), joining('c')];
  a.request();
  b.requestLocal();
  c.requestLocal();
  await Promise.all([a.flushed(), b.flushed(), c.flushed()]);
  t.deepEqual(b.sent, [{ kind: 'snapshotRequest', step: STEP, sequence: 6, isLocalOnly: true }]);
  for (const part of localUpload(2)) b.send(part);
  b.end();
  for (const part of [...sharedUpload(), ...localUpload(1)]) a.send(part);
  a.end();
  c.end(); // it keeps nothing yet
  await desk.close();
  const path = join(checkpointsDir, 'step-000003');
  t.deepEqual((await readdir(join(path, 'feedback'))).sort(), ['a.safetensors', 'b.safetensors']);
  const described = await describeCheckpoint(checkpointsDir, STEP);
  t.deepEqual(Object.keys(described.feedbackBytes), ['a', 'b']);
  for (const [trainerId, salt] of [
    ['a', 1],
    ['b', 2],
    ['c', null],
  ] as const) {
    const checkpoint = await openCheckpoint(checkpointsDir, STEP);
    await checkpoint.includeFeedback(trainerId);
    const local = checkpoint.tensors.slice(SHARED.length);
    t.is(local.length, salt === null ? 0 : LOCAL.length);
    for (const [i, { name, totalBytes, dtype }] of local.entries()) {
      const at = LOCAL.findIndex((tensor) => name === `local/${tensor.name}`);
      t.is(dtype, LOCAL[at]!.dtype);
      const sent = bytesFor({ codec: 'f32', totalBytes }, salt!, at);
      t.deepEqual(await checkpoint.read(SHARED.length + i, 0, totalBytes), sent, name);
    }
    await checkpoint.close();
  }
});

test('what is not what a trainer keeps, or comes twice or unasked, is refused, and the checkpoint goes without it', async (t) => {
  const { desk, facts, checkpointsDir, joining, lose } = await startDesk(t, undefined, POWER);
  const a = joining('a');
  a.request();
  const hostile = Array.from({ length: 6 }, (_, i) => joining(`h${i}`));
  for (const trainer of hostile) trainer.requestLocal();
  await Promise.all([a, ...hostile].map((trainer) => trainer.flushed()));
  const [first, ...rest] = localUpload(3) as [PartMessage, ...PartMessage[]];
  const wrong: readonly Partial<PartMessage>[] = [
    { totalBytes: first.totalBytes + 4 },
    { codec: first.codec === 'u8' ? 'f32' : 'u8' },
    { tensor: SHARED.length + LOCAL.length },
    { tensor: 0 },
    { step: STEP - 1 },
  ];
  const refused = { instanceOf: ProtocolError, message: /expected tensor/ };
  for (const [i, fields] of wrong.entries()) {
    t.throws(() => hostile[i]!.send({ ...first, ...fields }), refused, JSON.stringify(fields));
    lose(`h${i}`);
  }
  const twice = hostile[5]!;
  for (const part of [first, ...rest]) twice.send(part);
  t.throws(() => twice.send(rest.at(-1) ?? first), refused);
  lose('h5');
  const stranger = joining('stranger');
  t.throws(() => stranger.send(first), { instanceOf: ProtocolError, message: /not asked for/ });
  for (const part of sharedUpload()) a.send(part);
  for (const part of localUpload(1).slice(0, -1)) a.send(part);
  t.throws(() => a.end(), { message: /before all tensors/ }, 'half of what it keeps is nothing');
  await desk.abandon();
  t.false(facts.some(({ type }) => type === 'snapshotReceived'));

  const b = joining('b');
  b.request();
  const half = joining('half');
  half.requestLocal();
  await Promise.all([b.flushed(), half.flushed()]);
  half.send(first);
  lose('half');
  for (const part of [...sharedUpload(), ...localUpload(1)]) b.send(part);
  b.end();
  await desk.close();
  t.is(facts.at(-1)?.type, 'checkpointWritten');
  t.deepEqual(await readdir(join(checkpointsDir, 'step-000003', 'feedback')), ['b.safetensors']);
});

test('the end of what was asked for before is not taken for that of a request that is yet to be sent', async (t) => {
  const { desk, facts, joining } = await startDesk(t);
  const [a, b] = [joining('a'), joining('b')];
  a.request();
  b.requestLocal();
  await b.flushed();
  void desk.abandon();
  // The files of the next one are being made: b has not been asked yet, and answers what it was asked before.
  b.request();
  b.end();
  await b.flushed();
  for (const part of UPLOAD) b.send(part);
  b.end();
  await desk.close();
  t.is(facts.at(-1)?.type, 'checkpointWritten');
  t.is(b.sent.length, 2);
});

test('what is still on its way for a checkpoint that was given up does not spoil the next one of the same step', async (t) => {
  const { desk, checkpointsDir, joining } = await startDesk(t, undefined, POWER);
  const [a, b] = [joining('a'), joining('b')];
  a.request();
  b.requestLocal();
  await Promise.all([a.flushed(), b.flushed()]);
  const parts = localUpload(2);
  b.send(parts[0]!);
  await desk.abandon(); // a is lost
  b.send(parts[1]!);
  b.request();
  await b.flushed();
  b.send(parts[2]!);
  b.end(); // of the first request
  for (const part of [...sharedUpload(), ...parts]) b.send(part);
  b.end();
  await desk.close();
  t.deepEqual(await readdir(join(checkpointsDir, 'step-000003', 'feedback')), ['b.safetensors']);
});
