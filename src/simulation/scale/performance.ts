/**
 * A run of thousands of trainers in virtual time: the coordinator's real core decides, links are fluids, and what is
 * computed and sent is told by its time and its bytes alone. See docs/simulate.md for what is left out.
 */
import { advance, initialState } from '../../coordinator/core/advance.ts';
import type { Effect, Event, RunPlan, RunState } from '../../coordinator/core/state.ts';
import { createClock, type Clock } from '../clock.ts';
import { createDice } from '../dice.ts';
import { Gateway } from './gateway.ts';
import { Hub, type Costs, type HubUse } from './hub.ts';
import { PieceSums } from './piece-sums.ts';
import { draw, type Scenario, type TrainerKind } from './scenario.ts';
import { SimulatedTrainer, type FactorWork, type Host, type Member, type StepMoments } from './trainer.ts';
import type { Workload } from './workload.ts';

export interface PerformanceOptions {
  readonly scenario: Scenario;
  readonly workload: Workload;
  /** Of the configuration; trainers, totals and what is left out are set here. */
  readonly plan: RunPlan;
  readonly steps: number;
  readonly seed: number;
  /** Operations of a step's products: for each step, and for each sequence. */
  readonly flops: { readonly fixed: number; readonly perSequence: number };
  /** Everybody fetches the state of step 0 before the first step. */
  readonly isJoining: boolean;
  /** What a trainer without state fetches. */
  readonly stateBytes: number;
  /** Ends the simulation, whatever is done by then. */
  readonly limitMs?: number;
  /** Called after each step. */
  onStep?(step: StepResult): void;
}

/** Seconds on the path of the trainer that was waited for: they follow each other and their sum is the step. */
export interface TimeLine {
  readonly download: number;
  readonly apply: number;
  readonly compute: number;
  readonly upload: number;
  /** From a gateway having all until the coordinator has it. */
  readonly gateway: number;
  readonly coordinator: number;
}

export interface StepResult {
  readonly step: number;
  /** Since the beginning. */
  readonly endSeconds: number;
  readonly seconds: number;
  readonly timeLine: TimeLine;
  /** Of the mean trainer that had a share: computing and applying. */
  readonly busySeconds: number;
  /** Connected to the coordinator that had a share, and that delivered. */
  readonly assigned: number;
  readonly delivered: number;
  readonly late: number;
  readonly sequences: number;
  readonly coordinator: HubUse;
  /** Means over gateways; null: there are none. */
  readonly gateway: HubUse | null;
}

export interface PerformanceResult {
  readonly steps: readonly StepResult[];
  /** When the first step began. */
  readonly startSeconds: number;
  readonly failures: number;
  readonly events: number;
  /** Why it did not get to the end; null: it did. */
  readonly stuck: string | null;
}

/** A virtual year. */
const LIMIT_MS = 3.2e10;
/** Trainers are lost when the simulation says so, not by a heartbeat that nobody sends. */
const NO_TIMEOUT_MS = 1e12;

export function simulatePerformance(options: PerformanceOptions): PerformanceResult {
  return new Leader(options).run();
}

type EffectOf<T extends Effect['type']> = Extract<Effect, { type: T }>;
type EventWithoutTime = Event extends infer E ? (E extends Event ? Omit<E, 'nowMs'> : never) : never;

class Leader implements Host {
  readonly hub: Hub;
  readonly #options: PerformanceOptions;
  readonly #clock: Clock = createClock();
  readonly #members = new Map<string, Member>();
  readonly #trainers: SimulatedTrainer[] = [];
  readonly #gateways: Gateway[] = [];
  readonly #steps: StepResult[] = [];
  #state: RunState;
  #sums: PieceSums | null = null;
  /** Parts and bytes of the record that is being written, as far as they are not sent. */
  #rest = { bytes: 0, parts: 0, isBasis: false };
  #startMs = 0;
  #committedMs = 0;
  #failures = 0;
  #events = 0;
  #tickAtMs = Infinity;
  #before: { leader: HubUse; gateways: HubUse | null };

