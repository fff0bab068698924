import test from 'ava';
import fc from 'fast-check';
import { TensorShapeError } from '../../../src/errors.ts';
import { matrix, multiply, transpose, zip, type Matrix } from '../../../src/galore/matrix.ts';
import { referenceLift, referenceTransport } from '../../../src/galore/optimizer/reference.ts';
import {
  carryMoments,
  transportMoments,
  type MomentsRule,
} from '../../../src/galore/projection/transport.ts';
import type { Side } from '../../../src/galore/slot.ts';
import { maxDifference, orthonormalMatrix, projectedSlot, randomMatrix } from '../matrices.ts';
import { assertNoLeak, matrixOf, tensorOf, tf } from '../tensors.ts';

const BETAS = [0.9, 0.99] as const;
const SIDES: readonly Side[] = ['left', 'right'];

/** Moments as they could be after some steps: V at least M^2. */
function momentsOf(side: Side, rank: number, other: number, label: string): { m: Matrix; v: Matrix } {
  const [rows, cols] = side === 'left' ? [rank, other] : [other, rank];
  const m = zip((x) => 0.1 * x, randomMatrix(rows, cols, 'm', label));
  const v = zip((x, y) => x * x + 0.01 * y * y, m, randomMatrix(rows, cols, 'v', label));
  return { m, v };
}

function byTensors(
  moments: { m: Matrix; v: Matrix },
  oldBasis: Matrix,
  newBasis: Matrix,
  side: Side,
  rule: MomentsRule,
  t: number,
): { m: Matrix; v: Matrix } {
  let result = moments;
  tf.tidy(() => {
    const change = { oldBasis: tensorOf(oldBasis), newBasis: tensorOf(newBasis), side };
    const moved = transportMoments(
      { m: tensorOf(moments.m), v: tensorOf(moments.v) },
      change,
      rule,
      t,
      BETAS,
    );
    result = { m: matrixOf(moved.m), v: matrixOf(moved.v) };
  });
  return result;
}

test('an unchanged basis leaves the moments as they are', (t) => {
  for (const side of SIDES) {
    const basis = orthonormalMatrix(12, 4, 'basis');
    const moments = momentsOf(side, 4, 9, 'identity');
    const change = { oldBasis: basis, newBasis: basis, side };
    const exact = referenceTransport(moments, change, 'transport', 5, BETAS);
    t.true(maxDifference(exact.m, moments.m) < 1e-15 && maxDifference(exact.v, moments.v) < 1e-15);
    const moved = byTensors(moments, basis, basis, side, 'transport', 5);
    t.true(maxDifference(moved.m, moments.m) < 1e-6 && maxDifference(moved.v, moments.v) < 1e-6);
  }
});

test('a basis rotated within its span lifts the first moment to the same matrix', (t) => {
  for (const side of SIDES) {
    const oldBasis = orthonormalMatrix(12, 4, 'old');
    const newBasis = multiply(oldBasis, orthonormalMatrix(4, 4, 'rotation'));
    const moments = momentsOf(side, 4, 9, 'rotation');
    const moved = referenceTransport(moments, { oldBasis, newBasis, side }, 'transport', 5, BETAS);
    const before = referenceLift(moments.m, oldBasis, side);
    t.true(maxDifference(referenceLift(moved.m, newBasis, side), before) < 1e-15);
  }
});

test('second moments never become negative, whatever the bases', (t) => {
  fc.assert(
    fc.property(
      fc.nat(1000),
      fc.constantFrom(...SIDES),
      fc.integer({ min: 1, max: 500 }),
      (seed, side, step) => {
        const moments = momentsOf(side, 3, 7, `${seed}`);
        const change = {
          oldBasis: orthonormalMatrix(8, 3, 'old', seed),
          newBasis: orthonormalMatrix(8, 3, 'new', seed),
          side,
        };
        return referenceTransport(moments, change, 'transport', step, BETAS).v.values.every((x) => x >= 0);
      },
    ),
  );
  t.pass();
});

