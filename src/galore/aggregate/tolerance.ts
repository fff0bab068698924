/**
 * The rules of aggregation by name, and how many trainers that send garbage each of them stands. Numbers of trainers
 * alone; what the rules do is in rules.ts. Pure.
 */

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

/** Garbage senders that the scores of `count` trainers can stand: the f asked for, or what is left with fewer than 2 f + 3. */
export function krumTolerance(byzantine: number, count: number): number {
  return Math.max(0, Math.min(byzantine, Math.floor((count - 3) / 2)));
}

/** How many are left out on either side of `count`. */
export function trimAmong(trim: number, count: number): number {
  return Math.min(trim, Math.floor((count - 1) / 2));
}
