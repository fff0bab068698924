/**
 * Orthonormal factors of summed sketches, in f64 on plain arrays: Householder QR, then the SVD of the
 * small triangular factor by one-sided Jacobi rotations. Only + - * / and square roots, in a fixed
 * order: equal input gives equal bits on every machine. Input and output are row-major.
 */
import { TensorShapeError } from '../../errors.ts';
import { matrix, multiply, transpose } from '../matrix.ts';
import { canonicalSigns } from './canonical-signs.ts';

/** A basis `[rows, rank]`, row-major, and the singular values behind it, descending. */
export interface LeadingBasis {
  readonly basis: Float32Array;
  readonly singularValues: Float64Array;
}

/** Leading singular vectors of a matrix X: X v_j = s_j u_j. */
export interface SingularVectors {
  /** u_1, u_2, …: `[rows, rank]`, canonical signs. */
  readonly left: Float32Array;
  /** v_1, v_2, …: `[cols, rank]`, with the signs that belong to those of `left`; null where not asked for. */
  readonly right: Float32Array | null;
  /** Descending, `rank` of them. */
  readonly singularValues: Float64Array;
}

/** What a refresh needs of linear algebra. All matrices are row-major f32; the arithmetic is f64. */
export interface Factoriser {
  /**
   * Columns that span those of `x` for the next product: nearly orthonormal, |Q'Qz - z| <= 0.03 |z| for random z;
   * else as `orthonormalise`.
   */
  factor(x: Float32Array, rows: number, cols: number): Float32Array;
  /**
   * What `singularVectors` calls `left`, where nothing else is asked for: orthonormal to 1e-6, but vectors whose singular
   * values differ by less than the rounding of f32 may be mixed. Null when `x` is zero.
   * @throws as `singularVectors`
   */
  basis(x: Float32Array, rows: number, cols: number, rank: number): Float32Array | null;
  /** As the function `orthonormalise`. */
  orthonormalise(x: Float32Array, rows: number, cols: number): Float32Array;
  /**
   * Left singular vectors as `leadingBasis` gives them and, if `isPair`, the right ones; null when `x` is zero.
   * @throws TensorShapeError when there are fewer than `rank`; RangeError when an entry is not finite
   */
  singularVectors(
    x: Float32Array,
    rows: number,
    cols: number,
    rank: number,
    isPair: boolean,
  ): SingularVectors | null;
  /** AB for A `[rows, inner]` and B `[inner, cols]`, rounded once. */
  product(a: Float32Array, b: Float32Array, rows: number, inner: number, cols: number): Float32Array;
}

/** The functions of this file as a `Factoriser`: equal bits on every machine. */
export const plainFactoriser: Factoriser = {
  factor: (x, rows, cols) => plainFactoriser.orthonormalise(x, rows, cols),
  basis: (x, rows, cols, rank) => plainFactoriser.singularVectors(x, rows, cols, rank, false)?.left ?? null,
  orthonormalise: (x, rows, cols) => Float32Array.from(orthonormalise(x, rows, cols)),
  singularVectors(x, rows, cols, rank, isPair) {
    if (isPair && rank > Math.min(rows, cols)) {
      throw new TensorShapeError(`${rows} x ${cols} has no ${rank} pairs of singular vectors`);
    }
    const leading = leadingBasis(x, rows, cols, rank);
    if (leading === null) return null;
    const { basis: left, singularValues } = leading;
    return { left, right: isPair ? rightVectors(x, left, rows, cols, rank) : null, singularValues };
  },
  product(a, b, rows, inner, cols) {
    return Float32Array.from(multiply(matrix(rows, inner, a), matrix(inner, cols, b)).values);
  },
};

/** The columns of X'U are s_j v_j: orthogonal already, so that QR divides by s_j and completes where it is 0. */
function rightVectors(
  x: Float32Array,
  left: Float32Array,
  rows: number,
  cols: number,
  rank: number,
): Float32Array {
  const scaled = multiply(transpose(matrix(rows, cols, x)), matrix(rows, rank, left));
  const right = orthonormalise(scaled.values, cols, rank);
  for (let j = 0; j < rank; j++) {
    let agreement = 0;
    for (let i = 0; i < cols; i++) agreement += right[i * rank + j]! * scaled.values[i * rank + j]!;
    if (agreement < 0) for (let i = 0; i < cols; i++) right[i * rank + j] = -right[i * rank + j]!;
  }
  return Float32Array.from(right);
}

