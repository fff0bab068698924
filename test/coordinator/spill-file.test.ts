import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { SpillFile } from '../../src/coordinator/spill-file.ts';
import { Staging, type StagedTensor } from '../../src/coordinator/staging.ts';
import { OperatingError } from '../../src/errors.ts';
import { contributionBytes } from '../../src/protocol/slot-sizes.ts';
import { smallDisk } from '../helpers/small-disk.ts';
import { contributionOf, tinyRun } from './tiny-run.ts';

const RUN = tinyRun();
const { shape } = RUN;
const ALL = shape.slots.map(({ index }) => index);

function folderOf(t: ExecutionContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'galore-test-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Puts a tensor there, for which there is room. */
function put(file: SpillFile, tensor: StagedTensor): StagedTensor {
  const put = file.put(tensor);
  if (put === null) throw new Error('the disk is full');
  return put;
}

test('tensors come back as they were put, and the file has no name that could be left behind', (t) => {
  const folder = folderOf(t);
  const file = new SpillFile(folder);
  t.teardown(() => file.close());
  const tensors = [1, 1000, 65_536].map((length, i) =>
    put(file, { codec: 'int8', bytes: Uint8Array.from({ length }, (_, j) => (i + j) % 251) }),
  );
  t.is(file.bytes, 1 + 1000 + 65_536);
  t.deepEqual(readdirSync(folder), []);
  for (const [i, { codec, bytes }] of tensors.entries()) {
    t.is(codec, 'int8');
    t.true(bytes.every((byte, j) => byte === (i + j) % 251));
  }
  file.clear();
  t.is(file.bytes, 0);
  t.deepEqual([...put(file, { codec: 'f32', bytes: Uint8Array.of(7, 8) }).bytes], [7, 8]);
});

test('a folder that cannot be written to is named, with the field that sent the tensors there', (t) => {
  const file = new SpillFile(join(folderOf(t), 'missing'));
  const error = t.throws(() => file.put({ codec: 'f32', bytes: new Uint8Array(4) }), {
    instanceOf: OperatingError,
  });
  t.regex(error!.message, /cannot make .*missing.*coordinator\.staging_memory.*ENOENT/);
});

test('contributions stay in memory when the disk is full, which is said, and the step goes on', (t) => {
  const disk = smallDisk(t, 8);
  if (disk === null) return;
  const told: string[] = [];
  const file = new SpillFile(disk, (text) => told.push(text));
  t.teardown(() => file.close());
  const staging = new Staging(shape.slots, shape.sizes, shape.refresh.rounds, { maxBytes: 0, file });
  staging.open({ step: 5, round: 0 });
  for (const trainerId of ['a', 'b']) {
    for (const part of contributionOf(RUN, 5, trainerId)) staging.accept(trainerId, part);
  }
  const { memory, file: spilled } = staging.bytesStaged;
  t.is(memory + spilled, 2 * contributionBytes(shape.sizes));
  t.true(memory > 0 && spilled > 0, `${memory} in memory, ${spilled} in the file`);
  t.regex(told.join('\n'), /cannot write .*: no space left on the disk \(ENOSPC\); they stay in memory/);
  for (const trainerId of ['a', 'b']) {
    const tensors = staging.take(trainerId, 'contribution', ALL);
    for (const { tensor, payload } of contributionOf(RUN, 5, trainerId)) {
      t.deepEqual(tensors.get(tensor)?.bytes.slice(), payload);
    }
  }
  staging.close();
});

test('contributions beyond the memory allowed are in the file, are the same, and go with the step', (t) => {
  const file = new SpillFile(folderOf(t));
  t.teardown(() => file.close());
  const size = contributionBytes(shape.sizes);
  // Room for one and a half: of the second some tensors are in memory and some are not.
  const maxBytes = Math.floor(1.5 * size);
  const staging = new Staging(shape.slots, shape.sizes, shape.refresh.rounds, { maxBytes, file });
  for (const step of [5, 6]) {
    staging.open({ step, round: 0 });
    for (const trainerId of ['a', 'b', 'c']) {
      for (const part of contributionOf(RUN, step, trainerId)) staging.accept(trainerId, part);
    }
    const staged = staging.bytesStaged;
    t.true(staged.memory <= maxBytes && staged.memory > size);
    t.is(staged.memory + staged.file, 3 * size);
    for (const trainerId of ['a', 'b', 'c']) {
      const tensors = staging.take(trainerId, 'contribution', ALL);
      for (const { tensor, payload } of contributionOf(RUN, step, trainerId)) {
        t.deepEqual(tensors.get(tensor)?.bytes.slice(), payload);
      }
    }
    staging.close();
    t.deepEqual(staging.bytesStaged, { memory: 0, file: 0 });
    t.true(staging.bytesPooled <= maxBytes);
  }
});
