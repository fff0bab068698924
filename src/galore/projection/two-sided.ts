/**
 * Two bases for one slot (TSR-Adam, arXiv 2602.08007): U `[m, r]` and V `[n, r]`, the core U'GV `[r, r]` travels. The
 * refresh is that of side left, with one more product at its end: X = GQ (Q the factor of the last round,
 * `[n, l]`) has the singular vectors U and W, and V = QW are those of G inside span(Q). In a record both stand as one
 * matrix `[m + n, r]`, U above V.
 */
import type { Factoriser } from './factorise.ts';

/** U and V with U'GV nearly diagonal, its diagonal positive and descending. */
export interface BasisPair {
  /** U: `[m, rank]`, canonical signs. */
  readonly left: Float32Array;
  /** V: `[n, rank]`, the signs that make the core's diagonal positive. */
  readonly right: Float32Array;
}

/** The last round's sum and what it was made with. */
export interface PairRequest {
  /** X = GQ: `[rows, width]`. */
  readonly sum: Float32Array;
  /** Q: `[cols, width]`, orthonormal; null: the identity (refresh `exact`). */
  readonly factor: Float32Array | null;
  /** m and n of G. */
  readonly rows: number;
  readonly cols: number;
  /** At most `width` and m. */
  readonly rank: number;
}

/** Null when the sum is zero. @throws RangeError when an entry is not finite; TensorShapeError when the rank is too large */
export function leadingBasisPair(
  { sum, factor, rows, cols, rank }: PairRequest,
  factoriser: Factoriser,
): BasisPair | null {
  const width = sum.length / rows;
  const vectors = factoriser.singularVectors(sum, rows, width, rank, true);
  if (vectors === null || vectors.right === null) return null;
  const { left, right } = vectors;
  return {
    left,
    right: factor === null ? right : factoriser.product(factor, right, cols, width, rank),
  };
}

/** U above V. */
export function stackPair({ left, right }: BasisPair): Float32Array {
  const stacked = new Float32Array(left.length + right.length);
  stacked.set(left);
  stacked.set(right, left.length);
  return stacked;
}