  constructor(options: PerformanceOptions) {
    this.#options = options;
    const { scenario, plan, steps } = options;
    const { coordinator, gateways, trainers } = scenario;
    const costs = costsOf(scenario);
    this.hub = new Hub(this.#clock, coordinator, costs);
    const direct = gateways.count === 0 ? trainers.count : gateways.count;
    this.#state = initialState(
      {
        ...plan,
        totalSteps: steps + 1,
        startTrainers: direct,
        minTrainers: Math.min(direct, plan.minTrainers),
        maxTrainers: direct,
        heartbeatTimeoutMs: NO_TIMEOUT_MS,
        evaluationSequences: 0,
        evaluationEvery: 0,
        checkpointEvery: 0,
        hashEvery: 0,
      },
      {
        ...{ step: 0, sequence: 0, refreshedStep: 0, bases: [], checkpointedStep: 0, nowMs: 0 },
        cursor: { next: 0, returned: [] },
      },
    );
    for (let index = 0; index < gateways.count; index += 1) {
      const dice = createDice(options.seed, `gateway ${index}`);
      this.#gateways.push(
        new Gateway({
          id: numbered('gateway', index, gateways.count),
          clock: this.#clock,
          leader: this,
          hub: new Hub(this.#clock, gateways, costs),
          workload: options.workload,
          plan,
          rates: { up: gateways.leader_up, down: gateways.leader_down },
          latencyMs: draw(gateways.latency_ms, dice),
          startTrainers: shareOf(trainers.count, gateways.count, index),
          isNew: options.isJoining,
        }),
      );
    }
    for (let index = 0; index < trainers.count; index += 1) this.#trainers.push(this.#makeTrainer(index));
    this.#before = this.#uses();
  }