test('the rank may grow: new directions start from nothing', (t) => {
  for (const side of SIDES) {
    const newBasis = orthonormalMatrix(12, 6, 'grow');
    const oldBasis = matrix(
      12,
      4,
      newBasis.values.filter((_, i) => i % 6 < 4),
    );
    const moments = momentsOf(side, 4, 9, 'grow');
    const moved = byTensors(moments, oldBasis, newBasis, side, 'transport', 8);
    t.deepEqual([moved.m.rows, moved.m.cols], side === 'left' ? [6, 9] : [9, 6]);
    const upright = side === 'left' ? moved.m : transpose(moved.m);
    const before = side === 'left' ? moments.m : transpose(moments.m);
    t.true(maxDifference(matrix(4, 9, upright.values.subarray(0, 36)), before) < 1e-6);
    t.true(upright.values.subarray(36).every((x) => Math.abs(x) < 1e-6));
  }
});

test('directions that the old basis did not see begin with the mean of the others', (t) => {
  const ones = (rows: number, cols: number): Matrix =>
    matrix(rows, cols, new Float64Array(rows * cols).fill(1));
  for (const side of SIDES) {
    const both = orthonormalMatrix(12, 6, 'unseen');
    const columns = (from: number) =>
      matrix(
        12,
        3,
        both.values.filter((_, i) => i % 6 >= from && i % 6 < from + 3),
      );
    const [oldBasis, newBasis] = [columns(0), columns(3)];
    const v = zip((x) => x * x + 0.1, side === 'left' ? randomMatrix(3, 9, 'v') : randomMatrix(9, 3, 'v'));
    const moments = { m: zip(() => 0, v), v };
    const change = { oldBasis, newBasis, side };
    // Nothing in common: the mean over the three old directions, everywhere.
    const third = zip((x) => x / 3, ones(3, 3));
    const want = side === 'left' ? multiply(third, v) : multiply(v, third);
    t.true(maxDifference(referenceTransport(moments, change, 'transport', 5, BETAS).v, want) < 1e-14);
    t.true(maxDifference(byTensors(moments, oldBasis, newBasis, side, 'transport', 5).v, want) < 1e-6);
    t.true(
      maxDifference(
        byTensors(moments, oldBasis, newBasis, side, 'ldadam', 5).v,
        zip(() => 0, v),
      ) < 1e-6,
    );
  }
});

test('what the bases have in common and what is new add up: constant second moments stay constant', (t) => {
  for (const side of SIDES) {
    const [oldBasis, newBasis] = [orthonormalMatrix(12, 4, 'from'), orthonormalMatrix(12, 5, 'to')];
    const [rows, cols] = side === 'left' ? [4, 9] : [9, 4];
    const constant = matrix(rows, cols, new Float64Array(rows * cols).fill(0.7));
    const moments = { m: zip(() => 0, constant), v: constant };
    const { v } = byTensors(moments, oldBasis, newBasis, side, 'transport', 5);
    t.true(v.values.every((x) => Math.abs(x - 0.7) < 1e-5));
    const lower = byTensors(moments, oldBasis, newBasis, side, 'ldadam', 5).v;
    t.true(
      lower.values.some((x) => x < 0.5),
      'what is outside of the old subspace is lost',
    );
  }
});

test('the rank may shrink: the kept directions keep their moments', (t) => {
  for (const side of SIDES) {
    const oldBasis = orthonormalMatrix(12, 4, 'shrink');
    const newBasis = matrix(
      12,
      2,
      oldBasis.values.filter((_, i) => i % 4 < 2),
    );
    const moments = momentsOf(side, 4, 9, 'shrink');
    const moved = byTensors(moments, oldBasis, newBasis, side, 'transport', 8);
    const upright = (x: Matrix) => (side === 'left' ? x : transpose(x));
    const head = (x: Matrix) => matrix(2, 9, upright(x).values.subarray(0, 18));
    t.true(maxDifference(upright(moved.m), head(moments.m)) < 1e-6);
    t.true(maxDifference(upright(moved.v), head(moments.v)) < 1e-6);
  }
});

