/** What goes wrong in a run under `galore chaos`, and when: the same seed gives the same faults. Pure. */
import { createDice, pick, type Dice } from '../../simulation/dice.ts';

/**
 * kill: SIGKILL, started again after a while. stop: SIGSTOP, then SIGCONT. cut: the link breaks and cannot be made
 * again for a while. isolate: the link stays open and nothing comes through. delay: all that comes through is late.
 */
export const VERBS = ['kill', 'stop', 'cut', 'isolate', 'delay'] as const;
export type Verb = (typeof VERBS)[number];

/** Where a process is meant by its role. */
export const ROLES = ['coordinator', 'trainer'] as const;
export type Role = (typeof ROLES)[number];

/** The target of faults of the coordinator; else the id of a trainer. Links of the coordinator are those of all. */
export const COORDINATOR = 'coordinator';

export interface Fault {
  readonly verb: Verb;
  readonly target: string;
  /** It comes this long after the commit of this step was told. */
  readonly step: number;
  readonly delayMs: number;
  /** Until the process is started again or goes on, or the link is whole. */
  readonly durationMs: number;
  /** Of a delay: by how much; else 0. */
  readonly latencyMs: number;
}

export interface FaultPlan {
  readonly seed: number;
  readonly count: number;
  /** Of the run: faults come in its first four fifths. */
  readonly steps: number;
  readonly trainerIds: readonly string[];
  readonly verbs: readonly Verb[];
  /** Null: both. */
  readonly only: Role | null;
}

/** So long that it may come anywhere in a step, or in the next one. */
const MAX_DELAY_MS = 400;
/** From, to. Stops and isolations are shorter or longer than the timeouts of the built-in run. */
const DURATIONS_MS: Readonly<Record<Verb, readonly [number, number]>> = {
  kill: [0, 1_000],
  stop: [200, 5_000],
  cut: [0, 3_000],
  isolate: [200, 5_000],
  delay: [500, 4_000],
};
const LATENCY_MS: readonly [number, number] = [20, 200];

/** Ascending by step. */
export function planFaults(plan: FaultPlan): readonly Fault[] {
  const { seed, count, steps, trainerIds, verbs, only } = plan;
  const dice = createDice(seed, 'chaos');
  const lastStep = Math.max(1, Math.floor(0.8 * steps));
  return Array.from({ length: count }, (): Fault => {
    const verb = pick(dice, verbs);
    const role = only ?? pick(dice, ROLES);
    return {
      verb,
      target: role === 'coordinator' ? COORDINATOR : pick(dice, trainerIds),
      step: 1 + Math.floor(dice() * lastStep),
      delayMs: Math.floor(dice() * MAX_DELAY_MS),
      durationMs: between(dice, DURATIONS_MS[verb]),
      latencyMs: verb === 'delay' ? between(dice, LATENCY_MS) : 0,
    };
  }).sort((a, b) => a.step - b.step);
}

function between(dice: Dice, [from, to]: readonly [number, number]): number {
  return Math.floor(from + dice() * (to - from));
}
