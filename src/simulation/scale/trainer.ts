/**
 * A trainer of a simulated run, as far as time and bytes go: the real session core decides when it connects and what
 * it says first; its compute side takes so long for a step, and sends each piece of its contribution when it is there.
 */
import {
  advanceSession,
  startSession,
  type SessionEffect,
  type SessionEvent,
  type SessionState,
  type SessionTransition,
} from '../../trainer/core/session.ts';
import { CLOSE_CODES, type CloseReason } from '../../protocol/close-codes.ts';
import type { Clock } from '../clock.ts';
import type { Dice } from '../dice.ts';
import type { Hub, Wire } from './hub.ts';
import { draw, drawGap, type Spread, type TrainerKind } from './scenario.ts';
import type { Workload } from './workload.ts';

/** What a trainer is given to do in a step. */
export interface Work {
  readonly step: number;
  readonly sequences: number;
  readonly isRefresh: boolean;
  /** How long the coordinator waits; 0: no limit. */
  readonly waitMs: number;
}

/** A round of sketches. */
export interface SketchRound {
  readonly step: number;
  readonly round: number;
  readonly slots: readonly number[];
  /** Factors of the round before, on the socket. */
  readonly factorBytes: number;
}

/** Slots to be factorised. */
export interface FactorWork {
  readonly step: number;
  readonly round: number;
  readonly slots: readonly number[];
}

/** Whoever takes part in a step, as the one it is connected to sees it: a trainer or, at the coordinator, a gateway. */
export interface Member {
  readonly id: string;
  readonly latencyMs: number;
  /** When its last contribution began to leave for good, and was taken in; and how it came to be. */
  readonly times: StepMoments;
  assign(work: Work): void;
  passOver(): void;
  /** Sums of the update ahead of its record. */
  early(bytes: number, parts: number): void;
  /** A record, or what is left of it. */
  record(bytes: number, parts: number, isBasis: boolean): void;
  sketches(round: SketchRound): void;
  factorise(work: FactorWork): void;
  /** The connection was ended by the other side. */
  close(reason: CloseReason, text: string): void;
}

/** Of the newest step of a trainer, in milliseconds. */
export interface StepMoments {
  receivedMs: number; // the update of the step before, and the new work
  startMs: number; // that update is applied
  computedMs: number;
  uploadedMs: number; // taken in by the one it is connected to
  /** Of a gateway: the trainer that it waited for. */
  last: StepMoments | null;
}

export const NO_MOMENTS: StepMoments = {
  receivedMs: 0,
  startMs: 0,
  computedMs: 0,
  uploadedMs: 0,
  last: null,
};

/** The coordinator or a gateway, as those connected to it see it. Moments may lie ahead. */
export interface Host {
  readonly hub: Hub;
  /** Runs it as soon as trainers can be served. */
  whenServing(action: () => void): void;
  joined(member: Member): void;
  ready(member: Member): void;
  lost(member: Member, reason: string): void;
  /** Bytes of what such a trainer lacks. */
  catchUpBytes(heldStep: number | null): number;
  readonly step: number;
  pieceTaken(member: Member, step: number, atMs: number): void;
  /** What came of its contribution is void, and comes anew. */
  restarted(member: Member): void;
  /** After the last piece. */
  contributed(member: Member, step: number, sequences: number): void;
  sketched(member: Member, step: number, round: number, sequences: number): void;
  factored(member: Member, work: FactorWork): void;
}

/** How good its machine and its link are. */
export interface TrainerTraits {
  readonly kind: TrainerKind;
  readonly up: number; // bits a second
  readonly down: number;
  readonly burstBytes: number;
  readonly latencyMs: number;
  readonly fixedSeconds: number;
  readonly secondsPerSequence: number;
  readonly applySeconds: number;
}

export interface TrainerOptions {
  readonly id: string;
  readonly index: number;
  readonly clock: Clock;
  readonly host: Host;
  readonly workload: Workload;
  readonly traits: TrainerTraits;
  readonly dice: Dice;
  /** Whether it has to fetch the state of step 0. */
  readonly isNew: boolean;
  readonly noticedAfterMs: number;
  onFailure(): void;
}

const RUN_ID = 'simulated';
const HANDSHAKE_TIMEOUT_MS = 10_000;
const MS_PER_HOUR = 3_600_000;

export class SimulatedTrainer implements Member {
  readonly id: string;
  readonly latencyMs: number;
  readonly times: StepMoments = { ...NO_MOMENTS };
  readonly #options: TrainerOptions;
  readonly #clock: Clock;
  #session: SessionState | null = null;
  #wire: Wire | null = null;
  /** The step whose weights it has; null: it has none. */
  #heldStep: number | null;
  #work: Work | null = null;
  #round: SketchRound | null = null;
  #isComputed = false;
  #mustApply = false;
  #isAway = false;

  constructor(options: TrainerOptions) {
    this.#options = options;
    this.#clock = options.clock;
    this.id = options.id;
    this.latencyMs = options.traits.latencyMs;
    this.#heldStep = options.isNew ? null : 0;
  }

