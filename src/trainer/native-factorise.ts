/**
 * What galore/projection/factorise.ts does, by TensorFlow's kernels on all threads: with products in f32 where that is
 * enough (native-singles.ts), else in f64. Everything comes from the Gram matrix of the shorter side: f64 allows that for sums that are f32, because what squaring loses (singular
 * values below 1e-7 of the largest) is less than the rounding of the sums. Equal input gives equal bits on one
 * machine with one number of threads. Where a kernel fails, the plain version is called.
 */
import { TensorShapeError } from '../errors.ts';
import { plainFactoriser, type Factoriser, type SingularVectors } from '../galore/projection/factorise.ts';
import { canonicalSigns } from '../galore/projection/canonical-signs.ts';
import { signMatrix } from '../galore/projection/sketch.ts';
import { derive } from '../random.ts';
import { choleskyInverse, Doubles, type DoubleMatrix } from './engine/doubles.ts';
import { finite, orNull } from './engine/kernel-failure.ts';
import { looseFactor, singleBasis, singleFactor } from './native-singles.ts';

/** Singular values below this share of the largest are rounding of f32 sums: their vectors are made up. */
const NEGLIGIBLE = 1e-6;
/** From this share on one division leaves vectors orthonormal to 1e-9: the error is about 1e-15 (s_1 / s_j)^2. */
const STRONG = 1e-3;

export const nativeFactoriser: Factoriser = {
  factor(x, rows, cols) {
    const quick = rows < cols ? null : looseFactor(x, rows, cols);
    return quick ?? nativeFactoriser.orthonormalise(x, rows, cols);
  },

  basis(x, rows, cols, rank) {
    const quick = singleBasis(x, rows, cols, rank);
    return quick ?? nativeFactoriser.singularVectors(x, rows, cols, rank, false)?.left ?? null;
  },

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
            const quick = singleFactor(scaled, rows, cols);
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
