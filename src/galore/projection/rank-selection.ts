/**
 * The information threshold of AdaRankGrad (arXiv 2410.17881, algorithm 2) for a gradient that nobody holds:
 * the smallest rank r with |G - P_r P_r' G|^2 <= eta |G|^2, squared Frobenius norms. |G|^2 of an averaged gradient
 * does not follow from the trainers' norms, so c columns of signs Omega_h, which the basis is not made from, are
 * multiplied along in the last round (AQ is the sketch, T = A (I - QQ') Omega_h what it does not see):
 *   |P_j' A|^2 ~ s_j(AQ)^2 + |P_j' T|^2 / c,    |A - PP'A|^2 ~ |T - PP'T|^2 / c,    unbiased, given P and Q.
 */
import type { SingularVectors } from './factorise.ts';

export interface RankOptions {
  /** eta: the share of the energy |G|^2 that may be left out, from 0 to 1. */
  readonly threshold: number;
  readonly minRank: number;
  readonly maxRank: number;
  /** The rank is a multiple of it, or `maxRank`. */
  readonly multiple: number;
}

export interface SelectedRank {
  readonly rank: number;
  /** False: even `maxRank` leaves more out than the threshold allows. */
  readonly isThresholdMet: boolean;
  /** The share of the energy that this rank leaves out. */
  readonly residualShare: number;
}

/**
 * The smallest rank in [minRank, maxRank] that leaves out no more than the threshold.
 * @param energies captured by each vector, |P_j' G|^2: squared singular values, descending
 * @param restEnergy what none of these vectors captures
 */
export function selectRank(
  energies: ArrayLike<number>,
  restEnergy: number,
  options: RankOptions,
): SelectedRank {
  const maxRank = Math.min(options.maxRank, energies.length);
  const residuals = new Float64Array(energies.length + 1); // [r]: what rank r leaves out
  residuals[energies.length] = Math.max(0, restEnergy);
  for (let r = energies.length - 1; r >= 0; r--) residuals[r] = residuals[r + 1]! + energies[r]!;
  const allowed = options.threshold * residuals[0]!;
  const stride = Math.max(1, options.multiple);
  let rank = Math.min(Math.ceil(options.minRank / stride) * stride, maxRank);
  while (rank < maxRank && residuals[rank]! > allowed) rank = Math.min(rank + stride, maxRank);
  const residual = residuals[rank]!;
  return {
    rank,
    isThresholdMet: residual <= allowed,
    residualShare: residuals[0] === 0 ? 0 : residual / residuals[0]!,
  };
}

/** A basis cut to the rank that the threshold asks for. */
export interface AdaptiveBasis extends SelectedRank {
  /** `[rows, rank]` */
  readonly basis: Float32Array;
}

/** What was multiplied along in the last round; all row-major. */
export interface HeldOut {
  /** A Omega_h: `[rows, columns]`. */
  readonly products: Float32Array;
  /** Omega_h: `[e, columns]`. */
  readonly signs: Float32Array;
  /** Q, the factor of the last round: `[e, width]`. */
  readonly factor: Float32Array;
  readonly columns: number;
}

/**
 * Cuts `vectors`, the `maxRank` leading ones of the last round's sum X = AQ (`[rows, width]`), to the rank that the
 * threshold asks for. Without held-out columns X is the whole of A, as a refresh of type `exact` has it.
 */
export function adaptiveBasis(
  vectors: SingularVectors,
  x: Float32Array,
  rows: number,
  heldOut: HeldOut | null,
  options: RankOptions,
): AdaptiveBasis {
  const { left, singularValues } = vectors;
  const count = singularValues.length;
  const energies = singularValues.map((s) => s * s);
  let captured = energies.reduce((sum, energy) => sum + energy, 0);
  let rest = Math.max(0, squaredNorm(x) - captured);
  if (heldOut !== null) {
    const unseen = unseenProducts(x, rows, heldOut);
    const shares = rowEnergies(left, unseen, rows, count, heldOut.columns);
    captured = 0;
    for (let j = 0; j < count; j++) {
      const energy = shares[j]! / heldOut.columns;
      energies[j] = energies[j]! + energy;
      captured += energy;
    }
    rest += Math.max(0, squaredNorm(unseen) / heldOut.columns - captured);
  }
  const selected = selectRank(energies, rest, options);
  const basis = new Float32Array(rows * selected.rank);
  for (let i = 0; i < rows; i++) {
    basis.set(left.subarray(i * count, i * count + selected.rank), i * selected.rank);
  }
  return { ...selected, basis };
}

/** T = A (I - QQ') Omega_h = A Omega_h - X (Q' Omega_h): `[rows, columns]`. */
function unseenProducts(x: Float32Array, rows: number, heldOut: HeldOut): Float64Array {
  const { products, signs, factor, columns } = heldOut;
  const width = x.length / rows;
  const overlap = transposedProduct(factor, signs, factor.length / width, width, columns); // Q' Omega_h
  const unseen = Float64Array.from(products);
  for (let i = 0; i < rows; i++) {
    for (let k = 0; k < width; k++) {
      const value = x[i * width + k]!;
      for (let j = 0; j < columns; j++) {
        unseen[i * columns + j] = unseen[i * columns + j]! - value * overlap[k * columns + j]!;
      }
    }
  }
  return unseen;
}

/** Squared norms of the rows of P'T. */
function rowEnergies(
  basis: Float32Array,
  products: Float64Array,
  rows: number,
  count: number,
  columns: number,
): Float64Array {
  const overlap = transposedProduct(basis, products, rows, count, columns);
  return Float64Array.from({ length: count }, (_, j) =>
    squaredNorm(overlap.subarray(j * columns, (j + 1) * columns)),
  );
}

/** A'B for A `[rows, aCols]` and B `[rows, bCols]`. */
function transposedProduct(
  a: Float32Array,
  b: Float32Array | Float64Array,
  rows: number,
  aCols: number,
  bCols: number,
): Float64Array {
  const result = new Float64Array(aCols * bCols);
  for (let i = 0; i < rows; i++) {
    for (let k = 0; k < aCols; k++) {
      const value = a[i * aCols + k]!;
      for (let j = 0; j < bCols; j++) {
        result[k * bCols + j] = result[k * bCols + j]! + value * b[i * bCols + j]!;
      }
    }
  }
  return result;
}

function squaredNorm(values: Float32Array | Float64Array): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i]! * values[i]!;
  return sum;
}
