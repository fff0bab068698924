/**
 * A whole run in memory: the real coordinator core, trainers with the real session core, a network with
 * faults and a virtual clock. The same seed and the same faults give the same run.
 */
import type { Phase, RunPlan, RunState } from '../coordinator/core/state.ts';
import { createClock } from './clock.ts';
import { startCoordinator, type SimulatedCoordinator } from './coordinator-model.ts';
import { createDice } from './dice.ts';
import { createDisk, type Disk } from './disk.ts';
import type { Fault, FaultType } from './faults.ts';
import { fold, type DownMessage, type UpMessage } from './messages.ts';
import { createNetwork } from './network.ts';
import { startTrainer, type SimulatedTrainer } from './trainer-model.ts';

export interface ClusterOptions {
  readonly seed: number;
  readonly trainerIds: readonly string[];
  readonly plan?: Partial<RunPlan>;
  readonly faults?: readonly Fault[];
  /** Stop the run at this time, as an operator does. */
  readonly stopAtMs?: number;
  /** The disk of a run that was stopped: it is resumed. */
  readonly disk?: Disk;
  /** A run that has not ended by then has hung. */
  readonly limitMs?: number;
  readonly latencyMs?: number;
  /** What a sequence takes each trainer; those not named get a random time of 10 to 50 ms. */
  readonly msPerSequence?: Readonly<Record<string, number>>;
}

export interface ClusterResult {
  /** What went wrong with the rules of invariants.ts; empty in a right run. */
  readonly violations: readonly string[];
  readonly disk: Disk;
  /** The coordinator's at the end; null if it was down. */
  readonly state: RunState | null;
  readonly endedAtMs: number;
  /** How often each kind of fault came about. */
  readonly fired: ReadonlyMap<FaultType, number>;
  /** Phases in which the coordinator was at any time. */
  readonly phases: ReadonlySet<Phase['phase']>;
  /** How each trainer's session ended. */
  readonly sessions: ReadonlyMap<string, string>;
  /** Times the coordinator was started. */
  readonly starts: number;
  /** The run was left off where a lone trainer with wrong weights gave a checkpoint: nobody could have seen that. */
  readonly isUnseen: boolean;
}

export const SIMULATED_PLAN: RunPlan = {
  totalSteps: 6,
  startTrainers: 2,
  minTrainers: 1,
  maxTrainers: 64,
  stepDeadlineMs: 3_000,
  quorum: 'all',
  graceMs: 500,
  heartbeatTimeoutMs: 2_000,
  participation: null,
  batchSequences: 8,
  isLocal: false,
  localExamples: 0,
  sharding: 'equal',
  projectedSlots: [0, 1, 2],
  updateProjGap: 3,
  isStaggered: false,
  refreshRounds: 2,
  isWarmStart: false,
  lazyThreshold: null,
  convergedRatio: null,
  evaluationEvery: 2,
  evaluationSequences: 6,
  checkpointEvery: 2,
  hashEvery: 1,
  hasLocalState: true,
  outliers: null,
};

const TICK_INTERVAL_MS = 250;
const HEARTBEAT_INTERVAL_MS = 500;
const HANDSHAKE_TIMEOUT_MS = 1_500;
const DEFAULT_LIMIT_MS = 30 * 60_000;

/** The newest that has not ended, or the one that ended best. */
function survivorOf(processes: readonly SimulatedTrainer[] = []): SimulatedTrainer | undefined {
  const endOf = (trainer: SimulatedTrainer): string => {
    const { phase } = trainer.session();
    return phase.phase === 'closed' ? phase.reason : '';
  };
  const newestFirst = processes.toReversed();
  return (
    newestFirst.find((each) => endOf(each) === '') ??
    newestFirst.find((each) => endOf(each) !== 'SUPERSEDED') ??
    newestFirst[0]
  );
}

