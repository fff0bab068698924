import test from 'ava';
import { RefreshSums } from '../../src/coordinator/refresh-sums.ts';
import type { StagedTensor } from '../../src/coordinator/staging.ts';
import { codecFor } from '../../src/galore/codec/codec.ts';
import { sketchPlan } from '../../src/galore/projection/sketch.ts';
import { basisShape, hasBasis, matrixShape, type ProjectedSlot } from '../../src/galore/slot.ts';
import { orthonormalMatrix } from '../galore/matrices.ts';
import { bytesFor, tinyRun } from './tiny-run.ts';

const { shape, projected } = tinyRun('method.refresh.power_iterations=1');
const SLOTS = projected.slice(0, 2);
const [FIRST = 0, SECOND = 0] = SLOTS;
const { rounds } = shape.refresh;

function begin(round = 1): RefreshSums {
  const sums = new RefreshSums(shape.slots, shape.sizes, shape.refresh, 9);
  sums.begin(5, round);
  return sums;
}

function tensors(entries: [number, Uint8Array][]): Map<number, StagedTensor> {
  return new Map(entries.map(([slot, bytes]) => [slot, { codec: 'f32', bytes }]));
}

function values(bytes: Uint8Array): Float32Array {
  return codecFor('f32').decode(bytes, bytes.length / 4);
}

function sketch(slot: number, label: string, round = 1): Uint8Array {
  return bytesFor(shape.sizes[slot]?.sketches[round - 1], label, slot);
}

function factor(index: number, round = 1, label = 'q'): Uint8Array {
  const slot = shape.slots[index] as ProjectedSlot;
  const plan = sketchPlan(slot, round, shape.refresh);
  const [rows, columns] = plan.isFinal ? basisShape(slot) : plan.sketchShape;
  return new Uint8Array(Float32Array.from(orthonormalMatrix(rows, columns, label, index).values).buffer);
}

/** All sketches of the round, so that no sum is zero. */
function sumAll(sums: RefreshSums, round = 1): void {
  sums.sum(SLOTS, [{ weight: 1, tensors: tensors(SLOTS.map((slot) => [slot, sketch(slot, 'a', round)])) }]);
}

test('sketches are summed by weight', (t) => {
  const sums = begin();
  const of = (label: string) => tensors(SLOTS.map((slot) => [slot, sketch(slot, label)]));
  sums.sum(SLOTS, [
    { weight: 0.75, tensors: of('a') },
    { weight: 0.25, tensors: of('b') },
  ]);
  const [a, b] = [values(sketch(FIRST, 'a')), values(sketch(FIRST, 'b'))];
  t.deepEqual(
    values(sums.sumOf(FIRST)!),
    a.map((x, i) => 0.75 * x + 0.25 * b[i]!),
  );
});

test('sketches of all that trainers keep count whole, whatever their tokens', (t) => {
  const kept = tinyRun('method.refresh.power_iterations=1', 'method.feedback=gradient').shape;
  const sums = new RefreshSums(kept.slots, kept.sizes, kept.refresh, 9);
  sums.begin(5, 1);
  const of = (label: string) => tensors([[FIRST, sketch(FIRST, label)]]);
  sums.sum(
    [FIRST],
    [
      { weight: 0.75, tensors: of('a') },
      { weight: 0.25, tensors: of('b') },
    ],
  );
  const [a, b] = [values(sketch(FIRST, 'a')), values(sketch(FIRST, 'b'))];
  t.deepEqual(
    values(sums.sumOf(FIRST)!),
    a.map((x, i) => x + b[i]!),
  );
});

test('the factors of the jobs named count, not those of a trainer whose job was given to another', (t) => {
  const sums = begin();
  sumAll(sums);
  t.is(sums.accept('a', [FIRST], [], tensors([[FIRST, factor(FIRST, 1, 'late')]])), null);
  t.is(sums.accept('b', SLOTS, [], tensors(SLOTS.map((slot) => [slot, factor(slot)]))), null);
  sums.settle([{ trainerId: 'b', slots: SLOTS, isDone: true }]);
  t.deepEqual(
    [...sums.factors].map(([slot, { bytes }]) => [slot, bytes]),
    SLOTS.map((slot) => [slot, factor(slot)]),
  );
});

test('factors that are not orthonormal, or are called zero without being so, are refused by name', (t) => {
  const sums = begin();
  sumAll(sums);
  const bad = tensors([[FIRST, sketch(FIRST, 'noise')]]);
  t.regex(sums.accept('a', [FIRST], [], bad) ?? '', /the factor of model\..* not orthonormal/);
  t.regex(sums.accept('a', [FIRST], [FIRST], new Map()) ?? '', /is called zero but its sketch is not/);
});

