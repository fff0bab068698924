/**
 * What galore/projection/factorise.ts does, by TensorFlow's kernels on all threads, in f64 (factors in f32 where that
 * is enough). Everything comes from the
 * Gram matrix of the shorter side: f64 allows that for sums that are f32, because what squaring loses (singular
 * values below 1e-7 of the largest) is less than the rounding of the sums. Equal input gives equal bits on one
 * machine with one number of threads. Where a kernel fails, the plain version is called.
 */
import * as tf from '@tensorflow/tfjs-core';
import { TensorShapeError } from '../errors.ts';
import { plainFactoriser, type Factoriser, type SingularVectors } from '../galore/projection/factorise.ts';
import { canonicalSigns } from '../galore/projection/canonical-signs.ts';
import { signMatrix } from '../galore/projection/sketch.ts';
import { derive } from '../random.ts';
import { Doubles, type DoubleMatrix } from './engine/doubles.ts';

/** Singular values below this share of the largest are rounding of f32 sums: their vectors are made up. */
const NEGLIGIBLE = 1e-6;
/** From this share on one division leaves vectors orthonormal to 1e-9: the error is about 1e-15 (s_1 / s_j)^2. */
const STRONG = 1e-3;

/** A Gram matrix in f32 is wrong by about 1e-6 of its largest entry: shares below say nothing, and the second pass judges the first. */
const SINGLE_SHARE = 1e-3;

export const nativeFactoriser: Factoriser = {
  orthonormalise(x, rows, cols) {
    if (rows < cols) {
      throw new TensorShapeError(`${cols} columns of ${rows} elements cannot be orthonormal`);
    }
    const scale = scaleOf(x);
    const found =
      scale === 0
        ? null
        : orNull(() => {
            const scaled = scaledBy(x, 1 / scale);
            const quick = hasExactProducts() ? orNull(() => orthonormalSingles(scaled, rows, cols)) : null;
            if (quick !== null) return quick;
            using doubles = new Doubles();
            const q = orthonormalColumns(doubles, doubles.matrix(scaled, rows, cols));
            return q === null ? null : finite(doubles.toFloat32(q));
          });
    return (
      found ??
      nativeFactoriser.singularVectors(x, rows, cols, cols, false)?.left ??
      plainFactoriser.orthonormalise(x, rows, cols)
    );
  },

  singularVectors(x, rows, cols, rank, isPair) {
    const size = Math.min(rows, cols);
    if (rank > (isPair ? size : rows)) {
      throw new TensorShapeError(`${rows} x ${cols} has no ${rank} ${isPair ? 'pairs' : 'columns'} to give`);
    }
    const scale = scaleOf(x);
    if (scale === 0) return null;
    const found = orNull(() => {
      using doubles = new Doubles();
      const input = doubles.matrix(scaledBy(x, 1 / scale), rows, cols);
      return gramVectors(doubles, input, rank, isPair);
    });
    if (found === null) return plainFactoriser.singularVectors(x, rows, cols, rank, isPair);
    return { ...found, singularValues: found.singularValues.map((value) => value * scale) };
  },

  product(a, b, rows, inner, cols) {
    using doubles = new Doubles();
    const result = doubles.product(doubles.matrix(a, rows, inner), doubles.matrix(b, inner, cols));
    return doubles.toFloat32(result);
  },
};

/** Whether the engine multiplies f32 as f32: not in bf16, nor in TF32 as a GPU may. */
function hasExactProducts(): boolean {
  const odd = 1 + 2 ** -12; // 1 in either
  return tf.tidy(() => tf.matMul(tf.fill([32, 32], odd), tf.eye(32)).dataSync()[0] === odd);
}

/**
 * Cholesky QR twice with the large products in f32, which are four times as fast: good for columns whose Gram matrix f32
 * can hold. The second pass removes what the first one's rounding left. Null where columns are too close.
 */
function orthonormalSingles(x: Float32Array, rows: number, cols: number): Float32Array | null {
  const result: { q?: Float32Array } = {};
  tf.tidy(() => {
    let q = tf.tensor2d(x, [rows, cols]);
    for (const least of [SINGLE_SHARE, 0.5]) {
      using doubles = new Doubles();
      const gram = tf.matMul(q, q, true, false).dataSync<'float32'>() as Float32Array;
      const { inverse, share } = choleskyInverse(doubles, doubles.matrix(gram, cols, cols));
      if (!(share >= least)) return;
      q = tf.matMul(q, tf.tensor2d(doubles.toFloat32(inverse), [cols, cols]), false, true);
    }
    result.q = finite(q.dataSync<'float32'>() as Float32Array);
  });
  return result.q ?? null;
}

/** X L^-T with LL' = X'X (Cholesky QR), twice where columns are far from orthogonal; null: they depend on one another. */
function orthonormalColumns(doubles: Doubles, x: DoubleMatrix): DoubleMatrix | null {
  const first = choleskyQr(doubles, x);
  if (first.share >= STRONG) return first.q;
  return first.share >= NEGLIGIBLE ? choleskyQr(doubles, first.q).q : null;
}

function choleskyQr(doubles: Doubles, x: DoubleMatrix): { readonly q: DoubleMatrix; readonly share: number } {
  const { inverse, share } = choleskyInverse(doubles, doubles.product(x, x, true, false));
  return { q: doubles.product(x, inverse, false, true), share };
}

