/**
 * The nearest matrix with orthonormal rows (or columns): O = U V' of X = U S V'. By the eigenvectors Q of
 * the small Gram matrix X X' = Q S^2 Q', made in f64, so that singular values are told apart down to 1e-6
 * of the largest: O = Q S^-1 Q' X.
 */
import * as tf from '@tensorflow/tfjs-core';
import { symmetricEigen } from './symmetric-eigen.ts';

/** Singular values below this share of the largest are rounding noise of f32; their directions are left out. */
const NEGLIGIBLE = 1e-6;

/**
 * The polar factor of `x`, `[rows, cols]`: all its singular values are 1, or 0 where those of `x` are
 * negligible. Zeros stay zeros. A new tensor.
 * @throws RangeError when an entry is not finite
 */
export function polarFactor(x: tf.Tensor2D): tf.Tensor2D {
  const [rows, cols] = x.shape;
  const isWide = rows <= cols;
  const size = Math.min(rows, cols);
  const gram = gramOfRows(
    isWide ? Float64Array.from(x.dataSync()) : transposed(x.dataSync(), rows, cols),
    size,
  );
  const { values, vectors } = symmetricEigen(gram, size);
  const largest = values.reduce((most, value) => Math.max(most, value), 0);
  const kept = Array.from({ length: size }, (_, i) => i).filter(
    (i) => values[i]! > largest * NEGLIGIBLE * NEGLIGIBLE,
  );
  if (kept.length === 0) return tf.zeros([rows, cols]);
  // Rows q_i / sqrt(sigma_i) = q_i / lambda_i^(1/4): with these Y, O = Y'(Y X).
  const scaled = new Float32Array(kept.length * size);
  kept.forEach((i, at) => {
    const root = Math.sqrt(Math.sqrt(values[i]!));
    for (let k = 0; k < size; k++) scaled[at * size + k] = vectors[i * size + k]! / root;
  });
  return tf.tidy(() => {
    const y = tf.tensor2d(scaled, [kept.length, size]);
    return isWide ? tf.matMul(y, tf.matMul(y, x), true, false) : tf.matMul(tf.matMul(x, y, false, true), y);
  });
}

/** X X' of a row-major `[size, length]` matrix; four rows share a pass over one. */
function gramOfRows(x: Float64Array, size: number): Float64Array {
  const length = x.length / size;
  const gram = new Float64Array(size * size);
  for (let i = 0; i < size; i++) {
    const a = i * length;
    for (let j = 0; j <= i; j += 4) {
      const b0 = j * length;
      const b1 = Math.min(j + 1, i) * length;
      const b2 = Math.min(j + 2, i) * length;
      const b3 = Math.min(j + 3, i) * length;
      let s0 = 0;
      let s1 = 0;
      let s2 = 0;
      let s3 = 0;
      for (let k = 0; k < length; k++) {
        const value = x[a + k]!;
        s0 += value * x[b0 + k]!;
        s1 += value * x[b1 + k]!;
        s2 += value * x[b2 + k]!;
        s3 += value * x[b3 + k]!;
      }
      const sums = [s0, s1, s2, s3];
      for (let offset = 0; offset < 4 && j + offset <= i; offset++) {
        const sum = sums[offset]!;
        if (!Number.isFinite(sum)) throw new RangeError(`row ${i} of a matrix is not finite`);
        gram[i * size + j + offset] = sum;
        gram[(j + offset) * size + i] = sum;
      }
    }
  }
  return gram;
}

function transposed(x: ArrayLike<number>, rows: number, cols: number): Float64Array {
  const result = new Float64Array(rows * cols);
  for (let i = 0; i < rows; i++) for (let j = 0; j < cols; j++) result[j * rows + i] = x[i * cols + j]!;
  return result;
}
