import test from 'ava';
import fc from 'fast-check';
import { TensorShapeError } from '../../../src/errors.ts';
import { matrix, multiply, transpose, zip, type Matrix } from '../../../src/galore/matrix.ts';
import { referenceLift, referenceTransport } from '../../../src/galore/optimizer/reference.ts';
import { transportMoments, type MomentsRule } from '../../../src/galore/projection/transport.ts';
import type { Side } from '../../../src/galore/slot.ts';
import { maxDifference, orthonormalMatrix, randomMatrix } from '../matrices.ts';
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
    for (const rule of ['keep', 'reset', 'transport'] as const) {
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

test('transport leaves no tensors behind but its results', (t) => {
  const [basis, m] = [tensorOf(orthonormalMatrix(12, 4, 'leak')), tf.zeros([4, 9])];
  const change = { oldBasis: basis, newBasis: basis, side: 'left' as const };
  for (const rule of ['keep', 'reset', 'transport'] as const) {
    assertNoLeak(t, () => ({ ...transportMoments({ m, v: m }, change, rule, 3, BETAS) }), 2);
  }
  tf.dispose([basis, m]);
});