test('a factor between rounds may be a little off, a basis may not', (t) => {
  t.true(rounds > 1);
  for (const round of [1, rounds]) {
    const off = (share: number): ReadonlyMap<number, StagedTensor> => {
      const values = codecFor('f32').decode(factor(FIRST, round), factor(FIRST, round).length / 4);
      // 1 + share times as long: |P'Pz - z| / |z| = 2 share + share^2
      const bytes = new Uint8Array(values.map((value) => (1 + share) * value).slice().buffer);
      return tensors([[FIRST, bytes]]);
    };
    const sums = begin(round);
    sumAll(sums, round);
    const isBasis = round === rounds;
    t.is(sums.accept('a', [FIRST], [], off(1e-5)), null);
    const little = sums.accept('a', [FIRST], [], off(0.04));
    t.true(isBasis ? /not orthonormal/.test(little ?? '') : little === null);
    t.regex(sums.accept('a', [FIRST], [], off(0.06)) ?? '', /not orthonormal/);
  }
});

test('a slot whose gradient is zero is left out of the later rounds and keeps its basis', (t) => {
  const sums = begin();
  const zero = new Uint8Array(sketch(FIRST, 'a').length);
  sums.sum(SLOTS, [
    {
      weight: 1,
      tensors: tensors([
        [FIRST, zero],
        [SECOND, sketch(SECOND, 'a')],
      ]),
    },
  ]);
  t.is(sums.accept('a', SLOTS, [FIRST], tensors([[SECOND, factor(SECOND)]])), null);
  const jobs = [{ trainerId: 'a', slots: SLOTS, isDone: true }];
  sums.settle(jobs);
  sums.begin(5, 2);
  t.deepEqual(sums.active(SLOTS), [SECOND]);
  for (let round = 2; round <= rounds; round++) {
    if (round > 2) sums.begin(5, round);
    sumAll(sums, round);
    t.is(sums.sumOf(FIRST), null);
    t.is(sums.accept('a', SLOTS, [], tensors([[SECOND, factor(SECOND, round)]])), null);
    sums.settle(jobs);
  }
  t.deepEqual([...sums.factors.keys()], [SECOND]);
});

test('the next refresh knows nothing of the zeros and factors of the one before', (t) => {
  const sums = begin();
  sumAll(sums);
  t.is(sums.accept('a', [FIRST], [], tensors([[FIRST, factor(FIRST)]])), null);
  sums.settle([{ trainerId: 'a', slots: SLOTS, isDone: true }]);
  t.deepEqual(sums.active(SLOTS), [FIRST]);
  sums.begin(6, 1);
  t.deepEqual(sums.active(SLOTS), SLOTS);
  t.is(sums.factors.size, 0);
  t.is(sums.sumOf(FIRST), null);
});

test('of a two-sided basis both halves must be orthonormal', (t) => {
  const { shape: pair } = tinyRun('method.name=two-sided');
  const slot = pair.slots.find(hasBasis)!;
  const [m, n] = matrixShape(slot);
  const { index, rank } = slot;
  const last = pair.refresh.rounds;
  const sums = new RefreshSums(pair.slots, pair.sizes, pair.refresh, 9);
  sums.begin(5, last);
  const sketched = bytesFor(pair.sizes[index]?.sketches[last - 1], 'a', index);
  sums.sum([index], [{ weight: 1, tensors: tensors([[index, sketched]]) }]);
  const halves = (['u', 'v'] as const).map((label, i) => [
    ...orthonormalMatrix(i === 0 ? m : n, rank, label, 1).values,
  ]);
  const offer = (u: number[], v: number[]): string | null => {
    const bytes = new Uint8Array(Float32Array.from([...u, ...v]).buffer);
    return sums.accept('a', [index], [], tensors([[index, bytes]]));
  };
  const [u = [], v = []] = halves;
  t.is(offer(u, v), null);
  t.regex(
    offer(
      u.map((x) => x / 2),
      v,
    ) ?? '',
    /not orthonormal/,
  );
  t.regex(
    offer(
      u,
      v.map((x) => x / 2),
    ) ?? '',
    /not orthonormal/,
  );
  // Together they would pass as columns of one matrix.
  const root = Math.SQRT1_2;
  t.regex(
    offer(
      u.map((x) => x * root),
      v.map((x) => x * root),
    ) ?? '',
    /not orthonormal/,
  );
});
