import { copyFile, mkdir, readFile, readdir, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import type { ExecutionContext } from 'ava';
import fc from 'fast-check';
import { CheckpointError } from '../../../src/errors.ts';
import { scanJournal, scanSoundPart } from '../../../src/coordinator/store/journal-scan.ts';
import { Journal } from '../../../src/coordinator/store/journal.ts';
import { temporaryDir } from '../../temporary-dir.ts';
import { collect, framesOf, makeRecord, makeRecords } from './records.ts';
import type { TestRecord } from './records.ts';

const ignore = (): void => {};

/** A journal on disk with these records, one segment for each list. */
async function writeJournal(
  t: ExecutionContext,
  ...segments: readonly (readonly TestRecord[])[]
): Promise<string> {
  const dir = join(temporaryDir(t), 'journal');
  const journal = await Journal.open(dir, ignore);
  for (const [i, records] of segments.entries()) {
    if (i > 0) await journal.startSegment();
    for (const { frames, summary } of records) await journal.append(frames, summary);
  }
  await journal.close();
  return dir;
}

/** Bytes a record takes in the file. */
function sizeOfRecord({ frames }: TestRecord): number {
  return frames.reduce((sum, frame) => sum + 8 + frame.length, 0);
}

const SEGMENT = '0000000001.log';

test('a tail torn at any byte of the last record is cut off, and the journal goes on', async (t) => {
  const records = makeRecords(3);
  const dir = await writeJournal(t, records);
  const path = join(dir, SEGMENT);
  const whole = await readFile(path);
  const lastStart = whole.length - sizeOfRecord(records[2]!);
  for (let length = lastStart; length < whole.length; length++) {
    await writeFile(path, whole.subarray(0, length));
    const notices: string[] = [];
    const journal = await Journal.open(dir, (text) => notices.push(text));
    t.is(journal.head?.sequence, 2);
    const cut = length - lastStart;
    t.is(notices.length, cut === 0 ? 0 : 1);
    if (cut > 0) t.true(notices[0]!.includes(`cut off ${cut} bytes behind record 2`), notices[0]);
    await journal.append(records[2]!.frames, records[2]!.summary);
    await journal.close();
    t.deepEqual(await readFile(path), whole);
  }
});

test('a tail filled with zeros or noise is cut off', async (t) => {
  const records = makeRecords(2);
  const dir = await writeJournal(t, records.slice(0, 1));
  const path = join(dir, SEGMENT);
  const whole = await readFile(path);
  // Noise full of bytes that look like the beginning of a Commit.
  for (const tail of [Buffer.alloc(5000), Buffer.alloc(5000, 0x72), Buffer.alloc(7, 0xff)]) {
    await writeFile(path, Buffer.concat([whole, tail]));
    const notices: string[] = [];
    const journal = await Journal.open(dir, (text) => notices.push(text));
    await journal.close();
    t.is(notices.length, 1);
    t.deepEqual(await readFile(path), whole);
  }
});

test('a last record whose middle never reached the disk is cut off though its end did', async (t) => {
  const records = makeRecords(2, { partBytes: [200, 200] });
  const dir = await writeJournal(t, records);
  const path = join(dir, SEGMENT);
  const bytes = await readFile(path);
  const start = bytes.length - sizeOfRecord(records[1]!);
  bytes.fill(0, start + 20, start + 150);
  await writeFile(path, bytes);
  const notices: string[] = [];
  const journal = await Journal.open(dir, (text) => notices.push(text));
  t.teardown(() => journal.close());
  t.is(journal.head?.sequence, 1);
  t.is((await stat(path)).size, start);
  t.regex(notices[0]!, /an entry whose checksum is wrong at byte/);
});

test('a flipped bit anywhere before the last record is refused by file and byte, and nothing is changed', async (t) => {
  const records = makeRecords(3);
  const dir = await writeJournal(t, records);
  const path = join(dir, SEGMENT);
  const whole = await readFile(path);
  const lastStart = whole.length - sizeOfRecord(records[2]!);
  for (let at = 16; at < lastStart; at++) {
    const bytes = Buffer.from(whole);
    bytes[at] = bytes[at]! ^ (1 << (at % 8));
    await writeFile(path, bytes);
    const error = await t.throwsAsync(
      Journal.open(dir, ignore),
      { instanceOf: CheckpointError },
      `byte ${at}`,
    );
    t.is(error.path, path);
    const named = Number(/damaged at byte (\d+)/.exec(error.message)?.[1]);
    t.true(named <= at && at - named < 200, error.message);
    t.deepEqual(await readFile(path), bytes);
  }
});

test('a flipped bit in the last record costs that record only', async (t) => {
  const records = makeRecords(3);
  const dir = await writeJournal(t, records);
  const path = join(dir, SEGMENT);
  const whole = await readFile(path);
  for (let at = whole.length - sizeOfRecord(records[2]!); at < whole.length; at++) {
    const bytes = Buffer.from(whole);
    bytes[at] = bytes[at]! ^ 0x10;
    await writeFile(path, bytes);
    const journal = await Journal.open(dir, ignore);
    t.is(journal.head?.sequence, 2, `byte ${at}`);
    await journal.close();
  }
});

test('a damaged record is not cut off when the next one was already begun', async (t) => {
  const records = makeRecords(2);
  const dir = await writeJournal(t, records);
  const path = join(dir, SEGMENT);
  const bytes = await readFile(path);
  const start = bytes.length - sizeOfRecord(records[1]!);
  bytes[start + 12] = bytes[start + 12]! ^ 1;
  await writeFile(path, Buffer.concat([bytes, Buffer.alloc(3)]));
  await t.throwsAsync(Journal.open(dir, ignore), {
    instanceOf: CheckpointError,
    message: new RegExp(`damaged at byte ${start}: .* record 2 behind it is complete`),
  });
});

test('a header with any byte changed is refused', async (t) => {
  const dir = await writeJournal(t, makeRecords(1));
  const path = join(dir, SEGMENT);
  const whole = await readFile(path);
  for (let at = 0; at < 16; at++) {
    const bytes = Buffer.from(whole);
    bytes[at] = bytes[at]! ^ 2;
    await writeFile(path, bytes);
    await t.throwsAsync(Journal.open(dir, ignore), { instanceOf: CheckpointError, message: /is damaged: / });
  }
  await truncate(path, 9);
  await t.throwsAsync(Journal.open(dir, ignore), {
    instanceOf: CheckpointError,
    message: /cut short at 9 bytes/,
  });
});

test('a tail torn in a segment that is not the last one is damage', async (t) => {
  const records = makeRecords(4);
  const dir = await writeJournal(t, records.slice(0, 2), records.slice(2));
  await truncate(join(dir, SEGMENT), (await stat(join(dir, SEGMENT))).size - 1);
  await t.throwsAsync(Journal.open(dir, ignore), {
    instanceOf: CheckpointError,
    message: /later segments exist/,
  });
});

test('a missing segment is named', async (t) => {
  const records = makeRecords(6);
  const dir = await writeJournal(t, records.slice(0, 2), records.slice(2, 4), records.slice(4));
  const other = join(dir, '..', 'other');
  await mkdir(other);
  for (const name of await readdir(dir)) {
    if (name !== '0000000003.log') await copyFile(join(dir, name), join(other, name));
  }
  await t.throwsAsync(Journal.open(other, ignore), {
    instanceOf: CheckpointError,
    message: /gap: record 3 should come first/,
  });
});

test('records that do not follow each other are refused', async (t) => {
  const [first, second] = makeRecords(2) as [TestRecord, TestRecord];
  const foreign = makeRecord(2, { previousDigest: new Uint8Array(32).fill(7) });
  const dir = await writeJournal(t, [first]);
  const path = join(dir, SEGMENT);
  const good = await readFile(path);
  const otherDir = join(temporaryDir(t), 'other');
  const other = await Journal.open(otherDir, ignore);
  await other.restartAfter(1, new Uint8Array(32).fill(7));
  await other.append(foreign.frames, foreign.summary);
  await other.close();
  const stray = (await readFile(join(otherDir, '0000000002.log'))).subarray(16);
  await writeFile(path, Buffer.concat([good, stray]));
  await t.throwsAsync(Journal.open(dir, ignore), {
    instanceOf: CheckpointError,
    message: /the digests differ/,
  });
  await writeFile(path, Buffer.concat([good, good.subarray(16)]));
  await t.throwsAsync(Journal.open(dir, ignore), {
    instanceOf: CheckpointError,
    message: /record 1 where 2 should be/,
  });
  t.is(second.summary.sequence, 2);
});

test('damage that comes while the journal is open is noticed when the record is read', async (t) => {
  const records = makeRecords(2, { partBytes: [300] });
  const dir = await writeJournal(t, records);
  const path = join(dir, SEGMENT);
  const journal = await Journal.open(dir, ignore);
  t.teardown(() => journal.close());
  const bytes = await readFile(path);
  bytes[100] = bytes[100]! ^ 1;
  await writeFile(path, bytes);
  await t.throwsAsync(collect(journal.readRecord(1)), {
    instanceOf: CheckpointError,
    message: /wrong checksum/,
  });
  t.deepEqual(await collect(journal.readRecord(2)), framesOf(records[1]!));
});

test('a sparse scan finds the same records and the same torn tail as a full one', async (t) => {
  const records = makeRecords(5, { partBytes: [10_000, 20, 0, 6000] });
  const dir = await writeJournal(t, records.slice(0, 2), records.slice(2));
  t.deepEqual(await scanJournal(dir, { isFull: false }), await scanJournal(dir));
  const path = join(dir, '0000000003.log');
  await truncate(path, (await stat(path)).size - 3000);
  const torn = await scanJournal(dir, { isFull: false });
  t.deepEqual(torn, await scanJournal(dir));
  t.is(torn.head?.sequence, 4);
  t.is(torn.torn?.bytes, sizeOfRecord(records[4]!) - 3000);
});

test('leftover temporary files and foreign files are no obstacle', async (t) => {
  const dir = await writeJournal(t, makeRecords(1));
  await writeFile(join(dir, '0000000002.log.tmp'), 'GALO');
  await writeFile(join(dir, 'notes.txt'), 'mine');
  const journal = await Journal.open(dir, ignore);
  t.teardown(() => journal.close());
  t.deepEqual((await readdir(dir)).sort(), [SEGMENT, 'notes.txt']);
});

test('whatever is written over a journal, it opens with its first records or is refused', async (t) => {
  const records = makeRecords(4, { partBytes: [40, 7] });
  const dir = await writeJournal(t, records);
  const path = join(dir, SEGMENT);
  const whole = await readFile(path);
  const frames = framesOf(...records);
  const scribbles = fc.array(fc.tuple(fc.nat(whole.length + 20), fc.uint8Array({ maxLength: 12 })), {
    maxLength: 3,
  });
  const property = fc.asyncProperty(fc.nat(whole.length), scribbles, async (cut, changes) => {
    const bytes = Buffer.concat([whole.subarray(0, whole.length - (cut % 200)), Buffer.alloc(32)]);
    for (const [at, change] of changes) Buffer.from(change).copy(bytes, Math.min(at, bytes.length - 12));
    await writeFile(path, bytes);
    const journal = await Journal.open(dir, ignore).catch((error: unknown) => error);
    if (!(journal instanceof Journal)) return journal instanceof CheckpointError;
    const found = await collect(journal.frames(1));
    await journal.close();
    return found.every((frame, i) => frame.equals(frames[i]!)) && found.length % 3 === 0;
  });
  await t.notThrowsAsync(fc.assert(property, { numRuns: 150 }));
});

test('what is before a damaged record is sound, and segments before the one that is needed are not looked at', async (t) => {
  const records = makeRecords(6);
  const dir = await writeJournal(t, records.slice(0, 3), records.slice(3, 5), records.slice(5));
  const path = join(dir, SEGMENT);
  const bytes = await readFile(path);
  const damagedAt = 16 + sizeOfRecord(records[0]!);
  bytes[damagedAt + 12]! ^= 1;
  await writeFile(path, bytes);
  const seen: number[] = [];
  const { scan, fault, firstSequence, laterSegments } = await scanSoundPart(dir, {
    onCommit: ({ sequence }) => seen.push(sequence),
  });
  t.deepEqual(
    scan.records.map(({ sequence }) => sequence),
    [1],
  );
  t.deepEqual(seen, [1]);
  t.true(fault!.message.startsWith(`${path} is damaged at byte ${damagedAt}: `), fault!.message);
  t.is(firstSequence, 1);
  t.deepEqual(laterSegments, [4, 6]);
  const later = await scanSoundPart(dir, { fromSequence: 5 });
  t.is(later.fault, null);
  t.is(later.firstSequence, 4);
  t.deepEqual(
    later.scan.records.map(({ sequence }) => sequence),
    [4, 5, 6],
  );
});