/**
 * Orthonormal columns that span those of `x` (rows >= cols), `[rows, cols]`. Columns that depend on
 * those before them are replaced by others, orthogonal to all; the same ones every time.
 */
export function orthonormalise(x: Float64Array | Float32Array, rows: number, cols: number): Float64Array {
  if (rows < cols) throw new TensorShapeError(`${cols} columns of ${rows} elements cannot be orthonormal`);
  const reflectors = householder(columnsOf(x, rows, cols), rows, cols);
  const q = new Float64Array(rows * cols);
  for (let j = 0; j < cols; j++) q[j * rows + j] = 1;
  applyReflectors(reflectors, q, cols, true);
  return rowsOf(q, rows, cols);
}

/**
 * The `rank` leading left singular vectors of `x`, tall or wide, ordered by singular value, with
 * canonical signs: in each column the entry of largest magnitude (the first of equal ones) is positive.
 * Where `x` has a lower rank the rest is completed to orthonormal columns. Null when `x` is zero.
 * @throws RangeError when an entry is not finite.
 */
export function leadingBasis(
  x: Float64Array | Float32Array,
  rows: number,
  cols: number,
  rank: number,
): LeadingBasis | null {
  if (rank > rows) throw new TensorShapeError(`${rank} columns of ${rows} elements cannot be orthonormal`);
  if (isZero(x)) return null;
  const isTall = rows >= cols;
  const outer = isTall ? householder(columnsOf(x, rows, cols), rows, cols) : null;
  // x = Q R when tall; the left vectors of x are then Q times those of R.
  const size = Math.min(rows, cols);
  const inner =
    outer === null
      ? householder(new Float64Array(x), cols, rows) // the columns of x' are the rows of x
      : householder(transposedTriangle(outer), size, size);
  const { vectors, values } = leftSingularVectors(transposedTriangle(inner), size);
  const kept = Math.min(rank, size);
  const basis = new Float64Array(rows * rank);
  for (let j = 0; j < kept; j++) basis.set(vectors.subarray(j * size, (j + 1) * size), j * rows);
  for (let j = kept; j < rank; j++) basis[j * rows + j] = 1;
  if (outer !== null) applyReflectors(outer, basis, rank, false);
  const columns = Float32Array.from(rowsOf(basis, rows, rank));
  canonicalSigns(columns, rows, rank);
  return {
    basis: columns,
    singularValues: Float64Array.from({ length: rank }, (_, j) => values[j] ?? 0),
  };
}

/** A QR factorisation in place: column k holds R above row k and reflector k (its first entry 1 left out) below. */
interface Reflectors {
  readonly rows: number;
  readonly cols: number;
  readonly data: Float64Array; // column-major
  readonly diagonal: Float64Array; // of R
  readonly taus: Float64Array; // H_k = I - tau_k v_k v_k'
}

/** Householder QR of a column-major matrix with rows >= cols; overwrites `data`. */
function householder(data: Float64Array, rows: number, cols: number): Reflectors {
  const diagonal = new Float64Array(cols);
  const taus = new Float64Array(cols);
  const v = new Float64Array(rows);
  for (let k = 0; k < cols; k++) {
    const start = k * rows + k;
    const length = rows - k;
    const head = data[start]!;
    const tail = dot(data, start + 1, data, start + 1, length - 1);
    const norm = Math.sqrt(head * head + tail);
    if (tail === 0 || norm === 0) {
      diagonal[k] = head; // already triangular here: H_k = I
      continue;
    }
    const alpha = head > 0 ? -norm : norm;
    const first = head - alpha;
    for (let i = 1; i < length; i++) data[start + i] = data[start + i]! / first;
    diagonal[k] = alpha;
    taus[k] = -first / alpha;
    v.set(data.subarray(start, start + length));
    v[0] = 1;
    reflect(v, taus[k]!, data, start + rows, rows, length, cols - k - 1);
  }
  return { rows, cols, data, diagonal, taus };
}

/**
 * B <- H_0 H_1 … B for a column-major `[rows, count]` B. `isIdentity`: B is the first columns of the
 * identity, so that reflector k changes only columns k and later.
 */
function applyReflectors(reflectors: Reflectors, b: Float64Array, count: number, isIdentity: boolean): void {
  const { rows, cols, data, taus } = reflectors;
  const v = new Float64Array(rows);
  for (let k = cols - 1; k >= 0; k--) {
    const tau = taus[k]!;
    if (tau === 0) continue;
    const start = k * rows + k;
    const length = rows - k;
    v.set(data.subarray(start, start + length));
    v[0] = 1;
    const from = isIdentity ? Math.min(k, count) : 0;
    reflect(v, tau, b, from * rows + k, rows, length, count - from);
  }
}