/** L^-1 for LL' = `gram`, with `share`, the smallest diagonal entry of L over the largest: 1 for orthonormal columns. */
function choleskyInverse(
  doubles: Doubles,
  gram: DoubleMatrix,
): { readonly inverse: DoubleMatrix; readonly share: number } {
  const lower = doubles.cholesky(gram);
  const entries = doubles.toFloat32(lower);
  const diagonal = Float32Array.from({ length: gram.cols }, (_, j) => entries[j * (gram.cols + 1)]!);
  const share = diagonal.reduce((a, b) => Math.min(a, b)) / diagonal.reduce((a, b) => Math.max(a, b));
  return { inverse: doubles.solveLower(lower, identity(doubles, gram.cols)), share };
}

/** From the eigenvectors E of the shorter side's Gram matrix: that side's vectors are E, the other's XE / s. */
function gramVectors(
  doubles: Doubles,
  x: DoubleMatrix,
  rank: number,
  isPair: boolean,
): SingularVectors | null {
  const isTall = x.rows > x.cols;
  const size = Math.min(x.rows, x.cols);
  const { values, vectors } = doubles.eigen(doubles.product(x, x, isTall, !isTall));
  const singularValues = Float64Array.from({ length: rank }, (_, j) =>
    j < size ? Math.sqrt(Math.max(0, values[size - 1 - j]!)) : 0,
  );
  if (!(singularValues[0]! > 0)) return null;
  const shortSide = (): DoubleMatrix => {
    return doubles.product(
      vectors,
      selection(doubles, size, Math.min(rank, size), () => 1),
    );
  };
  const longSide = (): DoubleMatrix => divided(doubles, x, isTall, vectors, singularValues);
  const left = finite(doubles.toFloat32(isTall ? longSide() : shortSide()));
  const right = isPair ? finite(doubles.toFloat32(isTall ? shortSide() : longSide())) : null;
  canonicalSigns(left, x.rows, rank, right);
  return { left, right, singularValues };
}

/** XE / s in the order of `singularValues`; columns without a singular value are made up, orthogonal to all. */
function divided(
  doubles: Doubles,
  x: DoubleMatrix,
  isTall: boolean,
  vectors: DoubleMatrix,
  singularValues: Float64Array,
): DoubleMatrix {
  const rank = singularValues.length;
  const rows = isTall ? x.rows : x.cols;
  const largest = singularValues[0]!;
  const inverse = (j: number): number => {
    return singularValues[j]! > NEGLIGIBLE * largest ? 1 / singularValues[j]! : 0;
  };
  const divided = doubles.product(vectors, selection(doubles, vectors.cols, rank, inverse));
  const columns = doubles.product(x, divided, !isTall, false);
  if (singularValues[rank - 1]! >= STRONG * largest) return columns;
  const madeUp = signMatrix(derive(0, 'completion'), rows, rank);
  for (let i = 0; i < madeUp.length; i++)
    madeUp[i] = inverse(i % rank) === 0 ? madeUp[i]! / Math.sqrt(rows) : 0;
  const completed = doubles.sum(columns, doubles.matrix(madeUp, rows, rank));
  return choleskyQr(doubles, choleskyQr(doubles, completed).q).q;
}

/** `[size, rank]`: takes eigenvectors in descending order of their values, column j times `factor(j)`. */
function selection(
  doubles: Doubles,
  size: number,
  rank: number,
  factor: (column: number) => number,
): DoubleMatrix {
  const values = new Float32Array(size * rank);
  for (let j = 0; j < Math.min(size, rank); j++) values[(size - 1 - j) * rank + j] = factor(j);
  return doubles.matrix(values, size, rank);
}

function identity(doubles: Doubles, size: number): DoubleMatrix {
  const values = new Float32Array(size * size);
  for (let j = 0; j < size; j++) values[j * size + j] = 1;
  return doubles.matrix(values, size, size);
}

/**
 * What to divide by, so that squares rounded to f32 neither vanish nor overflow: 1 for entries of a usual size, else
 * a power of two near the largest; 0 for a zero matrix.
 */
function scaleOf(x: Float32Array): number {
  let largest = 0;
  for (let i = 0; i < x.length; i++) {
    const value = Math.abs(x[i]!);
    if (!(value < Infinity)) throw new RangeError(`element ${i} of ${x.length} is ${x[i]}`);
    if (value > largest) largest = value;
  }
  if (largest === 0 || (largest > 1e-6 && largest < 1e6)) return Math.sign(largest);
  return 2 ** Math.floor(Math.log2(largest));
}

function scaledBy(x: Float32Array, factor: number): Float32Array {
  if (factor === 1) return x;
  const scaled = new Float32Array(x.length);
  for (let i = 0; i < x.length; i++) scaled[i] = x[i]! * factor;
  return scaled;
}

/** TensorFlow's Cholesky on a matrix that is not positive definite throws, or gives NaN on a GPU: not an error here. */
class KernelFailure extends Error {}

function finite(values: Float32Array): Float32Array {
  for (let i = 0; i < values.length; i++) {
    if (!Number.isFinite(values[i])) throw new KernelFailure('the engine gave numbers that are not finite');
  }
  return values;
}

/** Null where a kernel failed: the callers have another way then. */
function orNull<T>(compute: () => T | null): T | null {
  try {
    return compute();
  } catch (error) {
    const isKernels =
      error instanceof KernelFailure ||
      (error instanceof Error && error.message.startsWith('Invalid TF_Status'));
    if (isKernels) return null;
    throw error;
  }
}
