import { readFile, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import type { ExecutionContext } from 'ava';
import { CheckpointError } from '../../../src/errors.ts';
import { FIRST_DIGEST } from '../../../src/protocol/digest.ts';
import { Journal } from '../../../src/coordinator/store/journal.ts';
import { temporaryDir } from '../../temporary-dir.ts';
import { collect, framesOf, makeRecord, makeRecords } from './records.ts';
import type { TestRecord } from './records.ts';

const unexpected = (text: string): never => {
  throw new Error(`unexpected notice: ${text}`);
};

async function openJournal(t: ExecutionContext, dir: string): Promise<Journal> {
  const journal = await Journal.open(dir, unexpected);
  t.teardown(() => journal.close());
  return journal;
}

async function appendAll(journal: Journal, records: readonly TestRecord[]): Promise<void> {
  for (const { frames, summary } of records) await journal.append(frames, summary);
}

test('an empty journal has no head and expects record 1', async (t) => {
  const journal = await openJournal(t, join(temporaryDir(t), 'journal'));
  t.is(journal.head, null);
  t.is(journal.nextSequence, 1);
  t.deepEqual(journal.digestOf(0), FIRST_DIGEST);
  t.is(journal.digestOf(1), null);
  t.deepEqual(await collect(journal.frames(1)), []);
});

test('records come back byte for byte after the journal was opened again', async (t) => {
  const dir = temporaryDir(t);
  const records = makeRecords(3, { partBytes: [0, 1000, 70_000] });
  const first = await openJournal(t, dir);
  await appendAll(first, records);
  t.deepEqual(await collect(first.frames(1)), framesOf(...records));
  await first.close();
  const second = await openJournal(t, dir);
  t.deepEqual(await collect(second.frames(1)), framesOf(...records));
  t.deepEqual(await collect(second.readRecord(2)), framesOf(records[1]!));
  t.deepEqual(second.digestOf(3), records[2]!.summary.digest);
  t.deepEqual(second.head, first.head);
});

test('the head tells a restart the step, the cursor and whether bases are committed already', async (t) => {
  const dir = temporaryDir(t);
  const journal = await openJournal(t, dir);
  const basis = makeRecord(1, { kind: 'basis', step: 1 });
  await appendAll(journal, [basis]);
  t.like(journal.head, { sequence: 1, step: 0, refreshedStep: 1, cursor: null, lastUpdate: null });
  const update = makeRecord(2, { step: 1, previousDigest: basis.summary.digest });
  await appendAll(journal, [update]);
  const members = [
    { trainerId: 'a', tokens: 60 },
    { trainerId: 'b', tokens: 40 },
  ];
  const expected = { sequence: 2, step: 1, refreshedStep: 1, cursor: { next: 3, returned: [1] } };
  t.like(journal.head, expected);
  t.like(journal.head?.lastUpdate, { step: 1, learningRate: 0.01, tokens: 100, lossSum: 250, members });
  const nextBasis = makeRecord(3, { kind: 'basis', step: 2, previousDigest: update.summary.digest });
  await appendAll(journal, [nextBasis]);
  await journal.close();
  const again = await openJournal(t, dir);
  t.like(again.head, { sequence: 3, step: 1, refreshedStep: 2, cursor: { next: 3, returned: [1] } });
});

test('a file begins with the header that docs/state.md shows', async (t) => {
  const dir = temporaryDir(t);
  const journal = await openJournal(t, dir);
  await appendAll(journal, makeRecords(1));
  const bytes = await readFile(join(dir, '0000000001.log'));
  t.is(bytes.subarray(0, 16).toString('hex'), `${Buffer.from('GALOREJL').toString('hex')}0100000001000000`);
  t.is(bytes.readUInt32LE(16), makeRecords(1)[0]!.frames[0]!.length);
});

test('a record out of order is an assertion failure and changes nothing', async (t) => {
  const journal = await openJournal(t, temporaryDir(t));
  const [first, second] = makeRecords(2) as [TestRecord, TestRecord];
  await t.throwsAsync(journal.append(second.frames, second.summary), { name: 'AssertionError' });
  await appendAll(journal, [first]);
  await t.throwsAsync(journal.append(first.frames, first.summary), { name: 'AssertionError' });
  await appendAll(journal, [second]);
  t.is(journal.head?.sequence, 2);
});

test('a record that contradicts its Commit, its chain or its form is an assertion failure', async (t) => {
  const journal = await openJournal(t, temporaryDir(t));
  const { frames, summary } = makeRecord(1);
  const refused = async (badFrames: readonly Uint8Array[], badSummary: typeof summary): Promise<void> => {
    await t.throwsAsync(journal.append(badFrames, badSummary), { name: 'AssertionError' });
  };
  await refused(frames, { ...summary, step: 2 });
  await refused(frames, { ...summary, kind: 'basis' });
  await refused(frames, { ...summary, digest: new Uint8Array(32) });
  await refused(frames.slice(0, -1), summary);
  await refused([], summary);
  await refused([...frames.slice(-1), ...frames], summary);
  const stray = makeRecord(1, { previousDigest: new Uint8Array(32).fill(1) });
  await refused(stray.frames, stray.summary);
  t.is(journal.head, null);
});

test('a slow reader is fed record by record while appends continue', async (t) => {
  const journal = await openJournal(t, temporaryDir(t));
  const records = makeRecords(6);
  await appendAll(journal, records.slice(0, 3));
  const seen: Buffer[] = [];
  let next = 1;
  while (next < journal.nextSequence) {
    for await (const frame of journal.readRecord(next)) {
      seen.push(Buffer.from(frame));
      const following = records[journal.nextSequence - 1];
      if (following !== undefined) await journal.append(following.frames, following.summary);
    }
    next++;
  }
  t.deepEqual(seen, framesOf(...records));
});

test('frames() ends at the head of the time of the call', async (t) => {
  const journal = await openJournal(t, temporaryDir(t));
  const records = makeRecords(3);
  await appendAll(journal, records.slice(0, 2));
  const frames = journal.frames(1);
  const first = await frames.next();
  await appendAll(journal, records.slice(2));
  const rest = await collect(frames);
  t.deepEqual([Buffer.from(first.value as Uint8Array), ...rest], framesOf(...records.slice(0, 2)));
});

test('appends asked for at once are written in order', async (t) => {
  const journal = await openJournal(t, temporaryDir(t));
  const records = makeRecords(5);
  await Promise.all(records.map(({ frames, summary }) => journal.append(frames, summary)));
  t.deepEqual(await collect(journal.frames(1)), framesOf(...records));
});

test('segments are begun and removed, and readers of a removed one go on', async (t) => {
  const dir = temporaryDir(t);
  const journal = await openJournal(t, dir);
  const records = makeRecords(6);
  await journal.startSegment(); // nothing to separate yet
  await appendAll(journal, records.slice(0, 2));
  await journal.startSegment();
  await journal.startSegment(); // the new one is empty
  await appendAll(journal, records.slice(2, 4));
  await journal.startSegment();
  await appendAll(journal, records.slice(4));
  t.deepEqual((await readdir(dir)).sort(), ['0000000001.log', '0000000003.log', '0000000005.log']);

  const reader = journal.readRecord(2);
  const firstFrame = await reader.next();
  await journal.removeSegmentsBefore(3);
  t.deepEqual((await readdir(dir)).sort(), ['0000000003.log', '0000000005.log']);
  const rest = await collect(reader);
  t.deepEqual([Buffer.from(firstFrame.value as Uint8Array), ...rest], framesOf(records[1]!));

  t.is(journal.digestOf(1), null);
  t.deepEqual(journal.digestOf(2), records[1]!.summary.digest);
  t.is(journal.firstSequence, 3);
  await t.throwsAsync(collect(journal.readRecord(2)), {
    instanceOf: CheckpointError,
    message: /record 2 is not in the journal: it holds 3 to 6/,
  });
  await journal.removeSegmentsBefore(4); // record 4 shares its segment with 3
  t.is(journal.firstSequence, 3);
  await journal.removeSegmentsBefore(100); // the last one always stays
  t.deepEqual(await readdir(dir), ['0000000005.log']);
  await journal.close();

  const again = await openJournal(t, dir);
  t.deepEqual(await collect(again.frames(5)), framesOf(...records.slice(4)));
  t.deepEqual(again.digestOf(4), records[3]!.summary.digest);
  t.is(again.nextSequence, 7);
});

test('a journal whose records were all removed goes on where it was', async (t) => {
  const dir = temporaryDir(t);
  const journal = await openJournal(t, dir);
  const records = makeRecords(3);
  await appendAll(journal, records.slice(0, 2));
  await journal.startSegment();
  await journal.removeSegmentsBefore(3);
  t.deepEqual(journal.digestOf(2), records[1]!.summary.digest);
  await journal.close();
  const again = await openJournal(t, dir);
  t.is(again.head, null);
  t.is(again.nextSequence, 3);
  t.is(again.digestOf(2), null);
  again.setBaseDigest(records[1]!.summary.digest);
  t.deepEqual(again.digestOf(2), records[1]!.summary.digest);
  await appendAll(again, records.slice(2));
  t.deepEqual(await collect(again.frames(3)), framesOf(records[2]!));
});

test('a journal that lost its records starts over behind the checkpoint', async (t) => {
  const dir = temporaryDir(t);
  const journal = await openJournal(t, dir);
  const records = makeRecords(5);
  await appendAll(journal, records.slice(0, 2));
  const { digest } = records[3]!.summary;
  await t.throwsAsync(journal.restartAfter(1, records[0]!.summary.digest), { name: 'AssertionError' });
  await journal.restartAfter(4, digest);
  t.deepEqual(await readdir(dir), ['0000000005.log']);
  t.deepEqual(journal.digestOf(4), digest);
  await appendAll(journal, records.slice(4));
  await journal.close();
  const again = await openJournal(t, dir);
  t.is(again.head?.sequence, 5);
});

test('a closed journal refuses work and can be closed again', async (t) => {
  const journal = await openJournal(t, temporaryDir(t));
  const { frames, summary } = makeRecord(1);
  await journal.close();
  await journal.close();
  t.throws(() => journal.append(frames, summary), { name: 'AssertionError' });
});

test('a record of many parts is written and read whole', async (t) => {
  const journal = await openJournal(t, temporaryDir(t));
  const record = makeRecord(1, { partBytes: Array.from({ length: 2000 }, (_, i) => i % 50) });
  await journal.append(record.frames, record.summary);
  t.deepEqual(await collect(journal.frames(1)), framesOf(record));
});