/** Plays a run until it has ended and every trainer knows. */
export function runCluster(options: ClusterOptions): ClusterResult {
  const { seed, faults = [], limitMs = DEFAULT_LIMIT_MS, latencyMs = 10 } = options;
  const plan: RunPlan = { ...SIMULATED_PLAN, ...options.plan };
  const clock = createClock();
  const network = createNetwork<UpMessage, DownMessage>({ clock, seed, latencyMs, jitterMs: latencyMs });
  const dice = createDice(seed, 'cluster');
  const weights = fold('initial', seed);
  const initial = { step: 0, sequence: 0, weights, model: weights, digest: '00000000', shapes: '' };
  const disk = options.disk ?? createDisk(initial);
  const { invariants } = disk;
  /** All processes with an id, the newest last: of several that meet one is left. */
  const processes = new Map<string, readonly SimulatedTrainer[]>();
  const fired = new Map<FaultType, number>();
  const phases = new Set<Phase['phase']>();
  const waiting = new Set<Fault>(faults);
  /** Ends of faults and processes to be started: while there are any, the run is not over. */
  let pending = 0;
  let failingCheckpoints = 0;
  /** Faults that fill the disk now. */
  let fillings = 0;
  /** How many times as long a trainer takes. */
  const slowness = new Map<string, number>();
  /** What the coordinator's clock is ahead. */
  let aheadMs = 0;
  let isUnseen = false;
  let crashAfterJournalMs: number | null = null;
  let starts = 0;
  let coordinator: SimulatedCoordinator | null = null;

  const launchTrainer = (trainerId: string): void => {
    const launched = startTrainer({
      trainerId,
      clock,
      network,
      dice,
      invariants,
      hashEvery: plan.hashEvery,
      slowness: () => slowness.get(trainerId) ?? 1,
      msPerSequence: options.msPerSequence?.[trainerId] ?? 10 + 40 * dice(),
      tickIntervalMs: TICK_INTERVAL_MS,
      heartbeatIntervalMs: HEARTBEAT_INTERVAL_MS,
      heartbeatTimeoutMs: plan.heartbeatTimeoutMs,
      handshakeTimeoutMs: HANDSHAKE_TIMEOUT_MS,
    });
    processes.set(trainerId, [...(processes.get(trainerId) ?? []), launched]);
  };

  const launchCoordinator = (): void => {
    starts += 1;
    coordinator = startCoordinator({
      plan,
      clock,
      network,
      disk,
      dice,
      invariants,
      tickIntervalMs: TICK_INTERVAL_MS,
      pingIntervalMs: HEARTBEAT_INTERVAL_MS,
      onState: watch,
      readClockMs: () => Math.max(0, clock.nowMs() + aheadMs),
      onJournalled() {
        if (crashAfterJournalMs !== null) crashCoordinator(crashAfterJournalMs);
        crashAfterJournalMs = null;
      },
      onUnseen: () => (isUnseen = true),
      hasRoom: () => fillings === 0,
      canWriteCheckpoint() {
        const canWrite = failingCheckpoints === 0;
        failingCheckpoints = Math.max(0, failingCheckpoints - 1);
        return canWrite;
      },
      isCorrupted: (trainerId) => processes.get(trainerId)?.some((each) => each.isCorrupted()) === true,
    });
  };

  const inAWhile = (delayMs: number, action: () => void): void => {
    pending += 1;
    clock.schedule(delayMs, () => {
      pending -= 1;
      action();
    });
  };

  const crashCoordinator = (backAfterMs: number): void => {
    coordinator?.crash();
    coordinator = null;
    inAWhile(backAfterMs, launchCoordinator);
  };

  /** Fires the faults that wait for this phase, once the event that led to it is dealt with. */
  const watch = ({ phase, step }: RunState): void => {
    phases.add(phase.phase);
    for (const fault of waiting) {
      const { when } = fault;
      const current = 'step' in phase ? phase.step : step;
      if (!('phase' in when) || when.phase !== phase.phase || current < when.step) continue;
      waiting.delete(fault);
      inAWhile(0, () => fire(fault));
    }
  };

  const fire = (fault: Fault): void => {
    fired.set(fault.type, (fired.get(fault.type) ?? 0) + 1);
    switch (fault.type) {
      case 'crashCoordinator':
        if (coordinator === null) return;
        if (fault.isAfterJournal) crashAfterJournalMs = fault.backAfterMs;
        else crashCoordinator(fault.backAfterMs);
        return;
      case 'failCheckpoint':
        failingCheckpoints += 1;
        return;
      case 'fillDisk':
        fillings += 1;
        inAWhile(fault.durationMs, () => (fillings -= 1));
        return;
      case 'jumpClock':
        aheadMs += fault.byMs;
        return;
      case 'join':
        launchTrainer(fault.trainerId);
        return;
    }
    const { trainerId } = fault;
    const trainer = survivorOf(processes.get(trainerId));
    switch (fault.type) {
      case 'crashTrainer':
        if (trainer === undefined || trainer.session().phase.phase === 'closed') return;
        for (const each of processes.get(trainerId) ?? []) each.crash();
        processes.delete(trainerId);
        inAWhile(fault.backAfterMs, () => launchTrainer(trainerId));
        return;
      case 'freezeTrainer':
        trainer?.freeze(fault.durationMs);
        return;
      case 'slowTrainer':
        slowness.set(trainerId, fault.factor);
        inAWhile(fault.durationMs, () => void slowness.delete(trainerId));
        return;
      case 'secondProcess':
        launchTrainer(trainerId);
        return;
      case 'flap':
        flap(trainerId, fault.times, fault.periodMs);
        return;
      case 'corruptState':
        trainer?.corrupt();
        return;
      case 'loseTokens':
        trainer?.loseTokens();
        return;
      case 'leave':
        trainer?.leave();
        return;
      case 'cut':
        network.cut(trainerId);
        break;
      case 'isolate':
        network.isolate(trainerId);
        break;
      case 'delay':
        network.trouble(trainerId, { extraDelayMs: fault.extraMs });
        break;
      case 'drop':
        network.trouble(trainerId, { dropRate: fault.rate });
        break;
      case 'duplicate':
        network.trouble(trainerId, { duplicateRate: fault.rate });
        break;
      case 'reorder':
        network.trouble(trainerId, { reorderRate: fault.rate });
        break;
    }
    inAWhile(fault.durationMs, () => network.recover(trainerId));
  };

  const flap = (trainerId: string, times: number, periodMs: number): void => {
    network.cut(trainerId);
    inAWhile(periodMs / 2, () => {
      network.recover(trainerId);
      if (times > 1) inAWhile(periodMs / 2, () => flap(trainerId, times - 1, periodMs));
    });
  };

  const isOver = (): boolean => {
    if (pending > 0 || coordinator?.state().phase.phase !== 'finished') return false;
    const isStopped = options.stopAtMs !== undefined;
    return [...processes.values()].flat().every((trainer) => {
      const { phase } = trainer.session().phase;
      return phase === 'closed' || (isStopped && phase === 'backing-off');
    });
  };

  launchCoordinator();
  for (const trainerId of options.trainerIds) launchTrainer(trainerId);
  for (const fault of faults) {
    if (!('atMs' in fault.when)) continue;
    waiting.delete(fault);
    clock.schedule(fault.when.atMs, () => fire(fault));
  }
  if (options.stopAtMs !== undefined) inAWhile(options.stopAtMs, () => coordinator?.stop());
  clock.run(limitMs, () => isUnseen || isOver());

  const last = coordinator as SimulatedCoordinator | null;
  if (!isUnseen && (last === null || !isOver())) {
    invariants.violate(
      `the run has not ended after ${clock.nowMs()} ms: ${last?.note() ?? 'no coordinator'}`,
    );
  }
  const ends = new Map(
    [...processes].map(([trainerId, all]) => {
      const { phase } = survivorOf(all)!.session();
      return [trainerId, phase.phase === 'closed' ? `${phase.reason}: ${phase.text}` : phase.phase] as const;
    }),
  );
  for (const [trainerId, end] of ends) {
    const isExpected = /^(RUN_FINISHED|LEAVING)/.test(end) || options.stopAtMs !== undefined;
    if (!isExpected && !isUnseen)
      invariants.violate(`${trainerId} is lost to the run: its session ended with ${end}`);
  }
  return {
    violations: invariants.violations,
    disk,
    state: last?.state() ?? null,
    endedAtMs: clock.nowMs(),
    fired,
    phases,
    sessions: ends,
    starts,
    isUnseen,
  };
}
