/**
 * The trimmed mean, number by number (Yin, Chen, Ramchandran & Bartlett, "Byzantine-Robust Distributed Learning:
 * Towards Optimal Statistical Rates", ICML 2018, arXiv 1803.01498, Definition 2): of the n values of a number the b
 * smallest and the b largest are left out, and the rest is averaged. With b >= f and n >= 2 f + 1 the outcome lies
 * between the smallest and the largest honest value, whatever f trainers send.
 *
 * Each trainer counts once, however many tokens it had: a share would be a claim, and tokens are what a trainer says.
 * Tensors of any shape; values in f32, their mean in f64, added in ascending order.
 */
import { columnsFor } from './columns.ts';
import type { SlotRule } from './rule.ts';
import { trimAmong } from './tolerance.ts';

/** The rule that leaves out `trim` on either side; of fewer than 2 trim + 1 trainers as many as leave one or two. */
export function trimmedMeanRule(trim: number): SlotRule {
  return {
    open(parts) {
      const columns = columnsFor(parts.length, trimAmong(trim, parts.length));
      return (start, length) => {
        columns.read(parts, start, length);
        columns.trimmedMean();
        columns.leaveSums();
      };
    },
  };
}