  run(): PerformanceResult {
    const { steps, limitMs = LIMIT_MS } = this.#options;
    for (const gateway of this.#gateways) gateway.start();
    for (const trainer of this.#trainers) trainer.start();
    this.#clock.run(limitMs, () => this.#steps.length >= steps);
    const isDone = this.#steps.length >= steps;
    return {
      steps: this.#steps,
      startSeconds: this.#startMs / 1000,
      failures: this.#failures,
      events: this.#events,
      stuck: isDone ? null : `after ${this.#steps.length} steps nothing more happens: ${this.#note}`,
    };
  }

  #note = '';

  #makeTrainer(index: number): SimulatedTrainer {
    const { scenario, seed, workload, flops, isJoining, plan } = this.#options;
    const { count, kinds } = scenario.trainers;
    const dice = createDice(seed, `trainer ${index}`);
    const kind = pickKind(kinds, dice());
    const flopsPerSecond = kind.flops === undefined ? null : draw(kind.flops, dice);
    const perSequence =
      flopsPerSecond === null ? draw(kind.seconds_per_sequence!, dice) : flops.perSequence / flopsPerSecond;
    return new SimulatedTrainer({
      id: numbered('trainer', index, count),
      index,
      clock: this.#clock,
      // Neighbours in the list have one gateway.
      host:
        this.#gateways.length === 0 ? this : this.#gateways[gatewayOf(index, count, this.#gateways.length)]!,
      workload,
      traits: {
        kind,
        up: draw(kind.up, dice),
        down: draw(kind.down, dice),
        burstBytes: kind.burst_bytes,
        latencyMs: draw(kind.latency_ms, dice),
        fixedSeconds: flopsPerSecond === null ? 0 : flops.fixed / flopsPerSecond,
        secondsPerSequence: perSequence,
        applySeconds: draw(kind.apply_seconds, dice),
      },
      dice,
      isNew: isJoining,
      noticedAfterMs: plan.heartbeatTimeoutMs,
      onFailure: () => (this.#failures += 1),
    });
  }

  // ---- as a host ----

  get step(): number {
    return this.#state.step;
  }

  whenServing(action: () => void): void {
    action();
  }

  catchUpBytes(heldStep: number | null): number {
    const { stateBytes, workload } = this.#options;
    if (heldStep === null) return stateBytes;
    const missed = this.#state.step - heldStep;
    const update = workload.pieces(1).reduce((total, { downBytes }) => total + downBytes, 0);
    return workload.messageBytes + missed * (update + workload.commitBytes);
  }

  joined(member: Member): void {
    this.#members.set(member.id, member);
    this.#feed({ type: 'trainerJoined', trainerId: member.id });
  }

  ready(member: Member): void {
    this.#feed({ type: 'trainerReady', trainerId: member.id, sequence: this.#state.sequence });
  }

  lost(member: Member, reason: string): void {
    this.#sums?.drop(member.id);
    this.#feed({ type: 'trainerLost', trainerId: member.id, reason });
  }

  restarted(member: Member): void {
    this.#sums?.restart(member.id);
  }

  pieceTaken(member: Member, step: number, atMs: number): void {
    if (this.#sums?.step === step) this.#sums.add(member.id, atMs);
  }

  contributed(member: Member, step: number, sequences: number): void {
    const tokens = sequences;
    this.#feed({ type: 'contributionReceived', trainerId: member.id, step, tokens, lossSum: tokens });
  }

  sketched(member: Member, step: number, round: number, sequences: number): void {
    this.#feed({ type: 'sketchReceived', trainerId: member.id, step, round, tokens: sequences });
  }

  factored(member: Member, { step, round, slots }: FactorWork): void {
    this.#feed({ type: 'factorReceived', trainerId: member.id, step, round, slots });
  }

  // ---- the core's shell ----

  #feed(event: EventWithoutTime): void {
    this.#events += 1;
    const { state, effects, note } = advance(this.#state, {
      ...event,
      nowMs: this.#clock.nowMs(),
    } as Event);
    this.#state = state;
    if (note !== undefined) this.#note = note;
    for (const effect of effects) this.#carryOut(effect, effects);
    this.#scheduleTick();
  }

  /** The core is only told of the time when a deadline of its own has come. */
  #scheduleTick(): void {
    const { phase } = this.#state;
    const nowMs = this.#clock.nowMs();
    const dueMs =
      'deadlineMs' in phase ? phase.deadlineMs : phase.phase === 'waiting' ? phase.notBeforeMs : null;
    if (dueMs === null || dueMs === this.#tickAtMs) return;
    this.#tickAtMs = dueMs;
    this.#clock.schedule(Math.max(1, dueMs - nowMs), () => {
      if (this.#tickAtMs === dueMs) this.#tickAtMs = Infinity;
      this.#feed({ type: 'ticked' });
    });
  }

