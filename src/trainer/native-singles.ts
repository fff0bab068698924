/**
 * Factors and bases with all large products in f32, which are four times as fast as in f64. Each function looks at
 * what it has made and gives null where f32 was not enough: columns too close to one another, or an engine that
 * rounds the factors of its products. The matrices of at most `cols` rows are factorised in f64 or by an eigensolver.
 */
import * as tf from '@tensorflow/tfjs-core';
import { canonicalSigns } from '../galore/projection/canonical-signs.ts';
import { FACTOR_TOLERANCE } from '../galore/projection/check.ts';
import { portableNormal } from '../galore/projection/portable-normal.ts';
import { derive } from '../random.ts';
import { symmetricEigen } from './engine/decompositions.ts';
import { choleskyInverse, Doubles } from './engine/doubles.ts';
import { finite, orNull } from './engine/kernel-failure.ts';

/** A Gram matrix in f32 is wrong by about 1e-6 of its largest entry: shares below say nothing, and the second pass judges the first. */
const SINGLE_SHARE = 1e-3;
/** The norm of Q'Q - I up to which one pass is enough: half of what the coordinator takes (check.ts). */
const LOOSE_DEVIATION = FACTOR_TOLERANCE / 2;
/** Vectors that the norm is estimated from. */
const PROBES = 4;
const PROBE_KEY = derive(0, 'deviation');
/** Eigenvalues of a Gram matrix in f32 below this share of the largest are its rounding. */
const SINGLE_EIGENVALUE = 1e-7;
/** Largest eigenvalues between which all that count are normal numbers of f32, and none overflows on the way. */
const EIGENVALUE_RANGE = [1e-24, 1e30] as const;
/** The smallest diagonal entry over the largest of a Cholesky factor that corrects small errors, and not large ones. */
const CORRECTION_SHARE = 0.9;

/** Q = X L^-T with LL' = X'X (Cholesky QR once): spans the columns of X and is orthonormal to `LOOSE_DEVIATION`. */
export function looseFactor(x: Float32Array, rows: number, cols: number): Float32Array | null {
  if (!hasExactProducts()) return null;
  return keptFrom(() => {
    const q = passOfCholesky(tf.tensor2d(x, [rows, cols]), 0);
    return q !== null && deviation(q) <= LOOSE_DEVIATION ? q : null;
  });
}

/** The same twice: orthonormal to the rounding of f32, as the second pass removes what that of the first one left. */
export function singleFactor(x: Float32Array, rows: number, cols: number): Float32Array | null {
  if (!hasExactProducts()) return null;
  const q = keptFrom(() => {
    const first = passOfCholesky(tf.tensor2d(x, [rows, cols]), SINGLE_SHARE);
    return first === null ? null : passOfCholesky(first, 0.5);
  });
  return q === null ? null : orNull(() => finite(q));
}

/**
 * The `rank` leading left singular vectors of a tall X from X'X = V S^2 V': XV / S, then one pass of Cholesky QR, which
 * goes from the first vector to the last and removes what the rounding of X'X mixed into the weaker ones. The order
 * is that of the eigenvalues in f32. Null for a matrix that is not tall, too, or has no `rank` clear directions.
 */
export function singleBasis(x: Float32Array, rows: number, cols: number, rank: number): Float32Array | null {
  if (rows <= cols || rank > cols || !hasExactProducts()) return null;
  const columns = keptFrom(() => {
    const input = tf.tensor2d(x, [rows, cols]);
    const [values, vectors] = symmetricEigen(tf.matMul(input, input, true, false)).map(
      (tensor) => tensor.dataSync<'float32'>() as Float32Array,
    ) as [Float32Array, Float32Array];
    const [least, most] = [values[cols - rank]!, values[cols - 1]!];
    if (!(most > EIGENVALUE_RANGE[0] && most < EIGENVALUE_RANGE[1])) return null;
    if (!(least > SINGLE_EIGENVALUE * most)) return null;
    const lift = new Float32Array(cols * rank); // V / S in descending order
    for (let j = 0; j < rank; j++) {
      const from = cols - 1 - j;
      const factor = 1 / Math.sqrt(values[from]!);
      for (let i = 0; i < cols; i++) lift[i * rank + j] = factor * vectors[i * cols + from]!;
    }
    return passOfCholesky(tf.matMul(input, tf.tensor2d(lift, [cols, rank])), CORRECTION_SHARE);
  });
  if (columns === null) return null;
  normaliseColumns(columns, rank);
  canonicalSigns(columns, rows, rank);
  return orNull(() => finite(columns));
}