test('tensors compute what the f64 reference computes, for every rule and side', (t) => {
  for (const side of SIDES) {
    for (const rule of ['keep', 'reset', 'rotate', 'ldadam', 'transport', 'adarank'] as const) {
      const oldBasis = orthonormalMatrix(14, 5, 'old');
      const newBasis = orthonormalMatrix(14, 5, 'new');
      const moments = momentsOf(side, 5, 9, 'rules');
      const got = byTensors(moments, oldBasis, newBasis, side, rule, 3);
      const want = referenceTransport(moments, { oldBasis, newBasis, side }, rule, 3, BETAS);
      t.true(maxDifference(got.m, want.m) < 1e-6 && maxDifference(got.v, want.v) < 1e-6, `${side} ${rule}`);
    }
  }
});

test('keep keeps the numbers and refuses another rank; reset and the time before the first step give zeros', (t) => {
  const [oldBasis, newBasis] = [orthonormalMatrix(12, 4, 'old'), orthonormalMatrix(12, 3, 'new')];
  const moments = momentsOf('left', 4, 9, 'simple');
  t.throws(() => byTensors(moments, oldBasis, newBasis, 'left', 'keep', 3), { instanceOf: TensorShapeError });
  t.true(maxDifference(byTensors(moments, oldBasis, oldBasis, 'left', 'keep', 3).m, moments.m) < 1e-7);
  const zeros = { m: matrix(3, 9), v: matrix(3, 9) };
  t.deepEqual(byTensors(moments, oldBasis, newBasis, 'left', 'reset', 3), zeros);
  t.deepEqual(byTensors(moments, oldBasis, newBasis, 'left', 'transport', 0), zeros);
});

test('second moments never become negative under rotate and adarank either, and an unchanged basis is no change', (t) => {
  for (const rule of ['rotate', 'adarank'] as const) {
    for (const side of SIDES) {
      const [oldBasis, newBasis] = [orthonormalMatrix(8, 3, 'old'), orthonormalMatrix(8, 3, 'new')];
      const moments = momentsOf(side, 3, 7, rule);
      const moved = byTensors(moments, oldBasis, newBasis, side, rule, 9);
      t.true(moved.v.values.every((x) => x >= 0));
      const same = byTensors(moments, oldBasis, oldBasis, side, rule, 9);
      t.true(maxDifference(same.m, moments.m) < 1e-6 && maxDifference(same.v, moments.v) < 1e-6);
    }
  }
});

/** U above V. */
function stacked(u: Matrix, v: Matrix): Matrix {
  return matrix(u.rows + v.rows, u.cols, [...u.values, ...v.values]);
}

function byTensorsOnBothSides(
  moments: { m: Matrix; v: Matrix },
  oldBasis: Matrix,
  newBasis: Matrix,
  rule: MomentsRule,
  rows: number,
): { m: Matrix; v: Matrix } {
  let result = moments;
  tf.tidy(() => {
    // As a replica gives it: the slot alone tells that there are two bases.
    const { m, v } = carryMoments(
      { m: tensorOf(moments.m), v: tensorOf(moments.v) },
      {
        slot: {
          ...projectedSlot(rows, oldBasis.rows - rows, 'left', oldBasis.cols),
          policy: 'two-sided',
        },
        change: { oldBasis: tensorOf(oldBasis), newBasis: tensorOf(newBasis), side: 'left' },
        moments: rule,
        completedSteps: 5,
        betas: BETAS,
      },
    );
    result = { m: matrixOf(m), v: matrixOf(v) };
  });
  return result;
}

