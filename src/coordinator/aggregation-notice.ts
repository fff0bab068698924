/** What a robust rule made of a step, for metrics.jsonl and the log. Pure. */
import {
  byzantineAmong,
  readsByzantine,
  toleratedAmong,
  type AggregationOptions,
  type AggregationRule,
} from '../galore/aggregate/tolerance.ts';

export interface AggregationNotice {
  readonly rule: AggregationRule;
  /** Trainers whose contributions were compared. */
  readonly trainers: number;
  /** How many of them may have sent garbage without harm. */
  readonly tolerated: number;
  /** How many were to be stood; left out: the rule stands all it can. */
  readonly byzantine?: number;
  /** Whose mean it is, and who did not count; left out: the rule chooses nobody. */
  readonly chosen?: readonly string[];
  readonly leftOut?: readonly string[];
}

/**
 * Null with rules that leave the mean of those who are there: outliers.ts tells of the others.
 * @param members ascending by trainer id
 * @param chosen places among them
 */
export function aggregationNotice(
  options: AggregationOptions,
  members: readonly string[],
  chosen: readonly number[] | null,
): AggregationNotice | null {
  const { rule, byzantine } = options;
  if (rule === 'mean' || rule === 'norm-filter') return null;
  const trainers = members.length;
  return {
    rule,
    trainers,
    tolerated: toleratedAmong(options, trainers),
    ...(readsByzantine(rule) && { byzantine: byzantineAmong(byzantine, trainers) }),
    ...(chosen !== null && {
      chosen: members.filter((_, place) => chosen.includes(place)),
      leftOut: members.filter((_, place) => !chosen.includes(place)),
    }),
  };
}

/** Who was chosen; null: the rule chooses nobody. */
export function describeChoice({ rule, chosen, leftOut = [] }: AggregationNotice): string | null {
  if (chosen === undefined) return null;
  const end = leftOut.length === 0 ? 'nobody is left out' : `left out: ${leftOut.join(', ')}`;
  return chosen.length === 1
    ? `${rule} takes the contribution of ${chosen[0]}; ${end}`
    : `${rule} takes the mean of ${chosen.join(', ')}; ${end}`;
}

/** That a step has fewer trainers than the rule needs; null: it has enough. */
export function describeShortage({
  rule,
  trainers,
  tolerated,
  byzantine = 1,
}: AggregationNotice): string | null {
  if (tolerated >= byzantine) return null;
  const stands =
    tolerated === 0 ? 'none that sends' : `${tolerated} that ${tolerated === 1 ? 'sends' : 'send'}`;
  return `with ${trainers} in the step ${rule} stands ${stands} garbage, not ${byzantine}`;
}