/** Subtracts tau v (v'b) from `count` columns b of `length`, `stride` apart; four columns share a pass. */
function reflect(
  v: Float64Array,
  tau: number,
  b: Float64Array,
  start: number,
  stride: number,
  length: number,
  count: number,
): void {
  let j = 0;
  for (; j + 4 <= count; j += 4) {
    const o0 = start + j * stride;
    const o1 = o0 + stride;
    const o2 = o1 + stride;
    const o3 = o2 + stride;
    let s0 = 0;
    let s1 = 0;
    let s2 = 0;
    let s3 = 0;
    for (let i = 0; i < length; i++) {
      const vi = v[i]!;
      s0 += vi * b[o0 + i]!;
      s1 += vi * b[o1 + i]!;
      s2 += vi * b[o2 + i]!;
      s3 += vi * b[o3 + i]!;
    }
    s0 *= tau;
    s1 *= tau;
    s2 *= tau;
    s3 *= tau;
    for (let i = 0; i < length; i++) {
      const vi = v[i]!;
      b[o0 + i] = b[o0 + i]! - s0 * vi;
      b[o1 + i] = b[o1 + i]! - s1 * vi;
      b[o2 + i] = b[o2 + i]! - s2 * vi;
      b[o3 + i] = b[o3 + i]! - s3 * vi;
    }
  }
  for (; j < count; j++) {
    const o = start + j * stride;
    const s = tau * dot(v, 0, b, o, length);
    for (let i = 0; i < length; i++) b[o + i] = b[o + i]! - s * v[i]!;
  }
}

function dot(a: Float64Array, aStart: number, b: Float64Array, bStart: number, length: number): number {
  let s0 = 0;
  let s1 = 0;
  let s2 = 0;
  let s3 = 0;
  let i = 0;
  for (; i + 4 <= length; i += 4) {
    s0 += a[aStart + i]! * b[bStart + i]!;
    s1 += a[aStart + i + 1]! * b[bStart + i + 1]!;
    s2 += a[aStart + i + 2]! * b[bStart + i + 2]!;
    s3 += a[aStart + i + 3]! * b[bStart + i + 3]!;
  }
  for (; i < length; i++) s0 += a[aStart + i]! * b[bStart + i]!;
  return s0 + s1 + (s2 + s3);
}

/** R' of a factorisation, column-major `[cols, cols]`: lower triangular. */
function transposedTriangle({ rows, cols, data, diagonal }: Reflectors): Float64Array {
  const lower = new Float64Array(cols * cols);
  for (let j = 0; j < cols; j++) {
    lower[j * cols + j] = diagonal[j]!;
    for (let k = j + 1; k < cols; k++) lower[j * cols + k] = data[k * rows + j]!;
  }
  return lower;
}

const MAX_SWEEPS = 40;
/** Cosine of the angle of two columns that counts as a right angle; the basis is rounded to f32 anyway. */
const RIGHT_ANGLE = 1e-14;
/** Columns shorter than this share of the longest are rounding noise: their vectors are replaced. */
const NEGLIGIBLE = 1e-13;

/**
 * Left singular vectors and values of a column-major square matrix, descending, by one-sided Jacobi
 * (Hestenes; with de Rijk's ordering): rotates pairs of columns until all are orthogonal. Overwrites
 * `a`. Fast when `a` is the transposed triangle of a QR (Drmac & Veselic): nearly diagonal.
 */
function leftSingularVectors(a: Float64Array, size: number): { vectors: Float64Array; values: Float64Array } {
  const squares = new Float64Array(size); // squared column norms
  for (let sweep = 0; sweep < MAX_SWEEPS; sweep++) {
    let longest = 0;
    for (let j = 0; j < size; j++) {
      squares[j] = dot(a, j * size, a, j * size, size);
      longest = Math.max(longest, squares[j]!);
    }
    const negligible = longest * NEGLIGIBLE * NEGLIGIBLE;
    if (sweepPairs(a, size, squares, negligible) === 0) break;
  }
  return normaliseColumns(a, size, squares);
}