test('the core turns on both sides, its second moment by the squared overlaps: number by number', (t) => {
  const [oldU, oldV] = [orthonormalMatrix(9, 3, 'u'), orthonormalMatrix(7, 3, 'v')];
  const [newU, newV] = [orthonormalMatrix(9, 2, 'nu'), orthonormalMatrix(7, 2, 'nv')];
  const moments = momentsOf('left', 3, 3, 'core');
  const [cu, cv] = [multiply(transpose(newU), oldU), multiply(transpose(newV), oldV)];
  const turn = (x: Matrix, f: (c: number) => number): Matrix => {
    const result = matrix(2, 2);
    for (let at = 0; at < 4; at++) {
      for (let k = 0; k < 3; k++) {
        for (let l = 0; l < 3; l++) {
          const c = cu.values[(at >> 1) * 3 + k]! * cv.values[(at & 1) * 3 + l]!;
          result.values[at] = result.values[at]! + f(c) * x.values[3 * k + l]!;
        }
      }
    }
    return result;
  };
  const [c1, c2] = [1 - 0.9 ** 5, 1 - 0.99 ** 5];
  const m = turn(moments.m, (c) => c);
  const variance = zip((v, mi) => v / c2 - (mi / c1) ** 2, moments.v, moments.m);
  const want = {
    rotate: turn(moments.v, (c) => c * c),
    adarank: zip(
      Math.abs,
      turn(moments.v, (c) => c),
    ),
    ldadam: zip(
      (s, mi) => c2 * Math.abs(s + (mi / c1) ** 2),
      turn(variance, (c) => c * c),
      m,
    ),
  };
  const change = {
    oldBasis: stacked(oldU, oldV),
    newBasis: stacked(newU, newV),
    side: 'left',
    rows: 9,
  } as const;
  for (const rule of ['rotate', 'adarank', 'ldadam'] as const) {
    for (const [got, limit] of [
      [referenceTransport(moments, change, rule, 5, BETAS), 1e-14],
      [byTensorsOnBothSides(moments, change.oldBasis, change.newBasis, rule, 9), 1e-6],
    ] as const) {
      t.true(maxDifference(got.m, m) < limit && maxDifference(got.v, want[rule]) < limit, rule);
    }
  }
});

test('a core whose bases turn within their spans lifts to the same matrix, unchanged ones change nothing', (t) => {
  const [u, v] = [orthonormalMatrix(9, 3, 'u'), orthonormalMatrix(7, 3, 'v')];
  const turnedU = multiply(u, orthonormalMatrix(3, 3, 'a'));
  const turnedV = multiply(v, orthonormalMatrix(3, 3, 'b'));
  const moments = momentsOf('left', 3, 3, 'span');
  const moved = byTensorsOnBothSides(moments, stacked(u, v), stacked(turnedU, turnedV), 'transport', 9);
  const lift = (x: Matrix, left: Matrix, right: Matrix) => multiply(multiply(left, x), transpose(right));
  t.true(maxDifference(lift(moved.m, turnedU, turnedV), lift(moments.m, u, v)) < 1e-6);
  for (const rule of ['keep', 'rotate', 'ldadam', 'transport', 'adarank'] as const) {
    const same = byTensorsOnBothSides(moments, stacked(u, v), stacked(u, v), rule, 9);
    t.true(maxDifference(same.m, moments.m) < 1e-6 && maxDifference(same.v, moments.v) < 1e-6, rule);
  }
});

test('a core of another rank starts from zeros under reset and is refused under keep', (t) => {
  const old = stacked(orthonormalMatrix(9, 3, 'u'), orthonormalMatrix(7, 3, 'v'));
  const grown = stacked(orthonormalMatrix(9, 4, 'u'), orthonormalMatrix(7, 4, 'v'));
  const moments = momentsOf('left', 3, 3, 'rank');
  const zeros = { m: matrix(4, 4), v: matrix(4, 4) };
  t.deepEqual(byTensorsOnBothSides(moments, old, grown, 'reset', 9), zeros);
  t.throws(() => byTensorsOnBothSides(moments, old, grown, 'keep', 9), { instanceOf: TensorShapeError });
});

test('transport leaves no tensors behind but its results', (t) => {
  const [basis, m] = [tensorOf(orthonormalMatrix(12, 4, 'leak')), tf.zeros([4, 9])];
  const change = { oldBasis: basis, newBasis: basis, side: 'left' as const };
  const [core, bases] = [tf.zeros([4, 4]), tensorOf(matrix(21, 4))];
  const both = { oldBasis: bases, newBasis: bases, side: 'left' as const, rows: 12 };
  for (const rule of ['keep', 'reset', 'rotate', 'ldadam', 'transport', 'adarank'] as const) {
    assertNoLeak(t, () => ({ ...transportMoments({ m, v: m }, change, rule, 3, BETAS) }), 2);
    assertNoLeak(t, () => ({ ...transportMoments({ m: core, v: core }, both, rule, 3, BETAS) }), 2);
  }
  tf.dispose([basis, m, core, bases]);
});
