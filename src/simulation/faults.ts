/**
 * What goes wrong in a simulated run, as data: what, to whom, when and for how long.
 */
import type { Phase } from '../coordinator/core/state.ts';
import { createDice, pick, type Dice } from './dice.ts';

/** At a time, or when the coordinator is in a phase of a step (of any step from `step` on). */
export type FaultTime = { readonly atMs: number } | { readonly phase: Phase['phase']; readonly step: number };

/** What goes wrong. Times in milliseconds of virtual time. */
export type FaultKind =
  /** The process is gone with all its state, and is started again. */
  | { readonly type: 'crashTrainer'; readonly trainerId: string; readonly backAfterMs: number }
  /** Only what is on disk is left. `afterJournal`: a record is on disk and nobody knows yet. */
  | { readonly type: 'crashCoordinator'; readonly backAfterMs: number; readonly isAfterJournal: boolean }
  /** The clock that the coordinator reads is that much ahead from now on, or behind. */
  | { readonly type: 'jumpClock'; readonly byMs: number }
  /** It takes that many times as long for what it computes. */
  | {
      readonly type: 'slowTrainer';
      readonly trainerId: string;
      readonly factor: number;
      readonly durationMs: number;
    }
  /** It computes nothing, though its connection is alive. */
  | { readonly type: 'freezeTrainer'; readonly trainerId: string; readonly durationMs: number }
  | { readonly type: 'cut'; readonly trainerId: string; readonly durationMs: number }
  /** A link that breaks and is back, again and again. */
  | { readonly type: 'flap'; readonly trainerId: string; readonly times: number; readonly periodMs: number }
  | { readonly type: 'isolate'; readonly trainerId: string; readonly durationMs: number }
  | {
      readonly type: 'delay';
      readonly trainerId: string;
      readonly extraMs: number;
      readonly durationMs: number;
    }
  | { readonly type: 'drop'; readonly trainerId: string; readonly rate: number; readonly durationMs: number }
  | {
      readonly type: 'duplicate';
      readonly trainerId: string;
      readonly rate: number;
      readonly durationMs: number;
    }
  | {
      readonly type: 'reorder';
      readonly trainerId: string;
      readonly rate: number;
      readonly durationMs: number;
    }
  /** A bit flips in its weights. */
  | { readonly type: 'corruptState'; readonly trainerId: string }
  /** Its next sketch or contribution has no tokens. */
  | { readonly type: 'loseTokens'; readonly trainerId: string }
  /** The disk has no space for the next checkpoint. */
  | { readonly type: 'failCheckpoint' }
  /** The disk has no room for anything. */
  | { readonly type: 'fillDisk'; readonly durationMs: number }
  /** A trainer that was not there from the start. */
  | { readonly type: 'join'; readonly trainerId: string }
  /** Another process with the id of one that is there: the newer one is to win. */
  | { readonly type: 'secondProcess'; readonly trainerId: string }
  /** It leaves for good. */
  | { readonly type: 'leave'; readonly trainerId: string };

export type Fault = FaultKind & { readonly when: FaultTime };
export type FaultType = FaultKind['type'];

export const FAULT_TYPES: readonly FaultType[] = [
  'crashTrainer',
  'crashCoordinator',
  'jumpClock',
  'slowTrainer',
  'freezeTrainer',
  'cut',
  'flap',
  'isolate',
  'delay',
  'drop',
  'duplicate',
  'reorder',
  'corruptState',
  'loseTokens',
  'failCheckpoint',
  'fillDisk',
  'join',
  'secondProcess',
  'leave',
];

const PHASES: readonly Phase['phase'][] = [
  'waiting',
  'sketching',
  'factorising',
  'collecting',
  'committing',
  'evaluating',
  'finishing',
];

/** A random choice of faults for these trainers. At most one of them leaves for good, and at most one goes wrong. */
export function randomFaults(seed: number, trainerIds: readonly string[], count: number): readonly Fault[] {
  const dice = createDice(seed, 'faults');
  const faults: Fault[] = [];
  let next = 0;
  while (faults.length < count) {
    const type = pick(dice, FAULT_TYPES);
    const isOnce = type === 'leave' || type === 'corruptState';
    if (isOnce && (trainerIds.length < 2 || faults.some((fault) => fault.type === type))) continue;
    const trainerId = type === 'join' ? `late-${next++}` : pick(dice, trainerIds);
    // Who leaves before the first step is missed for ever: the run waits for startTrainers.
    const when = type === 'leave' ? ({ phase: 'collecting', step: 2 } as const) : randomTime(dice);
    faults.push({ ...randomKind(dice, type, trainerId), when });
  }
  return faults;
}

function randomTime(dice: Dice): FaultTime {
  return dice() < 0.3
    ? { atMs: Math.floor(dice() * 5_000) }
    : { phase: pick(dice, PHASES), step: Math.floor(dice() * 6) };
}

function randomKind(dice: Dice, type: FaultType, trainerId: string): FaultKind {
  const durationMs = Math.floor(100 + dice() * 6_000);
  const rate = 0.05 + dice() * 0.4;
  switch (type) {
    case 'crashTrainer':
      return { type, trainerId, backAfterMs: durationMs };
    case 'crashCoordinator':
      return { type, backAfterMs: durationMs, isAfterJournal: dice() < 0.5 };
    case 'freezeTrainer':
    case 'cut':
    case 'isolate':
      return { type, trainerId, durationMs };
    case 'slowTrainer':
      return { type, trainerId, durationMs, factor: 2 + Math.floor(dice() * 60) };
    case 'flap':
      return {
        type,
        trainerId,
        times: 2 + Math.floor(dice() * 5),
        periodMs: 50 + Math.floor(dice() * 1_500),
      };
    case 'jumpClock':
      return { type, byMs: Math.round((dice() - 0.4) * 10_000) };
    case 'delay':
      return { type, trainerId, durationMs, extraMs: Math.floor(dice() * 1_500) };
    case 'drop':
    case 'duplicate':
    case 'reorder':
      return { type, trainerId, durationMs, rate };
    case 'corruptState':
    case 'loseTokens':
    case 'join':
    case 'secondProcess':
    case 'leave':
      return { type, trainerId };
    case 'failCheckpoint':
      return { type };
    case 'fillDisk':
      return { type, durationMs };
  }
}
