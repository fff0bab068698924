import test from 'ava';
import type { Sequences } from '../../src/protocol/messages.ts';
import { toBatches, toLocalBatches } from '../../src/trainer/batches.ts';
import { IGNORED_LABEL, type Batch } from '../../src/trainer/model/batch.ts';

/** `count` sequences of 3 + 1 tokens: 10 11 12 13, 20 21 22 23, … */
function sequencesOf(count: number, mask: number[] = []): Sequences {
  const tokens = Int32Array.from({ length: 4 * count }, (_, i) => 10 * (1 + Math.floor(i / 4)) + (i % 4));
  const positions = Array.from({ length: count }, (_, i) => i);
  return { positions, length: 4, tokens, mask: Uint8Array.from(mask) } as Sequences;
}

function labelsOf(batch: Batch | undefined): number[] {
  return batch !== undefined && 'labels' in batch ? [...batch.labels] : [];
}

test('a sequence gives its tokens but the last as inputs and the next ones as labels', (t) => {
  const [batch] = toBatches(sequencesOf(2), 8);
  t.deepEqual([...batch!.ids], [10, 11, 12, 20, 21, 22]);
  t.deepEqual(labelsOf(batch), [11, 12, 13, 21, 22, 23]);
  t.like(batch, { sequences: 2, length: 3 });
});

test('sequences are cut into micro-batches in order, the last one smaller', (t) => {
  const batches = toBatches(sequencesOf(5), 2);
  t.deepEqual(
    batches.map(({ sequences, ids }) => [sequences, ids[0], ids.length]),
    [
      [2, 10, 6],
      [2, 30, 6],
      [1, 50, 3],
    ],
  );
});

test('masked labels are ignored, in every micro-batch', (t) => {
  const [first, second] = toBatches(sequencesOf(2, [1, 0, 1, 0, 1, 1]), 1);
  t.deepEqual(labelsOf(first), [11, IGNORED_LABEL, 13]);
  t.deepEqual(labelsOf(second), [IGNORED_LABEL, 22, 23]);
});

test('no sequences are no batches', (t) => {
  t.deepEqual(toBatches(sequencesOf(0), 4), []);
  t.deepEqual(toLocalBatches(sequencesOf(0), 4, 8), []);
});

test('local steps have consecutive parts, as equal as can be, of one sequence at least', (t) => {
  const firsts = (count: number, localSteps: number): number[][] =>
    toLocalBatches(sequencesOf(count), 2, localSteps).map((batches) => batches.map(({ ids }) => ids[0]!));
  t.deepEqual(firsts(7, 2), [
    [10, 30],
    [40, 60],
  ]);
  t.deepEqual(firsts(4, 4), [[10], [20], [30], [40]]);
  t.deepEqual(firsts(2, 4), [[10], [20]]);
  const sizes = toLocalBatches(sequencesOf(7), 2, 2).map((batches) =>
    batches.map(({ sequences }) => sequences),
  );
  t.deepEqual(sizes, [
    [2, 1],
    [2, 2],
  ]);
});

test('sequences to be classified keep their classes and lengths, and nothing is shifted', (t) => {
  const labelled = { classes: Int32Array.from([1, 0, 2]), lengths: Int32Array.from([4, 2, 3]) };
  const batches = toBatches({ ...sequencesOf(3), labelled }, 2);
  t.deepEqual(batches[0], {
    ids: Int32Array.from([10, 11, 12, 13, 20, 21, 22, 23]),
    classes: Int32Array.from([1, 0]),
    lengths: Int32Array.from([4, 2]),
    sequences: 2,
    length: 4,
  });
  t.like(batches[1], { classes: Int32Array.from([2]), sequences: 1 });
});
