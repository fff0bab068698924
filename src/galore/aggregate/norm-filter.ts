/**
 * The norm filter: a trainer whose norm, over all tensors together, is beyond `factor` times the median of all is left
 * out (or taken down to that), and the rest is averaged by tokens (norm bounding: Sun, Kairouz, Suresh & McMahan, "Can You Really Backdoor
 * Federated Learning?", 2019, arXiv 1911.07963, section 4; the border there is a constant). Each norm counts once in the median. It does not see what has the right size and the wrong direction.
 */

/** Below this many a median says nothing. */
const LEAST_JUDGES = 3;

/** The norm from which on one is too large, and the median it comes from. */
export interface NormBorder {
  readonly median: number;
  readonly most: number;
}

/** Null: nobody is judged, because there are too few or most norms are zero. Of an even number of norms the median is the lower one. */
export function normBorder(norms: readonly number[], factor: number): NormBorder | null {
  if (norms.length < LEAST_JUDGES) return null;
  const median = norms.toSorted((a, b) => a - b)[Math.floor((norms.length - 1) / 2)]!;
  return median > 0 ? { median, most: factor * median } : null;
}