  /** Seconds of this step's products. */
  computeSeconds(sequences: number): number {
    const { fixedSeconds, secondsPerSequence } = this.#options.traits;
    return sequences === 0 ? 0 : fixedSeconds + sequences * secondsPerSequence;
  }

  /** The step of its newest work; 0: it has none. */
  get workingOn(): number {
    return this.#work?.step ?? 0;
  }

  get applySeconds(): number {
    return this.#options.traits.applySeconds;
  }

  start(): void {
    const plan = { seed: this.#options.index, handshakeTimeoutMs: HANDSHAKE_TIMEOUT_MS };
    const step = this.#heldStep;
    const held = step === null ? null : { runId: RUN_ID, sequence: step, digest: '' };
    this.#carryOut(startSession(plan, held, this.#clock.nowMs()));
    this.#scheduleFailure();
  }

  // ---- as a member ----

  assign(work: Work): void {
    this.#wire?.deliver(this.#options.workload.assignmentBytes(work.sequences), 1, () => this.#begin(work));
  }

  passOver(): void {
    this.#wire?.deliver(this.#options.workload.messageBytes, 1);
    this.#heldStep = this.#options.host.step;
  }

  early(bytes: number, parts: number): void {
    this.#wire?.deliver(bytes, parts);
  }

  record(bytes: number, parts: number, isBasis: boolean): void {
    if (!isBasis) {
      this.#mustApply = true;
      this.#wire?.deliver(bytes, parts);
      return;
    }
    const work = this.#work;
    this.#wire?.deliver(bytes, parts, () => {
      // The gradient is there and waited for its bases.
      if (work !== null && work === this.#work && work.isRefresh) this.#contribute(work, 0);
    });
  }

