/** What goes wrong with the coordinators of a run and with its state store, and when. Pure. */
import { createDice, pick } from '../../simulation/dice.ts';
import type { Fault, Verb } from './faults.ts';

/** Targets, by what they are at the time: the coordinator that leads, and a nats-server. */
export const LEADER = 'leader';
export const NATS = 'nats';

/**
 * kill: SIGKILL of the leader, started again after a while. stop: SIGSTOP of it for longer than its lease, then
 * SIGCONT. cut: it cannot reach NATS for longer than its lease. nats: SIGKILL of a nats-server, started again.
 */
export const FAILOVER_FAULTS = ['kill', 'stop', 'cut', 'nats'] as const;
export type FailoverFault = (typeof FAILOVER_FAULTS)[number];

const DURATIONS_MS: Readonly<Record<FailoverFault, readonly [number, number]>> = {
  kill: [500, 2_000],
  stop: [5_000, 8_000],
  cut: [5_000, 8_000],
  nats: [500, 3_000],
};
const MAX_DELAY_MS = 400;

/** As many of each kind as can be, one after the other over the first four fifths of the steps. */
export function planFailover(plan: {
  readonly seed: number;
  readonly count: number;
  readonly steps: number;
  readonly kinds: readonly FailoverFault[];
}): readonly Fault[] {
  const { seed, count, steps, kinds } = plan;
  const dice = createDice(seed, 'failover');
  let deck: readonly FailoverFault[] = [];
  return Array.from({ length: count }, (_, i): Fault => {
    if (deck.length === 0) deck = kinds;
    const kind = pick(dice, deck);
    deck = deck.filter((each) => each !== kind);
    const [from, to] = DURATIONS_MS[kind];
    const verb: Verb = kind === 'nats' ? 'kill' : kind;
    return {
      verb,
      target: kind === 'nats' ? NATS : LEADER,
      step: Math.max(1, Math.floor((0.8 * steps * (i + dice())) / count)),
      delayMs: Math.floor(dice() * MAX_DELAY_MS),
      durationMs: Math.floor(from + dice() * (to - from)),
      latencyMs: 0,
    };
  });
}

export function kindOf({ verb, target }: Fault): FailoverFault {
  return target === NATS ? 'nats' : (verb as FailoverFault);
}
