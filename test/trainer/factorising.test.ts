import test from 'ava';
import { matrix, multiply, transpose } from '../../src/galore/matrix.ts';
import { checkBasis } from '../../src/galore/projection/check.ts';
import { dctColumns } from '../../src/galore/projection/dct.ts';
import { orthonormalise } from '../../src/galore/projection/factorise.ts';
import { heldOut, joinColumns, omega, refreshPlan, sketchPlan } from '../../src/galore/projection/sketch.ts';
import { basisShape } from '../../src/galore/slot.ts';
import { derive } from '../../src/random.ts';
import { factorise, factoriseAdaptive, factoriseDct, factorisePair } from '../../src/trainer/factorising.ts';
import { matrixWithSpectrum, orthonormalMatrix, projectedSlot, randomMatrix } from '../galore/matrices.ts';

const PLAN = refreshPlan({ type: 'sketch', oversample: 2, power_iterations: 1 });
const EXACT = refreshPlan({ type: 'exact', oversample: 0, power_iterations: 0 });
const KEY = derive(3, 'probe');

for (const side of ['left', 'right'] as const) {
  const slot = projectedSlot(12, 9, side, 3);

  test(`every round gives what the coordinator accepts, side ${side}`, (t) => {
    for (const plan of [PLAN, EXACT]) {
      for (let round = 1; round <= plan.rounds; round++) {
        const { sketchShape, isFinal } = sketchPlan(slot, round, plan);
        const sum = Float32Array.from(randomMatrix(...sketchShape, 'sum', round).values);
        const factor = factorise(slot, round, plan, sum);
        const [rows, columns] = isFinal ? basisShape(slot) : sketchShape;
        t.is(checkBasis(factor!, rows, columns, KEY), null, `${plan.type}, round ${round}`);
      }
    }
  });

  test(`a zero sum has no factor in any round, side ${side}`, (t) => {
    for (let round = 1; round <= PLAN.rounds; round++) {
      const [rows, columns] = sketchPlan(slot, round, PLAN).sketchShape;
      t.is(factorise(slot, round, PLAN, new Float32Array(rows * columns)), null);
    }
  });
}

test('equal sums give equal bytes, and the sum is left as it was', (t) => {
  const slot = projectedSlot(12, 9, 'left', 3);
  const sum = Float32Array.from(randomMatrix(...sketchPlan(slot, 1, PLAN).sketchShape, 'sum').values);
  const before = sum.slice();
  t.deepEqual(factorise(slot, 1, PLAN, sum), factorise(slot, 1, PLAN, sum));
  t.deepEqual(sum, before);
});

test('a warm refresh has the jobs of the cold one from round 2 on', (t) => {
  const slot = projectedSlot(12, 9, 'left', 3);
  const warm = refreshPlan({ type: 'sketch', oversample: 2, power_iterations: 1, warm_start: true });
  for (const round of [2, 3]) {
    const sum = Float32Array.from(
      randomMatrix(...sketchPlan(slot, round, PLAN).sketchShape, 'sum', round).values,
    );
    t.deepEqual(factorise(slot, round, warm, sum), factorise(slot, round, PLAN, sum));
  }
});

const ADAPTIVE = refreshPlan({ type: 'sketch', oversample: 3, power_iterations: 1, held_out_columns: 8 });
const RANKS = { minRank: 1, maxRank: 12, multiple: 1 };
const SPECTRUM = Array.from({ length: 24 }, (_, j) => 0.7 ** j); // energies 0.49^j, rest of rank r: 0.49^r

