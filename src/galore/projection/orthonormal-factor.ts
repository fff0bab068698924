/**
 * The next factor of a power slot: orthonormal columns that span those of the summed product. Every trainer makes it
 * from the same bytes and gets the same bits: only + - * / and square roots of f64 in a fixed order. Cholesky QR (X'X =
 * LL', Q = X L^-T), which costs a few milliseconds for 32000 x 128 where Householder's reflectors take seconds;
 * a second time where columns are nearly dependent. Columns that are dependent are replaced by random ones.
 */
import { TensorShapeError } from '../../errors.ts';
import { derive } from '../../random.ts';
import { gramOf, timesSquare } from './fixed-sums.ts';
import { portableNormal } from './portable-normal.ts';

/** Of a column what is left beside those before it, as a share of its square: below this it is rounding. */
const DEPENDENT = 1e-11;
/** Above this one pass leaves no more than the rounding of f32. */
const INDEPENDENT = 1e-6;
/** Random columns are dependent once in a million years; a bug would be for ever. */
const MAX_PASSES = 8;

/** What one pass does to X: XT is orthonormal but for the columns that are to be replaced. */
interface Pass {
  /** `[cols, cols]`, upper triangular. */
  readonly t: Float64Array;
  readonly dependent: readonly number[];
  readonly least: number;
}

/**
 * `[rows, cols]` row-major, rows >= cols; null for a product of zeros.
 * @param gram X'X, if the caller has it
 * @throws TensorShapeError for more columns than rows
 */
export function orthonormalFactor(
  product: Float32Array,
  rows: number,
  cols: number,
  gram: Float64Array = gramOf(product, rows, cols),
): Float32Array | null {
  if (rows < cols) throw new TensorShapeError(`${cols} columns of ${rows} elements cannot be orthonormal`);
  let [x, its] = [product, gram];
  for (let pass = 0; pass < MAX_PASSES; pass++) {
    const { t, dependent, least } = choleskyPass(its, cols);
    if (pass === 0 && dependent.length === cols) return null;
    if (dependent.length > 0) x = withRandomColumns(x, rows, cols, dependent, pass);
    else {
      x = timesSquare(x, rows, cols, t);
      if (least > INDEPENDENT) return x;
    }
    its = gramOf(x, rows, cols);
  }
  throw new Error(`${rows} x ${cols} numbers cannot be made orthonormal`);
}

/** L of the Gram matrix with columns of length 1, so that their sizes do not matter, and T = D^-1 L^-T. */
function choleskyPass(gram: Float64Array, cols: number): Pass {
  const lengths = Float64Array.from({ length: cols }, (_, j) => Math.sqrt(gram[j * cols + j]!));
  const l = new Float64Array(cols * cols);
  const dependent: number[] = [];
  let least = 1;
  for (let j = 0; j < cols; j++) {
    for (let i = 0; i < j; i++) {
      let sum = lengths[i]! > 0 && lengths[j]! > 0 ? gram[j * cols + i]! / lengths[i]! / lengths[j]! : 0;
      for (let k = 0; k < i; k++) sum -= l[j * cols + k]! * l[i * cols + k]!;
      l[j * cols + i] = sum / l[i * cols + i]!;
    }
    let rest = lengths[j]! > 0 ? 1 : 0;
    for (let k = 0; k < j; k++) rest -= l[j * cols + k]! * l[j * cols + k]!;
    if (rest > DEPENDENT) {
      least = Math.min(least, rest);
      l[j * cols + j] = Math.sqrt(rest);
    } else {
      dependent.push(j);
      l.fill(0, j * cols, j * cols + j);
      l[j * cols + j] = 1;
    }
  }
  return { t: scaledInverse(l, lengths, cols), dependent, least };
}

/** D^-1 L^-T: upper triangular. */
function scaledInverse(l: Float64Array, lengths: Float64Array, cols: number): Float64Array {
  const t = new Float64Array(cols * cols);
  for (let j = 0; j < cols; j++) {
    // Column j of L^-1, which is row j of the transpose.
    for (let i = j; i < cols; i++) {
      let sum = i === j ? 1 : 0;
      for (let k = j; k < i; k++) sum -= l[i * cols + k]! * t[j * cols + k]!;
      t[j * cols + i] = sum / l[i * cols + i]!;
    }
  }
  for (let j = 0; j < cols; j++) {
    for (let i = j; i < cols; i++) t[j * cols + i] = lengths[j]! > 0 ? t[j * cols + i]! / lengths[j]! : 0;
  }
  return t;
}

/** A copy of `x` in which these columns are others: of normal numbers, the same ones every time. */
function withRandomColumns(
  x: Float32Array,
  rows: number,
  cols: number,
  columns: readonly number[],
  pass: number,
): Float32Array {
  const copy = Float32Array.from(x);
  for (const column of columns) {
    const key = derive(0, 'replacement', column, pass);
    for (let i = 0; i < rows; i++) copy[i * cols + column] = portableNormal(key, i);
  }
  return copy;
}