  sketches(round: SketchRound): void {
    this.#wire?.deliver(round.factorBytes + this.#options.workload.messageBytes, 1, () => {
      this.#round = round;
      this.#sketch();
    });
  }

  factorise(work: FactorWork): void {
    const { workload, host } = this.#options;
    const { sum, factorUp, parts } = workload.refresh(work.round, work.slots);
    this.#wire?.deliver(sum, parts, () => {
      const wire = this.#wire!;
      wire.send(factorUp, parts, (atMs) =>
        wire.after(atMs - this.#clock.nowMs(), () => host.factored(this, work)),
      );
    });
  }

  close(reason: CloseReason, text: string): void {
    const connection = this.#session?.connection;
    this.#drop();
    if (connection === undefined) return;
    this.#tell({ type: 'goodbyeReceived', connection, code: CLOSE_CODES[reason].code, text });
  }

  // ---- its compute side ----

  #begin(work: Work): void {
    const { times } = this;
    const nowMs = this.#clock.nowMs();
    this.#heldStep = work.step - 1;
    this.#work = work;
    this.#round = null;
    this.#isComputed = false;
    times.receivedMs = nowMs;
    times.startMs = nowMs + (this.#mustApply ? 1000 * this.applySeconds : 0);
    this.#mustApply = false;
    const computeMs = 1000 * this.computeSeconds(work.sequences);
    if (!work.isRefresh) return this.#contribute(work, computeMs);
    this.#later(times.startMs + computeMs, work, () => {
      this.#isComputed = true;
      this.#sketch();
    });
  }

  #sketch(): void {
    const [work, round, wire] = [this.#work, this.#round, this.#wire];
    if (work === null || round === null || wire === null || !this.#isComputed) return;
    this.#round = null;
    const { host, workload } = this.#options;
    const { sketch, parts } = workload.refresh(round.round, round.slots);
    wire.send(sketch, parts, (atMs) =>
      wire.after(atMs - this.#clock.nowMs(), () =>
        host.sketched(this, work.step, round.round, work.sequences),
      ),
    );
  }

  /** @param computeMs over which the pieces come */
  #contribute(work: Work, computeMs: number): void {
    const { times } = this;
    const { host, workload } = this.#options;
    const pieces = workload.pieces(work.step);
    const startMs = computeMs === 0 ? this.#clock.nowMs() : times.startMs;
    const wire = this.#wire!;
    let taken = 0; // they are taken in one after the other
    const takenIn = (atMs: number): void => {
      host.pieceTaken(this, work.step, atMs);
      taken += 1;
      if (taken < pieces.length) return;
      times.uploadedMs = atMs;
      wire.after(atMs - this.#clock.nowMs(), () => host.contributed(this, work.step, work.sequences));
    };
    const sendFrom = (index: number): void => {
      let next = index;
      const nowMs = this.#clock.nowMs();
      for (; next < pieces.length; next += 1) {
        const { readyShare, upBytes, parts } = pieces[next]!;
        const readyMs = startMs + computeMs * readyShare;
        if (readyMs > nowMs) {
          this.#later(readyMs, work, () => sendFrom(next));
          return;
        }
        if (next === pieces.length - 1) times.computedMs = nowMs;
        wire.send(upBytes, parts, takenIn);
      }
    };
    sendFrom(0);
  }

  #later(atMs: number, work: Work, action: () => void): void {
    this.#clock.schedule(atMs - this.#clock.nowMs(), () => {
      if (this.#work === work && this.#wire !== null) action();
    });
  }

  // ---- its connection ----

  #tell(event: EventWithoutTime): void {
    if (this.#session === null) return;
    this.#carryOut(advanceSession(this.#session, { ...event, nowMs: this.#clock.nowMs() } as SessionEvent));
  }

  #carryOut({ state, effects }: SessionTransition): void {
    this.#session = state;
    for (const effect of effects) this.#do(effect);
    const { phase } = this.#session;
    if (phase.phase !== 'backing-off') return;
    this.#clock.schedule(phase.retryAtMs - this.#clock.nowMs(), () => {
      if (this.#session?.phase === phase) this.#tell({ type: 'ticked' });
    });
  }

  #do(effect: SessionEffect): void {
    const { host, traits, workload } = this.#options;
    switch (effect.type) {
      case 'openSocket': {
        const { connection } = effect;
        if (this.#isAway) {
          const closed = { type: 'socketClosed', connection, code: 1006, text: 'no way there' } as const;
          this.#clock.schedule(1000, () => this.#tell(closed));
          return;
        }
        const wire = host.hub.connect(traits, traits.latencyMs);
        this.#wire = wire;
        host.whenServing(() =>
          wire.after(3 * traits.latencyMs, () => this.#tell({ type: 'socketOpened', connection })),
        );
        return;
      }
      case 'sendHello': {
        const { connection } = effect;
        const wire = this.#wire!;
        const hasSnapshot = this.#heldStep === null;
        wire.send(workload.messageBytes, 1, (atMs) =>
          wire.after(atMs - this.#clock.nowMs(), () => {
            host.joined(this);
            if (this.#wire !== wire) return;
            const stateStep = host.step;
            wire.deliver(host.catchUpBytes(this.#heldStep), 1, () => {
              this.#heldStep = stateStep;
              this.#loaded(connection, hasSnapshot);
            });
          }),
        );
        return;
      }
      case 'sendReady': {
        const wire = this.#wire!;
        wire.send(workload.messageBytes, 1, (atMs) =>
          wire.after(atMs - this.#clock.nowMs(), () => host.ready(this)),
        );
        return;
      }
      case 'askApplied':
        this.#tell({ type: 'stateApplied', sequence: this.#heldStep ?? 0 });
        return;
      default:
        // Nothing of what is left takes time or bytes that count.
        return;
    }
  }

  #loaded(connection: number, hasSnapshot: boolean): void {
    const sequence = this.#heldStep ?? 0;
    const timers = { heartbeatIntervalMs: MS_PER_HOUR, heartbeatTimeoutMs: 1e12 };
    this.#tell({ type: 'welcomed', connection, runId: RUN_ID, hasSnapshot, ...timers });
    if (hasSnapshot) this.#tell({ type: 'snapshotReceived', connection, sequence, digest: '' });
    this.#tell({ type: 'stateApplied', sequence });
    this.#tell({ type: 'assigned', connection });
    // The next failure is the first one again.
    this.#tell({ type: 'recordReceived', connection, sequence: sequence + 1, digest: '' });
  }

  #scheduleFailure(): void {
    const { kind } = this.#options.traits;
    if (kind.failures === undefined) return;
    const { every_hours: hours, away_seconds: away } = kind.failures;
    const gapMs = MS_PER_HOUR * drawGap(hours, this.#options.dice);
    this.#clock.schedule(gapMs, () => this.#fail(away, kind.failures!.loses_state));
  }

  /** Its machine or its link is gone for a while; the other side notices when nothing is heard. */
  #fail(away: Spread, losesState: boolean): void {
    const { dice, host, noticedAfterMs } = this.#options;
    const awayMs = Math.max(noticedAfterMs, 1000 * draw(away, dice));
    const wasConnected = this.#wire !== null;
    this.#isAway = true;
    this.#drop();
    this.#options.onFailure();
    if (losesState) {
      this.#session = null;
      this.#heldStep = null;
    } else {
      const { connection } = this.#session!;
      this.#tell({ type: 'socketClosed', connection, code: 1006, text: 'the link is gone' });
    }
    if (wasConnected) this.#clock.schedule(noticedAfterMs, () => host.lost(this, 'nothing was heard of it'));
    this.#clock.schedule(awayMs, () => {
      this.#isAway = false;
      if (losesState) this.start();
      else this.#scheduleFailure();
    });
  }

  #drop(): void {
    this.#wire?.cut();
    this.#wire = null;
    this.#work = null;
  }
}

type EventWithoutTime = SessionEvent extends infer E
  ? E extends SessionEvent
    ? Omit<E, 'nowMs'>
    : never
  : never;
