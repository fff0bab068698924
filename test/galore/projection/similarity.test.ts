import test from 'ava';
import { basisSimilarity } from '../../../src/galore/projection/similarity.ts';
import { orthonormalMatrix, projectedSlot } from '../matrices.ts';

const SLOT = projectedSlot(8, 6, 'left', 2);

/** Columns of the identity, row-major `[8, columns.length]`, some with the other sign. */
function units(...columns: readonly number[]): Float32Array {
  const basis = new Float32Array(8 * columns.length);
  columns.forEach((column, j) => (basis[Math.abs(column) * columns.length + j] = Math.sign(column)));
  return basis;
}

test('the share of the old basis that the new one keeps does not depend on signs or order', (t) => {
  t.is(basisSimilarity(SLOT, units(1, 2), units(1, 2)), 1);
  t.is(basisSimilarity(SLOT, units(-2, 1), units(1, 2)), 1);
  t.is(basisSimilarity(SLOT, units(1, 3), units(1, 2)), 0.5);
  t.is(basisSimilarity(SLOT, units(3, 4), units(1, 2)), 0);
});

test('a basis of more columns keeps all of one inside it, one of fewer only its part', (t) => {
  t.is(basisSimilarity(SLOT, units(1, 2, 3, 4), units(1, 2)), 1);
  t.is(basisSimilarity(SLOT, units(1), units(1, 2)), 0.5);
});

test('of a two-sided slot both halves count alike', (t) => {
  const slot = { ...SLOT, policy: 'two-sided' } as const; // U is 8 x 2, V 6 x 2
  const [u, v, other] = ['u', 'v', 'w'].map((label) =>
    Float32Array.from(orthonormalMatrix(label === 'u' ? 8 : 6, 2, label).values),
  );
  const pair = (a: Float32Array, b: Float32Array) => Float32Array.from([...a, ...b]);
  t.true(Math.abs(basisSimilarity(slot, pair(u!, v!), pair(u!, v!)) - 1) < 1e-6);
  const half = basisSimilarity(slot, pair(u!, other!), pair(u!, v!));
  t.true(half >= 0.5 && half < 1);
});
