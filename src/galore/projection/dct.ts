/**
 * Bases whose columns are chosen from a fixed one, the discrete cosine transform (DCT-AdamW, arXiv 2505.17967):
 * one round of sketches says which, and nothing is factorised. The basis travels like any other.
 * Column k of D is the cosine of k half-waves: D[j][k] = sqrt(2/n) cos(k (2j + 1) pi / (2n)), column 0 divided by
 * sqrt(2). Pure, row-major.
 */

/**
 * The columns of D with these numbers, in this order: a basis `[n, columns.length]`. The argument of the cosine is
 * reduced to the first quarter wave as an integer, so that entries that are equal in exact arithmetic are
 * equal here. `Math.cos` may differ in the last place between engines: one trainer computes the basis.
 * @throws RangeError for a number outside D
 */
export function dctColumns(n: number, columns: readonly number[]): Float32Array {
  for (const k of columns) {
    if (!(Number.isInteger(k) && k >= 0 && k < n)) throw new RangeError(`${k} is no column of 0 to ${n - 1}`);
  }
  const quarter = quarterWave(n);
  const rank = columns.length;
  const basis = new Float32Array(n * rank);
  for (let j = 0; j < n; j++) {
    for (let i = 0; i < rank; i++) {
      const k = columns[i]!;
      basis[j * rank + i] = k === 0 ? Math.sqrt(1 / n) : Math.sqrt(2 / n) * cosine(quarter, k * (2 * j + 1));
    }
  }
  return basis;
}

/** cos(i pi / (2n)) for i = 0 to n */
function quarterWave(n: number): Float64Array {
  const table = Float64Array.from({ length: n + 1 }, (_, i) => Math.cos((i * Math.PI) / (2 * n)));
  table[n] = 0;
  return table;
}

/** cos(i pi / (2n)) for any whole i of at least 0, from the quarter wave. */
function cosine(quarter: Float64Array, i: number): number {
  const n = quarter.length - 1;
  const phase = i % (4 * n);
  const folded = phase > 2 * n ? 4 * n - phase : phase; // cos is even around pi
  return folded > n ? -quarter[2 * n - folded]! : quarter[folded]!;
}

/**
 * The `rank` columns of D with the most energy in the averaged gradient A, ascending, from its sketch X = A Omega
 * (`[n, columns]`, Omega of signs): |d_k' A|^2 is estimated by |d_k' X|^2 / columns, with a relative standard error of
 * sqrt(2 / columns) at most. Null when X is zero. Ties go to the lower number.
 * @throws RangeError when there are fewer than `rank` columns or an entry is not finite
 */
export function selectDctColumns(x: Float32Array, n: number, rank: number): readonly number[] | null {
  if (rank > n) throw new RangeError(`there are ${n} columns, not ${rank}`);
  const energies = dctEnergies(x, n);
  const total = energies.reduce((sum, energy) => sum + energy, 0);
  if (!Number.isFinite(total)) throw new RangeError('the sketch has entries that are not finite');
  if (total === 0) return null;
  return Array.from({ length: n }, (_, k) => k)
    .sort((a, b) => energies[b]! - energies[a]! || a - b)
    .slice(0, rank)
    .sort((a, b) => a - b);
}

/** |d_k' X|^2 for each k: `[n]`, of a row-major X of n rows. */
export function dctEnergies(x: Float32Array, n: number): Float64Array {
  const columns = x.length / n;
  const energies = new Float64Array(n);
  for (let column = 0; column < columns; column++) {
    const values = Float64Array.from({ length: n }, (_, j) => x[j * columns + column]!);
    const transformed = transform(values);
    for (let k = 0; k < n; k++) {
      energies[k] = energies[k]! + transformed[k]! ** 2 * (k === 0 ? 1 / n : 2 / n);
    }
  }
  return energies;
}

/** sum_j x_j cos(k (2j + 1) pi / (2n)) for each k; halves an even length (B. G. Lee, 1984), n log n for powers of two. */
function transform(x: Float64Array): Float64Array {
  const n = x.length;
  if (n % 2 === 1) return directTransform(x);
  const half = n / 2;
  const sums = new Float64Array(half);
  const differences = new Float64Array(half);
  for (let j = 0; j < half; j++) {
    const [a, b] = [x[j]!, x[n - 1 - j]!];
    sums[j] = a + b;
    differences[j] = (a - b) / (2 * Math.cos(((2 * j + 1) * Math.PI) / (2 * n)));
  }
  const even = transform(sums);
  const odd = transform(differences);
  const result = new Float64Array(n);
  for (let k = 0; k < half; k++) {
    result[2 * k] = even[k]!;
    result[2 * k + 1] = odd[k]! + (k + 1 < half ? odd[k + 1]! : 0);
  }
  return result;
}

function directTransform(x: Float64Array): Float64Array {
  const n = x.length;
  const quarter = quarterWave(n);
  return Float64Array.from({ length: n }, (_, k) => {
    let sum = 0;
    for (let j = 0; j < n; j++) sum += x[j]! * cosine(quarter, k * (2 * j + 1));
    return sum;
  });
}