/** X L^-T; null where the smallest diagonal entry of L is less than `least` of the largest. */
function passOfCholesky(x: tf.Tensor2D, least: number): tf.Tensor2D | null {
  const cols = x.shape[1];
  using doubles = new Doubles();
  const gram = tf.matMul(x, x, true, false).dataSync<'float32'>() as Float32Array;
  const { inverse, share } = choleskyInverse(doubles, doubles.matrix(gram, cols, cols));
  if (!(share >= least)) return null;
  return tf.matMul(x, tf.tensor2d(doubles.toFloat32(inverse), [cols, cols]), false, true);
}

/**
 * An estimate of the norm of E = Q'Q - I, which bounds |Ez| / |z| for every z; NaN where Q has one. From a few
 * random z and, as one bad direction may be nearly at right angles to all of them, from their Ez again: what is left
 * of it there grows by its full size.
 */
function deviation(q: tf.Tensor2D): number {
  const cols = q.shape[1];
  const values = Float32Array.from({ length: cols * PROBES }, (_, i) => portableNormal(PROBE_KEY, i));
  const off = (z: tf.Tensor2D) => tf.sub(tf.matMul(q, tf.matMul(q, z), true, false), z) as tf.Tensor2D;
  const z = tf.tensor2d(values, [cols, PROBES]);
  const [first, second] = [off(z), off(off(z))];
  const squares = tf.stack([z, first, second].map((columns) => tf.sum(tf.square(columns), 0)));
  const norms = squares.dataSync<'float32'>() as Float32Array;
  let largest = 0;
  for (let i = 0; i < 2 * PROBES; i++) {
    const [before, after] = [norms[i]!, norms[i + PROBES]!];
    if (!(before === 0 && after === 0)) largest = Math.max(largest, Math.sqrt(after / before));
  }
  return largest;
}

/** Norms of 1, summed in f64: sums in f32 are short by up to 1e-6. In place, row-major. */
function normaliseColumns(columns: Float32Array, cols: number): void {
  const factors = new Float64Array(cols);
  for (let i = 0; i < columns.length; i += cols) {
    for (let j = 0; j < cols; j++) factors[j] = factors[j]! + columns[i + j]! * columns[i + j]!;
  }
  for (let j = 0; j < cols; j++) factors[j] = 1 / Math.sqrt(factors[j]!);
  for (let i = 0; i < columns.length; i += cols) {
    for (let j = 0; j < cols; j++) columns[i + j] = columns[i + j]! * factors[j]!;
  }
}

/** The numbers of the tensor that `compute` gives, and nothing left of it; null where it gives none or a kernel fails. */
function keptFrom(compute: () => tf.Tensor2D | null): Float32Array | null {
  return orNull(() => {
    const result: { values: Float32Array | null } = { values: null };
    // Returned from the scope, an array would be searched for tensors number by number.
    tf.tidy(() => {
      result.values = (compute()?.dataSync<'float32'>() as Float32Array | undefined) ?? null;
    });
    return result.values;
  });
}

/** Whether the engine multiplies f32 as f32: not in bf16, nor in TF32 as a GPU may. */
function hasExactProducts(): boolean {
  const odd = 1 + 2 ** -12; // 1 in either
  return tf.tidy(() => tf.matMul(tf.fill([32, 32], odd), tf.eye(32)).dataSync()[0] === odd);
}
