/**
 * Krum and Multi-Krum (Blanchard, El Mhamdi, Guerraoui & Stainer, "Machine Learning with Adversaries: Byzantine
 * Tolerant Gradient Descent", NIPS 2017, section 4). Of n trainers of whom f may send anything, each has the score
 *   s(i) = sum of |x_i - x_j|^2 over the n - f - 2 others that are nearest to it,
 * x_i being all it sent, over all tensors. Krum takes the one with the least score, Multi-Krum the mean of the m
 * with the least. Both need n >= 2 f + 3. Here m = n - f, as in the paper's experiments.
 *
 * Distances know no tokens: each trainer counts once. The mean of those that are chosen is weighted by tokens.
 * Memory: an n x n matrix and one chunk of one tensor; time grows with n^2.
 */
import { CHUNK } from '../codec/kernels.ts';
import { columnsFor, medianTrim } from './columns.ts';
import type { OpenedPart } from './rule.ts';
import { krumTolerance } from './tolerance.ts';

/** Squared distances between trainers, added up tensor by tensor. */
export class Distances {
  readonly count: number;
  /** `[n, n]`, symmetric. */
  readonly squared: Float64Array;

  constructor(count: number) {
    this.count = count;
    this.squared = new Float64Array(count * count);
  }

  /** Adds those of one tensor of `length` numbers. */
  add(parts: readonly OpenedPart[], length: number): void {
    const { count, squared } = this;
    const columns = columnsFor(count, medianTrim(count));
    for (let start = 0; start < length; start += CHUNK) {
      columns.read(parts, start, Math.min(CHUNK, length - start));
      for (let i = 0; i < count; i++) {
        for (let j = i + 1; j < count; j++) {
          const square = columns.squaredDistance(i, j);
          squared[i * count + j]! += square;
          squared[j * count + i]! += square;
        }
      }
    }
  }
}

/** s(i) of each trainer. @param byzantine f, at most `krumTolerance` */
export function krumScores({ squared, count }: Distances, byzantine: number): Float64Array {
  const nearest = Math.max(1, count - byzantine - 2);
  return Float64Array.from({ length: count }, (_, i) =>
    squared
      .slice(i * count, (i + 1) * count)
      .filter((_square, j) => j !== i)
      .sort()
      .subarray(0, nearest)
      .reduce((sum, square) => sum + square, 0),
  );
}

/**
 * Places of the `keep` trainers with the least scores, ascending; of equal ones the first. Of fewer than three all:
 * of two no one can say which is wrong.
 */
export function chooseKrum(distances: Distances, byzantine: number, keep: number): readonly number[] {
  const { count } = distances;
  const places = Array.from({ length: count }, (_, place) => place);
  if (count < 3) return places;
  const scores = krumScores(distances, krumTolerance(byzantine, count));
  return places
    .sort((a, b) => scores[a]! - scores[b]! || a - b)
    .slice(0, Math.max(1, keep))
    .sort((a, b) => a - b);
}
