/** What the journal does when the disk is full, broken or switched off. Serial: the disk is replaced for the whole process. */
import { execFileSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { OperatingError } from '../../../src/errors.ts';
import { Journal } from '../../../src/coordinator/store/journal.ts';
import { FaultyDisk } from '../../faulty-disk.ts';
import { temporaryDir } from '../../temporary-dir.ts';
import { collect, framesOf, makeRecords } from './records.ts';

const ignore = (): void => {};
const SEGMENT = '0000000001.log';

for (const [code, call] of [
  ['ENOSPC', 'writev'],
  ['EIO', 'writev'],
  ['EIO', 'datasync'],
] as const) {
  test.serial(
    `a record that fails with ${code} in ${call} is taken back and can be appended later`,
    async (t) => {
      const dir = temporaryDir(t);
      const path = join(dir, SEGMENT);
      const records = makeRecords(3);
      const journal = await Journal.open(dir, ignore);
      await journal.append(records[0]!.frames, records[0]!.summary);
      const before = await readFile(path);
      let failures = 0;
      const disk = await FaultyDisk.install(({ name }) => (name === call && ++failures <= 2 ? code : null));
      try {
        for (let attempt = 0; attempt < 2; attempt++) {
          const error = await t.throwsAsync(journal.append(records[1]!.frames, records[1]!.summary), {
            instanceOf: OperatingError,
          });
          t.true(error.message.startsWith(`cannot append record 2 to ${path}: `), error.message);
          t.true(error.message.endsWith(`(${code})`), error.message);
          t.deepEqual(await readFile(path), before);
          t.is(journal.head?.sequence, 1);
        }
        await journal.append(records[1]!.frames, records[1]!.summary);
        t.is(failures, 3);
      } finally {
        disk.restore();
      }
      await journal.append(records[2]!.frames, records[2]!.summary);
      t.deepEqual(await collect(journal.frames(1)), framesOf(...records));
      await journal.close();
      const again = await Journal.open(dir, (text) => t.fail(text));
      t.is(again.head?.sequence, 3);
      await again.close();
    },
  );
}

test.serial('a record that cannot be taken back at once is taken back before the next one', async (t) => {
  const dir = temporaryDir(t);
  const records = makeRecords(2);
  const journal = await Journal.open(dir, ignore);
  await journal.append(records[0]!.frames, records[0]!.summary);
  const good = (await stat(join(dir, SEGMENT))).size;
  const disk = await FaultyDisk.install(({ name }) => (name === 'open' ? null : 'EIO'));
  const { frames, summary } = records[1]!;
  await t.throwsAsync(journal.append(frames, summary), { instanceOf: OperatingError });
  await t.throwsAsync(journal.append(frames, summary), {
    instanceOf: OperatingError,
    message: /cut .* back/,
  });
  await t.throwsAsync(journal.startSegment(), { instanceOf: OperatingError });
  disk.restore();
  t.true((await stat(join(dir, SEGMENT))).size > good);
  await journal.append(frames, summary);
  await journal.close();
  const again = await Journal.open(dir, (text) => t.fail(text));
  t.deepEqual(await collect(again.frames(1)), framesOf(...records));
  await again.close();
});

test.serial('a segment that cannot be begun leaves the journal usable in the one before', async (t) => {
  const records = makeRecords(3);
  for (const call of ['open', 'write', 'sync', 'rename'] as const) {
    const dir = temporaryDir(t);
    const journal = await Journal.open(dir, ignore);
    await journal.append(records[0]!.frames, records[0]!.summary);
    let failures = 0;
    const disk = await FaultyDisk.install(({ name }) =>
      name === call && failures++ === 0 ? 'ENOSPC' : null,
    );
    await t.throwsAsync(journal.startSegment(), {
      instanceOf: OperatingError,
      message: /0000000002\.log: no space left/,
    });
    disk.restore();
    await journal.append(records[1]!.frames, records[1]!.summary);
    await journal.close();
    const again = await Journal.open(dir, ignore);
    t.is(again.head?.sequence, 2, call);
    await again.startSegment();
    await again.append(records[2]!.frames, records[2]!.summary);
    t.deepEqual(await collect(again.frames(1)), framesOf(...records));
    await again.close();
  }
});

/** What a run does to its journal; every record whose append resolves is pushed to `synced`. */
async function work(dir: string, synced: number[]): Promise<void> {
  const journal = await Journal.open(dir, ignore);
  try {
    for (const { frames, summary } of makeRecords(6)) {
      await journal.append(frames, summary);
      synced.push(summary.sequence);
      if (summary.sequence === 2 || summary.sequence === 4) await journal.startSegment();
      if (summary.sequence === 4) await journal.removeSegmentsBefore(3);
    }
  } finally {
    await journal.close();
  }
}

for (const isPowerLost of [false, true]) {
  const what = isPowerLost ? 'a power failure' : 'a kill';
  test.serial(`${what} between any two writes loses no record that was synced`, async (t) => {
    let crashes = 0;
    for (let n = 1; ; n++) {
      const dir = join(temporaryDir(t), 'journal');
      const synced: number[] = [];
      const disk = await FaultyDisk.crashingAt(n);
      const outcome = await work(dir, synced).then(
        () => 'done',
        () => 'crashed',
      );
      if (isPowerLost) await disk.failPower();
      else disk.restore();
      const journal = await Journal.open(dir, ignore);
      const last = journal.nextSequence - 1;
      const least = synced.length;
      t.true(last === least || last === least + 1, `call ${n}: ${least} records synced, ${last} found`);
      const records = makeRecords(6);
      t.deepEqual(
        await collect(journal.frames(journal.firstSequence)),
        framesOf(...records.slice(journal.firstSequence - 1, last)),
      );
      for (const { frames, summary } of records.slice(last)) await journal.append(frames, summary);
      await journal.close();
      if (outcome === 'done') break;
      crashes++;
    }
    t.true(crashes > 25, `${crashes} crashes`);
  });
}

test.serial('a full disk is met on a real file system', async (t) => {
  const dir = join(temporaryDir(t), 'small');
  mkdirSync(dir);
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=256k', 'tmpfs', dir], { stdio: 'ignore' });
  } catch {
    t.log('skipped: this user cannot mount a small file system');
    t.pass();
    return;
  }
  try {
    const journal = await Journal.open(join(dir, 'journal'), ignore);
    const records = makeRecords(2, { partBytes: [50_000, 50_000] });
    await journal.append(records[0]!.frames, records[0]!.summary);
    const ballast = join(dir, 'ballast');
    await writeFile(ballast, Buffer.alloc(100_000));
    const { frames, summary } = records[1]!;
    await t.throwsAsync(journal.append(frames, summary), {
      instanceOf: OperatingError,
      message: /no space left on the disk/,
    });
    await writeFile(ballast, '');
    await journal.append(frames, summary);
    t.deepEqual(await collect(journal.frames(1)), framesOf(...records));
    await journal.close();
  } finally {
    execFileSync('umount', [dir]);
  }
});
