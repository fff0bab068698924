/**
 * Random schedules: from a number a whole simulated run, its plan, its trainers and what goes wrong with them.
 * `npm run schedules` plays thousands, the tests some.
 */
import type { RunPlan } from '../coordinator/core/state.ts';
import { runCluster, type ClusterOptions, type ClusterResult } from './cluster.ts';
import { createDice, pick } from './dice.ts';
import { randomFaults, type FaultType } from './faults.ts';

/** A run that a seed stands for. The same seed gives the same run. */
export function randomSchedule(seed: number): ClusterOptions {
  const dice = createDice(seed, 'schedule');
  const trainerIds = ['a', 'b', 'c', 'd', 'e'].slice(0, 2 + Math.floor(dice() * 4));
  const refreshRounds = pick(dice, [0, 1, 2, 2, 3]); // 0: bases are generated
  const plan: Partial<RunPlan> = {
    isStaggered: dice() < 0.5,
    sharding: dice() < 0.5 ? 'adaptive' : 'equal',
    refreshRounds,
    isWarmStart: dice() < 0.4 && refreshRounds > 1,
    lazyThreshold: dice() < 0.3 ? 0.4 : null,
    convergedRatio: dice() < 0.4 ? 0.7 : null,
    quorum: pick(dice, ['all', 'all', '50%', '75%', 1, 2, 3]),
    graceMs: pick(dice, [0, 50, 500]),
    hashEvery: pick(dice, [1, 2, 5]),
    hasLocalState: dice() < 0.5,
  };
  const faults = randomFaults(seed, trainerIds, 1 + Math.floor(dice() * 6));
  // Drawn last: what the seed stood for before there was participation stays as it was.
  const share = pick(dice, [1, 1, 0.3, 0.5, 0.8]);
  const participation = share === 1 ? null : { share, seed };
  return { seed, trainerIds, plan: { ...plan, participation }, faults };
}

/** A run in which a rule was broken. */
export interface BrokenSchedule {
  readonly schedule: ClusterOptions;
  readonly violations: readonly string[];
}

/** What came of many of them. */
export interface ScheduleTotals {
  readonly count: number;
  readonly fired: ReadonlyMap<FaultType, number>;
  readonly committedSteps: number;
  readonly coordinatorStarts: number;
  /** Left off: a lone trainer went wrong, which nobody could see. */
  readonly unseen: number;
  /** The first; null: there was none. */
  readonly broken: BrokenSchedule | null;
}

/** Plays the schedules of `count` seeds from `first` on, up to the first in which a rule is broken. */
export function playSchedules(first: number, count: number): ScheduleTotals {
  const fired = new Map<FaultType, number>();
  const totals = { count: 0, fired, committedSteps: 0, coordinatorStarts: 0, unseen: 0 };
  for (let seed = first; seed < first + count; seed++) {
    const schedule = randomSchedule(seed);
    const result = play(schedule);
    totals.count += 1;
    if (typeof result === 'string') return { ...totals, broken: { schedule, violations: [result] } };
    for (const [type, times] of result.fired) fired.set(type, (fired.get(type) ?? 0) + times);
    totals.committedSteps += result.disk.journal.filter(({ committed }) => committed !== null).length;
    totals.coordinatorStarts += result.starts;
    totals.unseen += result.isUnseen ? 1 : 0;
    const { violations } = result;
    if (violations.length > 0) return { ...totals, broken: { schedule, violations } };
  }
  return { ...totals, broken: null };
}

/** The result, or what was thrown: an assertion of the core. */
function play(schedule: ClusterOptions): ClusterResult | string {
  try {
    return runCluster(schedule);
  } catch (error) {
    return error instanceof Error ? (error.stack ?? error.message) : String(error);
  }
}