/** The last round of a refresh whose factor is `[cols, 15]`; the sum and what the job is told. */
function lastRound(side: 'left' | 'right'): {
  readonly slot: ReturnType<typeof projectedSlot>;
  readonly sum: Float32Array;
  readonly last: { readonly factor: Float32Array; readonly seed: number; readonly step: number };
} {
  const slot = projectedSlot(24, 32, side, 12);
  const gradient = matrixWithSpectrum(24, 32, SPECTRUM, 'adaptive');
  const a = side === 'left' ? gradient : transpose(gradient);
  const start = orthonormalMatrix(a.rows, 15, 'start');
  const powered = multiply(transpose(a), start);
  const factor = Float32Array.from(orthonormalise(powered.values, a.cols, 15));
  const right = joinColumns(factor, heldOut(7, 3, slot, a.cols, 8), a.cols);
  const sum = Float32Array.from(multiply(a, matrix(a.cols, 23, right)).values);
  return { slot, sum, last: { factor, seed: 7, step: 3 } };
}

for (const side of ['left', 'right'] as const) {
  test(`an adaptive job cuts the basis where the threshold says, side ${side}`, (t) => {
    const { slot, sum, last } = lastRound(side);
    t.deepEqual(sketchPlan(slot, 3, ADAPTIVE).sketchShape, [side === 'left' ? 24 : 32, 23]);
    for (const [threshold, rank] of [
      [0.5, 1],
      [0.13, 3], // 0.49^3 = 0.118
      [0.02, 6], // 0.49^6 = 0.0138
      [1e-3, 10], // 0.49^10 = 0.0008
    ] as const) {
      const found = factoriseAdaptive(slot, ADAPTIVE, sum, last, { ...RANKS, threshold })!;
      t.is(found.rank, rank, `eta ${threshold}`);
      t.true(found.isThresholdMet);
      t.is(checkBasis(found.basis, side === 'left' ? 24 : 32, rank, KEY), null);
    }
    const cut = factoriseAdaptive(slot, ADAPTIVE, sum, last, { ...RANKS, threshold: 1e-6 })!;
    t.like(cut, { rank: 12, isThresholdMet: false });
  });
}

test('an adaptive job of an exact refresh needs nothing but the sum; a zero sum has no basis', (t) => {
  const slot = projectedSlot(24, 32, 'left', 12);
  const last = { factor: null, seed: 7, step: 3 };
  const sum = Float32Array.from(matrixWithSpectrum(24, 32, SPECTRUM, 'exact').values);
  const options = { ...RANKS, threshold: 0.13 };
  t.is(factoriseAdaptive(slot, EXACT, sum, last, options)!.rank, 3);
  t.is(factoriseAdaptive(slot, EXACT, new Float32Array(24 * 32), last, options), null);
});

test('a two-sided job gives U above V, both orthonormal', (t) => {
  const slot = projectedSlot(14, 10, 'left', 3);
  const factor = Float32Array.from(orthonormalMatrix(10, 6, 'q').values);
  const sum = Float32Array.from(multiply(randomMatrix(14, 10, 'g'), matrix(10, 6, factor)).values);
  const stacked = factorisePair(slot, sum, factor)!;
  const [left, right] = [stacked.subarray(0, 14 * 3), stacked.subarray(14 * 3)]; // U above V
  t.is(checkBasis(left, 14, 3, KEY), null);
  t.is(checkBasis(right, 10, 3, KEY), null);
  t.is(factorisePair(slot, new Float32Array(14 * 6), factor), null);
});

test('a cosine job chooses columns from the sketch of its one round', (t) => {
  const plan = refreshPlan({ type: 'dct', oversample: 0, power_iterations: 0, dct_columns: 6 });
  const slot = projectedSlot(12, 20, 'left', 2);
  const gradient = multiply(matrix(12, 2, dctColumns(12, [3, 8])), randomMatrix(2, 20, 'c'));
  const [rows, cols] = sketchPlan(slot, 1, plan).factorShape!;
  const sum = multiply(gradient, matrix(rows, cols, omega(7, 1, slot, rows, cols)));
  t.deepEqual(factoriseDct(slot, plan, Float32Array.from(sum.values)), [3, 8]);
  t.is(factoriseDct(slot, plan, new Float32Array(12 * 6)), null);
});
