import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { CheckpointJob } from '../../src/coordinator/checkpoint-job.ts';
import {
  beginCheckpoint,
  openCheckpoint,
  type CheckpointWriter,
} from '../../src/coordinator/store/checkpoint.ts';
import { ProtocolError } from '../../src/errors.ts';
import { stateTensors } from '../../src/galore/state-table.ts';
import { CLOSE_CODES } from '../../src/protocol/close-codes.ts';
import type { PartMessage } from '../../src/protocol/messages.ts';
import { temporaryDir } from '../temporary-dir.ts';
import { runFacts } from './store/checkpoints.ts';
import { bytesFor, partsOf, tinyRun } from './tiny-run.ts';

const TABLE = stateTensors(tinyRun().shape.slots);
const STEP = 3;

/** The whole upload, each tensor in pieces of 100 bytes. */
function upload(): PartMessage[] {
  return TABLE.flatMap(({ totalBytes }, tensor) => {
    const bytes = bytesFor({ codec: 'f32', totalBytes }, 'state', tensor);
    return partsOf({ stream: 'snapshot', step: STEP, round: 0, tensor }, bytes, 100);
  });
}

async function startIntake(
  t: ExecutionContext,
  change: (writer: CheckpointWriter) => CheckpointWriter = (w) => w,
) {
  const dir = join(temporaryDir(t), 'checkpoints');
  const writer = await beginCheckpoint(dir, STEP, TABLE, { configJson: '{}' });
  const contents = { facts: runFacts(STEP), shared: TABLE, local: [] };
  const job = new CheckpointJob(contents, Promise.resolve(change(writer)));
  job.expect('a', false);
  return { dir, job, intake: job.intakeOf('a')! };
}

test('an upload becomes a checkpoint with the same bytes', async (t) => {
  const { dir, job, intake } = await startIntake(t);
  for (const part of upload()) {
    t.false(intake.isComplete);
    intake.accept(part);
  }
  t.true(intake.isComplete);
  await job.finish(['a']);
  const checkpoint = await openCheckpoint(dir, STEP);
  t.teardown(() => checkpoint.close());
  for (const [index, { name, totalBytes }] of checkpoint.tensors.entries()) {
    const sent = bytesFor(
      { codec: 'f32', totalBytes },
      'state',
      TABLE.findIndex((tensor) => tensor.name === name),
    );
    t.deepEqual(await checkpoint.read(index, 0, totalBytes), sent, name);
  }
});

test('a part that is not the next one is refused', async (t) => {
  const [first, second] = upload() as [PartMessage, PartMessage];
  const { job, intake } = await startIntake(t);
  intake.accept(first);
  const wrong: Partial<PartMessage>[] = [
    { offset: 0 },
    { offset: second.offset + 100 },
    { tensor: 1 },
    { tensor: 9999 },
    { step: STEP + 1 },
    { codec: 'int8' },
    { totalBytes: second.totalBytes + 4 },
    { payload: new Uint8Array(second.totalBytes) },
  ];
  for (const fields of wrong) {
    const error = t.throws(() => intake.accept({ ...second, ...fields }), { instanceOf: ProtocolError });
    t.is(error?.closeCode, CLOSE_CODES.UNEXPECTED_MESSAGE.code, JSON.stringify(fields));
  }
  t.notThrows(() => intake.accept(second));
  await job.abandon();
});

test('nothing may follow the last tensor', async (t) => {
  const { job, intake } = await startIntake(t);
  const parts = upload();
  for (const part of parts) intake.accept(part);
  t.throws(() => intake.accept({ ...parts.at(-1)!, tensor: TABLE.length }), { instanceOf: ProtocolError });
  await job.finish(['a']);
});

test('an upload that is given up leaves nothing on disk', async (t) => {
  const { dir, job, intake } = await startIntake(t);
  for (const part of upload().slice(0, 5)) intake.accept(part);
  await job.abandon();
  t.deepEqual(await readdir(dir), []);
});

test('when a piece or the end cannot be written the first error is told and nothing is left', async (t) => {
  const failing = () => Promise.reject(new Error('the disk is full'));
  for (const method of ['write', 'finish'] as const) {
    const { dir, job, intake } = await startIntake(t, (writer) => ({
      step: writer.step,
      write: writer.write.bind(writer),
      beginFeedback: writer.beginFeedback.bind(writer),
      finish: writer.finish.bind(writer),
      abandon: writer.abandon.bind(writer),
      [method]: failing,
    }));
    for (const part of upload()) intake.accept(part);
    await t.throwsAsync(job.finish(['a']), { message: 'the disk is full' });
    t.deepEqual(await readdir(dir), [], method);
  }
});
