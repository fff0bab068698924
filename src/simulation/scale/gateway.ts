/**
 * A gateway of a simulated run: one trainer to the coordinator, and a coordinator to its trainers. It splits its share
 * of a step equally, sums what they send piece by piece, and passes everything else on once for each of them.
 */
import { quorumOf } from '../../coordinator/core/step-policy.ts';
import type { RunPlan } from '../../coordinator/core/state.ts';
import type { CloseReason } from '../../protocol/close-codes.ts';
import type { Clock } from '../clock.ts';
import type { Hub, Wire } from './hub.ts';
import { PieceSums } from './piece-sums.ts';
import {
  NO_MOMENTS,
  type FactorWork,
  type Host,
  type Member,
  type SketchRound,
  type StepMoments,
  type Work,
} from './trainer.ts';
import type { Workload } from './workload.ts';

export interface GatewayOptions {
  readonly id: string;
  readonly clock: Clock;
  readonly leader: Host;
  readonly hub: Hub;
  readonly workload: Workload;
  readonly plan: Pick<RunPlan, 'quorum' | 'graceMs'>;
  /** Bits a second, towards the coordinator. */
  readonly rates: { readonly up: number; readonly down: number };
  readonly latencyMs: number;
  /** Trainers that it waits for before it says that it is ready. */
  readonly startTrainers: number;
  /** Whether it has to fetch the state of step 0. */
  readonly isNew: boolean;
}

/** It leaves late trainers behind before the coordinator leaves it behind. */
const DEADLINE_SHARE = 0.9;

interface Step {
  readonly work: Work;
  readonly sums: PieceSums;
  /** Sequences by trainer; those who are not waited for any more are out. */
  readonly shares: Map<string, number>;
  readonly contributed: Map<string, number>;
  /** Of the round under way. */
  round: { readonly asked: SketchRound; readonly sketched: Map<string, number> } | null;
  isSent: boolean;
  hasBases: boolean;
}

export class Gateway implements Member, Host {
  readonly id: string;
  readonly hub: Hub;
  readonly latencyMs: number;
  readonly times: StepMoments = { ...NO_MOMENTS };
  readonly #options: GatewayOptions;
  readonly #clock: Clock;
  readonly #wire: Wire;
  /** By id: those that are ready, and those that are late and not heard from. */
  readonly #ready = new Map<string, Member>();
  readonly #lagging = new Map<string, Member>();
  readonly #waiting: (() => void)[] = [];
  #isServing = false;
  #isReady = false;
  #step: Step | null = null;

  constructor(options: GatewayOptions) {
    this.#options = options;
    this.#clock = options.clock;
    this.id = options.id;
    this.hub = options.hub;
    this.latencyMs = options.latencyMs;
    this.#wire = options.leader.hub.connect(options.rates, options.latencyMs);
  }

