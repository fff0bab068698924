import test from 'ava';
import type { ExecutionContext } from 'ava';
import { CheckpointError } from '../../../src/errors.ts';
import type { RunFacts } from '../../../src/coordinator/store/checkpoint.ts';
import { Journal } from '../../../src/coordinator/store/journal.ts';
import { findResumePoint } from '../../../src/coordinator/store/resume-point.ts';
import { temporaryDir } from '../../temporary-dir.ts';
import { runFacts } from './checkpoints.ts';
import { makeRecord, makeRecords } from './records.ts';
import type { TestRecord } from './records.ts';

const unexpected = (text: string): never => {
  throw new Error(`unexpected notice: ${text}`);
};

async function journalWith(t: ExecutionContext, records: readonly TestRecord[]): Promise<Journal> {
  const journal = await Journal.open(temporaryDir(t), unexpected);
  t.teardown(() => journal.close());
  for (const { frames, summary } of records) await journal.append(frames, summary);
  return journal;
}

/** Facts of a checkpoint made right after a record. */
function factsAfter(record: TestRecord | null, step: number): RunFacts {
  const digest = record === null ? '00'.repeat(32) : Buffer.from(record.summary.digest).toString('hex');
  return { ...runFacts(step), sequence: record?.summary.sequence ?? 0, digest };
}

test('a fresh run starts from the checkpoint of step 0', async (t) => {
  const journal = await journalWith(t, []);
  const point = await findResumePoint(factsAfter(null, 0), journal, unexpected);
  t.like(point, { step: 0, sequence: 0, refreshedStep: 0, cursor: { next: 0, returned: [1] } });
});

test('the journal behind the checkpoint decides step and cursor', async (t) => {
  const records = makeRecords(3);
  const journal = await journalWith(t, records);
  const point = await findResumePoint(factsAfter(records[0]!, 1), journal, unexpected);
  t.like(point, { step: 3, sequence: 3, refreshedStep: 1, cursor: { next: 9, returned: [1] } });
  t.deepEqual(point.digest, records[2]!.summary.digest);
});

test('bases behind the checkpoint are remembered, and the cursor stays the checkpoint’s', async (t) => {
  const [first] = makeRecords(1) as [TestRecord];
  const basis = makeRecord(2, { kind: 'basis', step: 2, previousDigest: first.summary.digest });
  const journal = await journalWith(t, [first, basis]);
  const facts = factsAfter(first, 1);
  const point = await findResumePoint({ ...facts, cursor: { next: 44, returned: [] } }, journal, unexpected);
  t.like(point, { step: 1, sequence: 2, refreshedStep: 2, cursor: { next: 44, returned: [] } });
});

test('a journal emptied after the checkpoint knows the digest again', async (t) => {
  const records = makeRecords(2);
  const journal = await journalWith(t, records);
  await journal.startSegment();
  await journal.removeSegmentsBefore(3);
  await journal.close();
  const again = await Journal.open(journal.path, unexpected);
  t.teardown(() => again.close());
  t.is(again.digestOf(2), null);
  const point = await findResumePoint(factsAfter(records[1]!, 2), again, unexpected);
  t.like(point, { step: 2, sequence: 2, cursor: { next: 8, returned: [1] } });
  t.deepEqual(again.digestOf(2), records[1]!.summary.digest);
});

test('a journal that ends before the checkpoint is started over, saying so', async (t) => {
  const records = makeRecords(4);
  const journal = await journalWith(t, records.slice(0, 2));
  const notices: string[] = [];
  const point = await findResumePoint(factsAfter(records[2]!, 3), journal, (text) => notices.push(text));
  t.like(point, { step: 3, sequence: 3 });
  t.is(notices.length, 1);
  t.regex(notices[0]!, /ends at record 2, the checkpoint of step 3 at record 3; started over/);
  await journal.append(records[3]!.frames, records[3]!.summary);
  t.is(journal.head?.sequence, 4);
});

test('a journal that begins after the checkpoint, or another run’s, is refused', async (t) => {
  const records = makeRecords(4);
  const journal = await journalWith(t, records.slice(0, 2));
  await journal.startSegment();
  await journal.append(records[2]!.frames, records[2]!.summary);
  await journal.removeSegmentsBefore(3);
  await t.throwsAsync(findResumePoint(factsAfter(records[0]!, 1), journal, unexpected), {
    instanceOf: CheckpointError,
    message: /records 2 to 2 are missing between the checkpoint of step 1 and the journal/,
  });
  const foreign = { ...factsAfter(records[2]!, 3), digest: 'cd'.repeat(32) };
  await t.throwsAsync(findResumePoint(foreign, journal, unexpected), {
    instanceOf: CheckpointError,
    message: /record 3 is not the one the checkpoint of step 3 was made after/,
  });
});
