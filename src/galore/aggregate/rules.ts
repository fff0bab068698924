/**
 * The rules by which one contribution is made of those of all trainers, by name. A rule of slots works on each tensor
 * as soon as all trainers have delivered it; a rule that chooses looks at all tensors first and leaves the mean of those it has
 * chosen. One more rule is a file beside this one and a line here.
 */
import { centredClippingRule } from './centred-clipping.ts';
import { chooseKrum, type Distances } from './krum.ts';
import { meanRule } from './mean.ts';
import { medianRule } from './median.ts';
import type { SlotRule } from './rule.ts';
import { byzantineAmong, type AggregationOptions } from './tolerance.ts';
import { trimmedMeanRule } from './trimmed-mean.ts';

export type Aggregation = SlotAggregation | ChoosingAggregation;

interface SlotAggregation {
  readonly by: 'slot';
  /** For so many trainers. */
  rule(count: number): SlotRule;
}

interface ChoosingAggregation {
  readonly by: 'distance';
  /** Places of those whose mean is taken, ascending. */
  choose(distances: Distances): readonly number[];
}

/** Every trainer counts by its tokens. */
export const MEAN: Aggregation = { by: 'slot', rule: () => meanRule };

/** The rule of that name. */
export function aggregationOf(options: AggregationOptions): Aggregation {
  const { rule, byzantine, clip_factor: factor, clip_iterations: iterations } = options;
  switch (rule) {
    case 'mean':
    case 'norm-filter': // those beyond the border are not there any more
      return MEAN;
    case 'median':
      return { by: 'slot', rule: () => medianRule };
    case 'trimmed-mean':
      return { by: 'slot', rule: (count) => trimmedMeanRule(byzantineAmong(byzantine, count)) };
    case 'centred-clipping': {
      const clipping = centredClippingRule({ factor, iterations });
      return { by: 'slot', rule: () => clipping };
    }
    case 'krum':
      return {
        by: 'distance',
        choose: (distances) => chooseKrum(distances, byzantineAmong(byzantine, distances.count), 1),
      };
    case 'multi-krum':
      return {
        by: 'distance',
        choose: (distances) => {
          const f = byzantineAmong(byzantine, distances.count);
          return chooseKrum(distances, f, distances.count - f);
        },
      };
  }
}