  #carryOut(effect: Effect, effects: readonly Effect[]): void {
    switch (effect.type) {
      case 'assignStep': {
        const { trainerId, step, positions, refreshSlots, waitMs } = effect;
        if (this.#sums?.step !== step || this.#sums.passed > 0 || this.#sums.isVoid) {
          this.#begin(step, effects);
        }
        const isRefresh = refreshSlots.length > 0;
        this.#members.get(trainerId)?.assign({ step, sequences: positions.length, isRefresh, waitMs });
        break;
      }
      case 'passOver':
        this.#members.get(effect.trainerId)?.passOver();
        break;
      case 'requestSketches': {
        const { trainerIds, step, round, slots, jobs } = effect;
        const factorBytes =
          jobs.length === 0 ? 0 : this.#options.workload.refresh(round - 1, slots).factorDown;
        for (const id of trainerIds) this.#members.get(id)?.sketches({ step, round, slots, factorBytes });
        break;
      }
      case 'assignFactors':
        this.#members.get(effect.trainerId)?.factorise(effect);
        break;
      case 'sumSketches':
        break;
      case 'commitBases':
        this.#commitBases(effect);
        break;
      case 'commitUpdate':
        this.#commitUpdate(effect);
        break;
      case 'announceRecord': {
        const { bytes, parts, isBasis } = this.#rest;
        for (const { trainerId, status } of this.#state.trainers) {
          if (status !== 'loading') this.#members.get(trainerId)?.record(bytes, parts, isBasis);
        }
        break;
      }
      case 'discardStaged':
        this.#sums?.abandon();
        this.#sums = null;
        break;
      case 'closeConnection': {
        const { trainerId, reason, text } = effect;
        this.#members.get(trainerId)?.close(reason, text);
        break;
      }
      default:
        // Evaluations, checkpoints and the end are no part of this; who is rejected has no more to do.
        break;
    }
  }

  #begin(step: number, effects: readonly Effect[]): void {
    const members = effects.flatMap((effect) => (effect.type === 'assignStep' ? effect.trainerId : []));
    const { workload } = this.#options;
    if (step === 1) {
      this.#startMs = this.#clock.nowMs();
      this.#committedMs = this.#startMs;
      this.#before = this.#uses();
    }
    const pieces = workload.pieces(step);
    const sums: PieceSums = new PieceSums(this.#clock, step, members, pieces, (index) => {
      const { downBytes, parts } = pieces[index]!;
      this.#clock.schedule(this.hub.make(downBytes), () => {
        if (sums.isVoid) return;
        for (const { trainerId, status } of this.#state.trainers) {
          if (status !== 'loading') this.#members.get(trainerId)?.early(downBytes, parts);
        }
      });
    });
    this.#sums = sums;
  }

  #commitBases({ step, slots, jobs }: EffectOf<'commitBases'>): void {
    const { workload, plan } = this.#options;
    const { factorDown, parts } =
      jobs.length === 0 ? { factorDown: 0, parts: 0 } : workload.refresh(plan.refreshRounds, slots);
    const bytes = factorDown + workload.commitBytes;
    this.#rest = { bytes, parts: parts + 1, isBasis: true };
    const bases = slots.map((slot) => ({ slot, rank: null, similarity: null }));
    this.#journal(bytes, bytes, () => {
      const sequence = this.#state.sequence + 1;
      this.#feed({ type: 'recordCommitted', step, kind: 'basis', sequence, bases });
    });
  }

  #commitUpdate({ step, received, shards, attendance }: EffectOf<'commitUpdate'>): void {
    const { workload } = this.#options;
    const pieces = workload.pieces(step);
    const sums = this.#sums;
    const isEarly = sums !== null && !sums.isVoid && sums.members.length === received.length;
    const left = pieces.slice(isEarly ? sums.passed : 0);
    const bytes = left.reduce((total, { downBytes }) => total + downBytes, 0);
    const parts = left.reduce((total, piece) => total + piece.parts, 0);
    this.#sums = null;
    this.#rest = { bytes: bytes + workload.commitBytes, parts: parts + 1, isBasis: false };
    const whole = pieces.reduce((total, { downBytes }) => total + downBytes, 0);
    const last = received
      .map(({ trainerId }) => this.#members.get(trainerId)!)
      .reduce((a, b) => (b.times.uploadedMs > a.times.uploadedMs ? b : a));
    const moments = { ...last.times, last: last.times.last && { ...last.times.last } };
    const sequences = shards.reduce((total, { positions }) => total + positions.length, 0);
    this.#journal(bytes, whole + workload.commitBytes, () => {
      this.#report(step, moments, sequences, {
        assigned: attendance.assigned.length,
        delivered: received.length,
        late: attendance.late.length,
      });
      this.#feed({ type: 'recordCommitted', step, kind: 'update', sequence: this.#state.sequence + 1 });
    });
  }

  #journal(madeBytes: number, writtenBytes: number, done: () => void): void {
    const { journal_seconds: sync, journal_bytes_per_second: rate } = this.#options.scenario.coordinator;
    const delayMs = this.hub.make(madeBytes) + 1000 * (sync + writtenBytes / rate);
    this.#clock.schedule(delayMs, done);
  }

  #report(
    step: number,
    moments: StepMoments,
    sequences: number,
    who: Pick<StepResult, 'assigned' | 'delivered' | 'late'>,
  ): void {
    const nowMs = this.#clock.nowMs();
    const own = moments.last ?? moments;
    const seconds = (fromMs: number, toMs: number): number => Math.max(0, toMs - fromMs) / 1000;
    const uses = this.#uses();
    const { leader, gateways } = this.#before;
    const result: StepResult = {
      step,
      endSeconds: nowMs / 1000,
      seconds: seconds(this.#committedMs, nowMs),
      timeLine: {
        download: seconds(this.#committedMs, own.receivedMs),
        apply: seconds(own.receivedMs, own.startMs),
        compute: seconds(own.startMs, own.computedMs),
        upload: seconds(own.computedMs, own.uploadedMs),
        gateway: moments.last === null ? 0 : seconds(own.uploadedMs, moments.uploadedMs),
        coordinator: seconds(moments.uploadedMs, nowMs),
      },
      busySeconds: this.#meanBusySeconds(step),
      ...who,
      sequences,
      coordinator: difference(uses.leader, leader),
      gateway: uses.gateways === null ? null : difference(uses.gateways, gateways!),
    };
    this.#before = uses;
    this.#committedMs = nowMs;
    this.#steps.push(result);
    this.#options.onStep?.(result);
  }

  /** Of those who began this step. */
  #meanBusySeconds(step: number): number {
    let [total, count] = [0, 0];
    for (const trainer of this.#trainers) {
      if (trainer.workingOn !== step) continue;
      const { receivedMs, computedMs } = trainer.times;
      total += Math.max(0, computedMs - receivedMs) / 1000;
      count += 1;
    }
    return count === 0 ? 0 : total / count;
  }

  #uses(): { leader: HubUse; gateways: HubUse | null } {
    const all = this.#gateways.map(({ hub }) => hub.use());
    return { leader: this.hub.use(), gateways: all.length === 0 ? null : meanOf(all) };
  }
}

