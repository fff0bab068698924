/**
 * Centred clipping (Karimireddy, He & Jaggi, "Learning from History for Byzantine Robust Optimization", ICML 2021,
 * arXiv 2012.10333, Algorithm 2), tensor by tensor:
 *   v <- v + sum_i p_i (x_i - v) min(1, tau / |x_i - v|), `iterations` times.
 * The paper begins with the last step's v and is given tau. Here nothing is kept between steps, so that a resumed run is the
 * same run: v begins as the median, number by number, and tau is `factor` times the median of |x_i - v|, so that it
 * follows the size of each tensor. With less than half of garbage senders tau is at most `factor` times an honest distance, and
 * each of them moves v by no more than p_i tau an iteration.
 *
 * p_i = c_i / C: tokens weigh what is averaged, but not the medians. Two passes over the tensor whatever the
 * iterations: v stays a combination of the median m and the x_i, v = m + sum_i b_i (x_i - m), so that the n x n
 * products of the x_i - m say all.
 */
import { CHUNK } from '../codec/kernels.ts';
import { columnsFor, medianTrim, type Columns } from './columns.ts';
import type { OpenedPart, SlotRule } from './rule.ts';

export interface ClippingOptions {
  /** tau in median distances. */
  readonly factor: number;
  readonly iterations: number;
}

export function centredClippingRule(options: ClippingOptions): SlotRule {
  return {
    open(parts, count) {
      const columns = columnsFor(parts.length, medianTrim(parts.length));
      const gram = centredProducts(columns, parts, count);
      const shares = parts.map(({ share }) => share);
      const weights = clippedWeights(gram, shares, options);
      const own = 1 - sumOf(weights);
      return (start, length) => {
        columns.read(parts, start, length);
        columns.trimmedMean();
        columns.combine(own, weights);
        columns.leaveSums();
      };
    },
  };
}

/** (x_i - m)'(x_j - m), `[n, n]`. */
function centredProducts(columns: Columns, parts: readonly OpenedPart[], count: number): Float64Array {
  const n = parts.length;
  const gram = new Float64Array(n * n);
  for (let start = 0; start < count; start += CHUNK) {
    columns.read(parts, start, Math.min(CHUNK, count - start));
    columns.trimmedMean();
    columns.centre();
    for (let i = 0; i < n; i++) {
      for (let j = 0; j <= i; j++) gram[i * n + j]! += columns.dot(i, j);
    }
  }
  for (let i = 0; i < n; i++) for (let j = 0; j < i; j++) gram[j * n + i] = gram[i * n + j]!;
  return gram;
}

/**
 * The b_i of the outcome m + sum_i b_i d_i.
 * @param gram products of the d_i = x_i - m, `[n, n]`
 */
export function clippedWeights(
  gram: Float64Array,
  shares: readonly number[],
  { factor, iterations }: ClippingOptions,
): Float64Array {
  const n = shares.length;
  const weights = new Float64Array(n);
  const radius = factor * medianOf(distances(gram, weights));
  for (let iteration = 0; iteration < iterations; iteration++) {
    const pulls = distances(gram, weights).map((distance, i) => {
      return shares[i]! * (distance <= radius ? 1 : radius / distance);
    });
    const rest = 1 - sumOf(pulls);
    for (let i = 0; i < n; i++) weights[i] = rest * weights[i]! + pulls[i]!;
  }
  return weights;
}

/** |d_i - sum_j b_j d_j| of each. */
function distances(gram: Float64Array, weights: Float64Array): Float64Array {
  const n = weights.length;
  const toCentre = weights.map((_, i) => weights.reduce((sum, b, j) => sum + b * gram[i * n + j]!, 0));
  const ofCentre = weights.reduce((sum, b, i) => sum + b * toCentre[i]!, 0);
  return weights.map((_, i) => Math.sqrt(Math.max(0, gram[i * n + i]! - 2 * toCentre[i]! + ofCentre)));
}

/** Of an even number the lower one: a distance that somebody has. */
function medianOf(values: Float64Array): number {
  return values.toSorted()[medianTrim(values.length)]!;
}

function sumOf(values: Float64Array): number {
  return values.reduce((sum, value) => sum + value, 0);
}
