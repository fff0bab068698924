/**
 * The rules by which one contribution is made of those of all trainers, by name. A rule of slots works on each tensor
 * as soon as all trainers have delivered it; a rule that chooses looks at all tensors first and leaves the mean of those it has
 * chosen. One more rule is a file beside this one and a line here.
 */
import { centredClippingRule } from './centred-clipping.ts';
import { chooseKrum, krumTolerance, type Distances } from './krum.ts';
import { meanRule } from './mean.ts';
import { medianRule } from './median.ts';
import type { SlotRule } from './rule.ts';
import { trimAmong, trimmedMeanRule } from './trimmed-mean.ts';

export const AGGREGATION_RULES = [
  'mean',
  'median',
  'trimmed-mean',
  'krum',
  'multi-krum',
  'centred-clipping',
  'norm-filter',
] as const;

export type AggregationRule = (typeof AGGREGATION_RULES)[number];

/** As the configuration has it. */
export interface AggregationOptions {
  readonly rule: AggregationRule;
  /** Trainers of a step that may send garbage: so many, or a share such as `30%`, rounded down. */
  readonly byzantine: number | string;
  readonly clip_factor: number;
  readonly clip_iterations: number;
}

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

/** The rule of that name. */
export function aggregationOf(options: AggregationOptions): Aggregation {
  const { rule, byzantine, clip_factor: factor, clip_iterations: iterations } = options;
  switch (rule) {
    case 'mean':
    case 'norm-filter': // those beyond the border are not there any more
      return { by: 'slot', rule: () => meanRule };
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

/** How many of `count` trainers are assumed to send garbage. */
export function byzantineAmong(byzantine: number | string, count: number): number {
  if (typeof byzantine === 'number') return byzantine;
  return Math.floor((Number(byzantine.slice(0, -1)) * count) / 100);
}

/** Rules for which `byzantine` says something. */
export function readsByzantine(rule: AggregationRule): boolean {
  return rule === 'trimmed-mean' || rule === 'krum' || rule === 'multi-krum';
}

/** Trainers a step must have for the rule to stand `byzantine` garbage senders; 1: it stands none. */
export function leastTrainers(rule: AggregationRule, byzantine: number): number {
  switch (rule) {
    case 'mean':
      return 1;
    case 'krum':
    case 'multi-krum':
      return 2 * byzantine + 3;
    case 'trimmed-mean':
      return Math.max(3, 2 * byzantine + 1);
    default:
      return 3; // of two no one can say which is wrong
  }
}

/** How many garbage senders the rule stands among `count` trainers, at most as many as asked for. */
export function toleratedAmong({ rule, byzantine }: AggregationOptions, count: number): number {
  const asked = byzantineAmong(byzantine, count);
  switch (rule) {
    case 'mean':
      return 0;
    case 'krum':
    case 'multi-krum':
      return krumTolerance(asked, count);
    case 'trimmed-mean':
      return trimAmong(asked, count);
    default:
      return Math.floor((count - 1) / 2);
  }
}
