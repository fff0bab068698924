/**
 * Eigenvalues and eigenvectors of a symmetric matrix in f64: Householder reduction to a tridiagonal
 * matrix, then implicit QL (Golub & Van Loan, 8.3). Only + - * / and square roots, in a fixed order:
 * equal input gives equal bits on every machine.
 */

/** In no particular order; `vectors` holds eigenvector j in row j. */
export interface SymmetricEigen {
  readonly values: Float64Array;
  readonly vectors: Float64Array;
}

/** Decomposes a full symmetric row-major `[size, size]` matrix, which it overwrites. */
export function symmetricEigen(a: Float64Array, size: number): SymmetricEigen {
  const { diagonal, beside, vectors } = tridiagonalise(a, size);
  implicitQl(diagonal, beside, vectors, size);
  return { values: diagonal, vectors };
}

/** A = Q T Q'. */
interface Tridiagonal {
  readonly diagonal: Float64Array;
  /** `beside[i]` is T[i][i + 1]. */
  readonly beside: Float64Array;
  /** Q', row-major. */
  readonly vectors: Float64Array;
}

function tridiagonalise(a: Float64Array, size: number): Tridiagonal {
  const beside = new Float64Array(size);
  const taus = new Float64Array(size);
  const product = new Float64Array(size);
  for (let k = 0; k + 1 < size; k++) {
    // Reflector k maps a[k][k+1..] onto its first entry; a row is a column here. It is kept in that row.
    const row = a.subarray(k * size + k + 1, (k + 1) * size);
    const head = row[0]!;
    let tail = 0;
    for (let i = 1; i < row.length; i++) tail += row[i]! * row[i]!;
    if (tail === 0) {
      beside[k] = head;
      continue;
    }
    const norm = Math.sqrt(head * head + tail);
    const alpha = head > 0 ? -norm : norm;
    const first = head - alpha;
    for (let i = 1; i < row.length; i++) row[i] = row[i]! / first;
    row[0] = 1;
    beside[k] = alpha;
    taus[k] = -first / alpha;
    reflectBothSides(a, size, k + 1, row, taus[k]!, product);
  }
  const diagonal = Float64Array.from({ length: size }, (_, i) => a[i * size + i]!);
  return { diagonal, beside, vectors: accumulate(a, size, taus) };
}

/** A22 <- H A22 H with H = I - tau v v': A22 - v w' - w v', w = p - tau/2 (p'v) v, p = tau A22 v. */
function reflectBothSides(
  a: Float64Array,
  size: number,
  from: number,
  v: Float64Array,
  tau: number,
  w: Float64Array,
): void {
  const count = size - from;
  let overlap = 0;
  for (let i = 0; i < count; i++) {
    const at = (from + i) * size + from;
    let sum = 0;
    for (let j = 0; j < count; j++) sum += a[at + j]! * v[j]!;
    w[i] = tau * sum;
    overlap += w[i]! * v[i]!;
  }
  const half = (tau / 2) * overlap;
  for (let i = 0; i < count; i++) w[i] = w[i]! - half * v[i]!;
  for (let i = 0; i < count; i++) {
    const at = (from + i) * size + from;
    const [vi, wi] = [v[i]!, w[i]!];
    for (let j = 0; j < count; j++) a[at + j] = a[at + j]! - vi * w[j]! - wi * v[j]!;
  }
}

/** Q' of Q = H_0 H_1 …, from the reflectors in the rows of `a`. */
function accumulate(a: Float64Array, size: number, taus: Float64Array): Float64Array {
  const q = new Float64Array(size * size);
  for (let i = 0; i < size; i++) q[i * size + i] = 1;
  for (let k = size - 2; k >= 0; k--) {
    const tau = taus[k]!;
    if (tau === 0) continue;
    const from = k + 1;
    const v = a.subarray(k * size + from, (k + 1) * size);
    for (let j = from; j < size; j++) {
      const at = j * size + from;
      let sum = 0;
      for (let i = 0; i < v.length; i++) sum += v[i]! * q[at + i]!;
      sum *= tau;
      for (let i = 0; i < v.length; i++) q[at + i] = q[at + i]! - sum * v[i]!;
    }
  }
  return q;
}

const EPSILON = 2 ** -52;
/**
 * What is smaller than this share of the largest number of T is zero: rounding made of T a matrix further off
 * than that. Of a matrix of low rank most of T is such noise, and its own eigenvalues would not converge.
 */
const NOISE = 2 ** -53;
const MAX_ITERATIONS = 60;

/** Diagonalises T in place; rotates the rows of `vectors` along. */
function implicitQl(d: Float64Array, e: Float64Array, vectors: Float64Array, size: number): void {
  let largest = 0;
  for (let i = 0; i < size; i++) largest = Math.max(largest, Math.abs(d[i]!), Math.abs(e[i]!));
  const least = NOISE * largest;
  const isLink = (i: number): boolean =>
    Math.abs(e[i]!) > EPSILON * (Math.abs(d[i]!) + Math.abs(d[i + 1]!)) && Math.abs(e[i]!) > least;
  for (let low = 0; low < size; low++) {
    for (let iteration = 0; ; iteration++) {
      let high = low;
      while (high + 1 < size && isLink(high)) high++;
      if (high === low) break;
      if (iteration === MAX_ITERATIONS) throw new RangeError('the eigenvalues of a matrix do not converge');
      qlSweep(d, e, vectors, size, low, high);
    }
  }
}

/** One sweep of Givens rotations from `high` down to `low`, with Wilkinson's shift. */
function qlSweep(
  d: Float64Array,
  e: Float64Array,
  vectors: Float64Array,
  size: number,
  low: number,
  high: number,
): void {
  const slope = (d[low + 1]! - d[low]!) / (2 * e[low]!);
  const root = Math.sqrt(slope * slope + 1);
  let g = d[high]! - d[low]! + e[low]! / (slope + (slope >= 0 ? root : -root));
  let s = 1;
  let c = 1;
  let p = 0;
  for (let i = high - 1; i >= low; i--) {
    const f = s * e[i]!;
    const b = c * e[i]!;
    const r = Math.sqrt(f * f + g * g);
    e[i + 1] = r;
    if (r === 0) {
      d[i + 1] = d[i + 1]! - p;
      e[high] = 0;
      return;
    }
    s = f / r;
    c = g / r;
    g = d[i + 1]! - p;
    const t = (d[i]! - g) * s + 2 * c * b;
    p = s * t;
    d[i + 1] = g + p;
    g = c * t - b;
    const at = i * size;
    const next = at + size;
    for (let k = 0; k < size; k++) {
      const x = vectors[at + k]!;
      const y = vectors[next + k]!;
      vectors[next + k] = s * x + c * y;
      vectors[at + k] = c * x - s * y;
    }
  }
  d[low] = d[low]! - p;
  e[low] = g;
  e[high] = 0;
}