/** One rotation for each pair of columns; returns how many were needed. */
function sweepPairs(a: Float64Array, size: number, squares: Float64Array, negligible: number): number {
  let rotations = 0;
  for (let p = 0; p + 1 < size; p++) {
    for (let q = p + 1; q < size; q++) {
      const alpha = squares[p]!;
      const beta = squares[q]!;
      if (alpha <= negligible || beta <= negligible) {
        if (alpha < beta) swapColumns(a, size, squares, p, q);
        continue;
      }
      const gamma = dot(a, p * size, a, q * size, size);
      if (Math.abs(gamma) <= RIGHT_ANGLE * Math.sqrt(alpha * beta)) {
        if (alpha < beta) swapColumns(a, size, squares, p, q);
        continue;
      }
      rotations++;
      // The rotation that makes both orthogonal and leaves the longer one at p.
      const zeta = (alpha - beta) / (2 * gamma);
      const root = Math.sqrt(1 + zeta * zeta);
      const t = zeta >= 0 ? 1 / (zeta + root) : 1 / (zeta - root);
      const tangent = alpha >= beta ? t : -1 / t;
      const c = 1 / Math.sqrt(1 + tangent * tangent);
      rotate(a, p * size, q * size, size, c, c * tangent);
      squares[p] = alpha + tangent * gamma;
      squares[q] = Math.max(0, beta - tangent * gamma);
    }
  }
  return rotations;
}

/** (p, q) <- (c p + s q, c q - s p) */
function rotate(a: Float64Array, p: number, q: number, length: number, c: number, s: number): void {
  for (let i = 0; i < length; i++) {
    const x = a[p + i]!;
    const y = a[q + i]!;
    a[p + i] = c * x + s * y;
    a[q + i] = c * y - s * x;
  }
}

function swapColumns(a: Float64Array, size: number, squares: Float64Array, p: number, q: number): void {
  rotate(a, p * size, q * size, size, 0, 1); // q changes its sign; that is allowed
  const square = squares[p]!;
  squares[p] = squares[q]!;
  squares[q] = square;
}

function normaliseColumns(
  a: Float64Array,
  size: number,
  squares: Float64Array,
): { vectors: Float64Array; values: Float64Array } {
  const order = Array.from({ length: size }, (_, j) => j).sort((i, j) => squares[j]! - squares[i]! || i - j);
  const vectors = new Float64Array(size * size);
  const values = new Float64Array(size);
  const longest = Math.sqrt(squares[order[0] ?? 0] ?? 0);
  let count = 0;
  for (const j of order) {
    const norm = Math.sqrt(squares[j]!);
    if (norm <= longest * NEGLIGIBLE) break;
    values[count] = norm;
    for (let i = 0; i < size; i++) vectors[count * size + i] = a[j * size + i]! / norm;
    count++;
  }
  completeColumns(vectors, size, count);
  return { vectors, values };
}

/** Fills columns `from` and later with unit vectors made orthogonal to all columns before them (Gram-Schmidt twice). */
function completeColumns(vectors: Float64Array, size: number, from: number): void {
  let unit = 0;
  for (let j = from; j < size; j++) {
    const column = vectors.subarray(j * size, (j + 1) * size);
    for (let norm = 0; norm < 0.5 / Math.sqrt(size); unit++) {
      column.fill(0);
      column[unit] = 1;
      for (let pass = 0; pass < 2; pass++) {
        for (let k = 0; k < j; k++) {
          const overlap = dot(vectors, k * size, column, 0, size);
          for (let i = 0; i < size; i++) column[i] = column[i]! - overlap * vectors[k * size + i]!;
        }
      }
      norm = Math.sqrt(dot(column, 0, column, 0, size));
      if (norm > 0) for (let i = 0; i < size; i++) column[i] = column[i]! / norm;
    }
  }
}

function isZero(x: Float64Array | Float32Array): boolean {
  let isAllZero = true;
  for (let i = 0; i < x.length; i++) {
    const value = x[i]!;
    if (value !== 0) isAllZero = false;
    if (!Number.isFinite(value)) throw new RangeError(`element ${i} of ${x.length} is ${value}`);
  }
  return isAllZero;
}

function columnsOf(x: Float64Array | Float32Array, rows: number, cols: number): Float64Array {
  const columns = new Float64Array(rows * cols);
  for (let i = 0; i < rows; i++) for (let j = 0; j < cols; j++) columns[j * rows + i] = x[i * cols + j]!;
  return columns;
}

function rowsOf(columns: Float64Array, rows: number, cols: number): Float64Array {
  return columnsOf(columns, cols, rows);
}