  start(): void {
    const { leader, isNew } = this.#options;
    leader.joined(this);
    this.#wire.deliver(leader.catchUpBytes(isNew ? null : 0), 1, () => {
      this.#isServing = true;
      for (const action of this.#waiting.splice(0)) action();
    });
  }

  // ---- towards the coordinator ----

  assign(work: Work): void {
    this.#wire.deliver(this.#options.workload.assignmentBytes(work.sequences), 1, () => this.#begin(work));
  }

  passOver(): void {
    this.#wire.deliver(this.#options.workload.messageBytes, 1);
  }

  early(bytes: number, parts: number): void {
    this.#wire.deliver(bytes, parts, () => {
      for (const member of this.#all()) member.early(bytes, parts);
    });
  }

  record(bytes: number, parts: number, isBasis: boolean): void {
    this.#wire.deliver(bytes, parts, () => {
      for (const member of this.#all()) member.record(bytes, parts, isBasis);
      const step = this.#step;
      if (step === null || !isBasis) return;
      step.hasBases = true;
      this.#settle(step);
    });
  }

  sketches(round: SketchRound): void {
    this.#wire.deliver(round.factorBytes + this.#options.workload.messageBytes, 1, () => {
      const step = this.#step;
      if (step?.work.step !== round.step) return;
      step.round = { asked: round, sketched: new Map() };
      for (const id of step.shares.keys()) this.#ready.get(id)?.sketches(round);
      this.#settleRound(step);
    });
  }

  factorise(work: FactorWork): void {
    const { workload, leader } = this.#options;
    const { sum, factorUp, parts } = workload.refresh(work.round, work.slots);
    this.#wire.deliver(sum, parts, () => {
      const [first] = this.#ready.values();
      if (first !== undefined) return first.factorise(work);
      // Nobody is there who could: the slots keep their bases.
      this.#wire.send(factorUp, parts, (atMs) =>
        this.#wire.after(atMs - this.#clock.nowMs(), () => leader.factored(this, work)),
      );
    });
  }

  close(_reason: CloseReason, _text: string): void {
    // It comes again at once, with the state that it has.
    this.#step = null;
    this.#clock.schedule(this.latencyMs, () => {
      const { leader } = this.#options;
      leader.joined(this);
      this.#sendReady();
    });
  }

  #sendReady(): void {
    const { leader, workload } = this.#options;
    this.#isReady = true;
    this.#wire.send(workload.messageBytes, 1, (atMs) =>
      this.#wire.after(atMs - this.#clock.nowMs(), () => leader.ready(this)),
    );
  }

  #begin(work: Work): void {
    const { clock, workload } = this.#options;
    const members = [...this.#ready.keys()].sort();
    const smallest = Math.floor(work.sequences / Math.max(1, members.length));
    const larger = work.sequences - smallest * members.length;
    const shares = new Map(
      members
        .map((id, i) => [id, smallest + (i < larger ? 1 : 0)] as const)
        .filter(([, sequences]) => sequences > 0),
    );
    const pieces = workload.pieces(work.step);
    const sums = new PieceSums(clock, work.step, [...shares.keys()], pieces, (index) => this.#pass(index));
    const step: Step = {
      work,
      sums,
      shares,
      contributed: new Map(),
      round: null,
      isSent: false,
      hasBases: false,
    };
    this.#step = step;
    for (const id of members) {
      const sequences = shares.get(id);
      const member = this.#ready.get(id)!;
      if (sequences === undefined) member.passOver();
      else member.assign({ ...work, sequences, waitMs: DEADLINE_SHARE * work.waitMs });
    }
    if (work.waitMs > 0) this.#dropMissingAfter(step, DEADLINE_SHARE * work.waitMs);
    this.#settle(step);
  }

  /** A piece of all of its trainers: the sum goes on. */
  #pass(index: number): void {
    const step = this.#step;
    if (step === null) return;
    this.#forward(step, index);
  }

  #forward(step: Step, index: number): void {
    const { leader } = this.#options;
    const { upBytes, parts } = step.sums.pieces[index]!;
    const isLast = index === step.sums.pieces.length - 1;
    this.#clock.schedule(this.hub.make(upBytes), () => {
      this.#wire.send(upBytes, parts, (atMs) => {
        if (this.#step !== step) return;
        leader.pieceTaken(this, step.work.step, atMs);
        if (!isLast) return;
        this.times.uploadedMs = atMs;
        this.#wire.after(atMs - this.#clock.nowMs(), () =>
          leader.contributed(this, step.work.step, sum(step.contributed.values())),
        );
      });
    });
  }

  /** Once all who are waited for have contributed. What was sent on with somebody who is gone is sent anew. */
  #settle(step: Step): void {
    if (this.#step !== step || step.isSent || step.contributed.size < step.shares.size) return;
    if (step.work.isRefresh && !step.hasBases) return;
    step.isSent = true;
    if (!step.sums.isVoid && step.shares.size > 0) return;
    const { leader } = this.#options;
    leader.restarted(this);
    for (let index = 0; index < step.sums.pieces.length; index += 1) this.#forward(step, index);
  }

  #settleRound(step: Step): void {
    const { round } = step;
    if (round === null || round.sketched.size < step.shares.size) return;
    const { leader, workload } = this.#options;
    const { step: number, round: of, slots } = round.asked;
    const { sketch, parts } = workload.refresh(of, slots);
    const sequences = sum(round.sketched.values());
    this.#clock.schedule(this.hub.make(sketch), () => {
      this.#wire.send(sketch, parts, (atMs) =>
        this.#wire.after(atMs - this.#clock.nowMs(), () => leader.sketched(this, number, of, sequences)),
      );
    });
  }

  #dropMissingAfter(step: Step, delayMs: number): void {
    this.#clock.schedule(delayMs, () => {
      if (this.#step !== step || step.isSent) return;
      for (const id of [...step.shares.keys()]) {
        if (step.contributed.has(id)) continue;
        const member = this.#ready.get(id);
        if (member !== undefined) this.#lagging.set(id, member);
        this.#ready.delete(id);
        this.#leave(step, id);
      }
      this.#settle(step);
    });
  }

  #leave(step: Step, id: string): void {
    step.shares.delete(id);
    step.contributed.delete(id);
    step.round?.sketched.delete(id);
    step.sums.drop(id);
  }

  // ---- towards its trainers ----

  get step(): number {
    return this.#options.leader.step;
  }

  whenServing(action: () => void): void {
    if (this.#isServing) action();
    else this.#waiting.push(action);
  }

  catchUpBytes(heldStep: number | null): number {
    return this.#options.leader.catchUpBytes(heldStep);
  }

  joined(member: Member): void {
    if (this.#ready.has(member.id) || this.#lagging.has(member.id)) this.lost(member);
  }

  ready(member: Member): void {
    this.#ready.set(member.id, member);
    if (!this.#isReady && this.#ready.size >= this.#options.startTrainers) this.#sendReady();
  }

  lost(member: Member): void {
    this.#ready.delete(member.id);
    this.#lagging.delete(member.id);
    const step = this.#step;
    if (step === null || !step.shares.has(member.id) || step.contributed.has(member.id)) return;
    this.#leave(step, member.id);
    this.#settleRound(step);
    this.#settle(step);
  }

  restarted(member: Member): void {
    this.#step?.sums.restart(member.id);
  }

  pieceTaken(member: Member, step: number, atMs: number): void {
    if (this.#step?.work.step === step) this.#step.sums.add(member.id, atMs);
  }

  contributed(member: Member, number: number, sequences: number): void {
    const late = this.#lagging.get(member.id);
    if (late !== undefined) {
      this.#lagging.delete(member.id);
      this.#ready.set(member.id, late);
    }
    const step = this.#step;
    if (step?.work.step !== number || !step.shares.has(member.id)) return;
    step.contributed.set(member.id, sequences);
    this.times.last = member.times;
    const { plan } = this.#options;
    const members = step.sums.members.length;
    if (step.contributed.size === quorumOf(plan, members)) this.#dropMissingAfter(step, plan.graceMs);
    this.#settle(step);
  }

  sketched(member: Member, number: number, round: number, sequences: number): void {
    const step = this.#step;
    if (step?.work.step !== number || step.round?.asked.round !== round || !step.shares.has(member.id))
      return;
    step.round.sketched.set(member.id, sequences);
    this.#settleRound(step);
  }

  factored(_member: Member, work: FactorWork): void {
    const { leader, workload } = this.#options;
    const { factorUp, parts } = workload.refresh(work.round, work.slots);
    this.#wire.send(factorUp, parts, (atMs) =>
      this.#wire.after(atMs - this.#clock.nowMs(), () => leader.factored(this, work)),
    );
  }

  #all(): readonly Member[] {
    return [...this.#ready.values(), ...this.#lagging.values()];
  }
}

function sum(values: Iterable<number>): number {
  let total = 0;
  for (const value of values) total += value;
  return total;
}