function costsOf({ coordinator }: Scenario): Costs {
  return {
    perByteReceived: 1e-9 * coordinator.cpu_ns_per_byte_received,
    perByteSent: 1e-9 * coordinator.cpu_ns_per_byte_sent,
    perByteOfRecord: 1e-9 * coordinator.cpu_ns_per_byte_of_record,
    perPartReceived: 1e-6 * coordinator.cpu_us_per_part_received,
    perPartSent: 1e-6 * coordinator.cpu_us_per_part_sent,
  };
}

const USES = ['receivedBytes', 'sentBytes', 'cpuSeconds', 'fullInSeconds', 'fullOutSeconds'] as const;

function difference(now: HubUse, before: HubUse): HubUse {
  return Object.fromEntries(USES.map((name) => [name, now[name] - before[name]])) as unknown as HubUse;
}

function meanOf(uses: readonly HubUse[]): HubUse {
  const mean = (name: (typeof USES)[number]): number =>
    uses.reduce((total, use) => total + use[name], 0) / uses.length;
  return Object.fromEntries(USES.map((name) => [name, mean(name)])) as unknown as HubUse;
}

function pickKind(kinds: readonly TrainerKind[], lot: number): TrainerKind {
  const total = kinds.reduce((sum, { share }) => sum + share, 0);
  let left = lot * total;
  for (const kind of kinds) {
    left -= kind.share;
    if (left < 0) return kind;
  }
  return kinds.at(-1)!;
}

/** Ids ascend as numbers do. */
function numbered(noun: string, index: number, count: number): string {
  return `${noun}-${String(index + 1).padStart(String(count).length, '0')}`;
}

/** Which of `gateways` the trainer is connected to; their numbers of trainers differ by at most one. */
function gatewayOf(index: number, trainers: number, gateways: number): number {
  return Math.floor((index * gateways) / trainers);
}

function shareOf(trainers: number, gateways: number, gateway: number): number {
  const first = (at: number): number => Math.ceil((at * trainers) / gateways);
  return first(gateway + 1) - first(gateway);
}
