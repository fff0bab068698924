/**
 * The run that a gateway passes on, from when it has the state of it: turns what comes from both sides into events for
 * core/advance-gateway.ts, and carries out the effects. SHELL.
 */
import { systemClock } from '../clock.ts';
import type { Fact } from '../coordinator/dispatch.ts';
import { FactQueue } from '../coordinator/fact-queue.ts';
import { sendNotice } from '../coordinator/live-feed.ts';
import type { TrainerDesk } from '../coordinator/trainer-desk.ts';
import { createChangeLogger, type ChangeLogger } from '../log.ts';
import type { CommitMessage, Message } from '../protocol/messages.ts';
import { targetsOfSequence } from '../run-shape.ts';
import type { LinkMessage } from '../trainer/link.ts';
import { advanceGateway, initialGateway } from './core/advance-gateway.ts';
import { summedEvaluation } from './core/summed-answers.ts';
import type {
  EffectOf,
  GatewayEffect,
  GatewayEvent,
  GatewayFact,
  GatewayState,
} from './core/gateway-state.ts';
import { openDesks, type Desks, type DeskSurroundings, type Welcomed } from './desks.ts';
import { HeldOut } from './held-out.ts';
import type { LeaderLink } from './leader-link.ts';
import type { Mirror } from './mirror.ts';
import { RecordRelay } from './record-relay.ts';
import { SnapshotRelay } from './snapshot-relay.ts';
import { StepWork } from './step-work.ts';

/** What it needs of the gateway. */
export interface PassedRunSurroundings extends Pick<
  DeskSurroundings,
  'doorkeeper' | 'adopt' | 'onFailure' | 'logger'
> {
  readonly gatewayId: string;
  readonly mirror: Mirror;
  readonly link: LeaderLink;
  /** For people: what it is doing now. */
  readonly tell: (activity: string) => void;
}

export class PassedRun {
  readonly #around: PassedRunSurroundings;
  readonly #facts: FactQueue<GatewayFact>;
  readonly #desks: Desks;
  readonly #records: RecordRelay;
  readonly #work: StepWork;
  readonly #heldOut: HeldOut;
  readonly #snapshots: SnapshotRelay;
  readonly #logNote: ChangeLogger;
  #state: GatewayState;

  /** @param around its mirror has the state of the run */
  constructor(welcomed: Welcomed, around: PassedRunSurroundings) {
    const { mirror, link, gatewayId, logger, onFailure } = around;
    const { config, shape } = welcomed.run;
    const { sequence, step } = mirror.head!;
    const at = { sequence, committedStep: step, hashEvery: config.method.update_proj_gap };
    this.#around = around;
    this.#state = initialGateway({ ...at, nowMs: systemClock.nowMs() });
    this.#logNote = createChangeLogger(logger, 'gateway.note');
    this.#facts = new FactQueue((fact) => this.#take(fact), onFailure);
    this.#heldOut = new HeldOut(targetsOfSequence(config), (fact) => this.#facts.put(fact));
    this.#desks = openDesks(welcomed, mirror, {
      ...around,
      evaluations: this.#heldOut,
      dispatch: (fact) => this.#hear(fact),
      committedStep: () => this.#state.committedStep,
    });
    const { steps, trainers, checkpoints } = this.#desks;
    this.#records = new RecordRelay(mirror, () => trainers.sessions());
    this.#work = new StepWork({ gatewayId, config, steps, trainers, link });
    this.#snapshots = new SnapshotRelay({ slots: shape.slots, checkpoints, mirror, link });
  }

  /** Whether the coordinator is there. */
  get isUp(): boolean {
    return this.#state.isUp;
  }

  get trainers(): TrainerDesk {
    return this.#desks.trainers;
  }

  // ---- from the coordinator ----

  /** The connection to the coordinator stands, and both have the same state. */
  leaderJoined(): void {
    this.#facts.put({ type: 'leaderJoined' });
    this.#reportApplied();
  }

  leaderLost(reason: string): void {
    this.#facts.put({ type: 'leaderLost', reason });
    this.#records.breakOff(reason);
    this.#work.breakOff();
    this.#snapshots.breakOff();
  }

  takeFrame(message: Message, frame: Uint8Array): void {
    if (message.kind !== 'part') return this.#records.take(message, frame);
    if (message.stream === 'factor') return this.#work.takeFactorFrame(frame);
    if (message.stream === 'update' || message.stream === 'basis') this.#records.take(message, frame);
  }

  /** The coordinator's sum of a slot's sketches. */
  takeSum(slot: number, sum: Float32Array): void {
    this.#desks.steps.takeSum(slot, sum);
  }

  async takeRecord(commit: CommitMessage): Promise<void> {
    const { mirror, tell } = this.#around;
    const { sequence, step, record } = commit;
    await this.#records.end(commit);
    if (record.type === 'basis') {
      this.#desks.steps.setRanks(mirror.ranks);
      this.#desks.steps.refreshCommitted();
    }
    this.#facts.put({ type: 'recordStored', sequence, step, kind: record.type });
    if (record.type === 'update') tell(`step ${step} passed on`);
    this.#reportApplied();
  }

  /** What is asked on a connection that was given up is void. */
  obey(message: LinkMessage): void {
    if (!this.#state.isUp) return;
    switch (message.kind) {
      case 'stepAssignment': {
        const { step, sequences, refreshSlots, deadlineMs } = message;
        this.#work.take(message);
        const positions = sequences?.positions ?? null;
        return this.#facts.put({ type: 'stepAssigned', step, positions, refreshSlots, deadlineMs });
      }
      case 'sketchRequest': {
        const { step, round, slots } = message;
        this.#work.take(message);
        return this.#facts.put({ type: 'sketchesAsked', step, round, slots });
      }
      case 'factorAssignment': {
        const { step, round, slots, isFinal } = message;
        return this.#facts.put({ type: 'factorsAsked', step, round, slots, isFinal });
      }
      case 'evaluationAssignment': {
        const { step, sequences: heldOut } = message;
        const job = this.#heldOut.keep(heldOut, this.#state.evaluations);
        const sequences = heldOut?.positions.length ?? null;
        return this.#facts.put({ type: 'evaluationAsked', job, step, sequences });
      }
      case 'snapshotRequest': {
        const { step, sequence, isLocalOnly } = message;
        return this.#facts.put({ type: 'snapshotAsked', step, sequence, isLocalOnly });
      }
      case 'stepRejected':
        return this.#around.logger.info('step.rejected', { step: message.step }, message.reason);
      case 'notice':
        this.#around.tell(message.text);
        return this.notice(message.text);
      default:
        message satisfies never;
    }
  }

  // ---- from the trainers, and their desks ----

  #hear(fact: Fact): void {
    switch (fact.type) {
      case 'trainerJoined':
      case 'trainerSeen':
      case 'trainerLost':
      case 'sketchReceived':
      case 'factorReceived':
      case 'contributionReceived':
      case 'stateHashReceived':
      case 'snapshotReceived':
      case 'trainerReady':
      case 'checkpointWritten':
        return this.#facts.put(fact);
      case 'checkpointFailed':
        this.#around.logger.warn('checkpoint.failed', { step: fact.step }, fact.reason);
        return this.#facts.put(fact);
      default:
        return; // nothing that a gateway acts on
    }
  }

  // ---- of the gateway ----

  tick(): void {
    this.#facts.put({ type: 'ticked' });
  }

  /** To all trainers. */
  notice(text: string): void {
    sendNotice(this.#desks.trainers.sessions(), text);
  }

  /** Nothing is decided any more. */
  halt(): void {
    this.#facts.close();
  }

  /** When this resolves none of its files is written any more; its trainers must be gone by then. */
  async close(): Promise<void> {
    this.halt();
    this.#snapshots.breakOff();
    await this.#desks.checkpoints.close();
    this.#desks.spillFile.close();
  }

  // ---- the core ----

  #take(fact: GatewayFact): void {
    const event = { ...fact, nowMs: systemClock.nowMs() } as GatewayEvent;
    const { state, effects, note } = advanceGateway(this.#state, event);
    this.#state = state;
    if (note !== undefined) this.#logNote(note);
    for (const effect of effects) this.#perform(effect);
  }

  #perform(effect: GatewayEffect): void {
    const { link, logger, onFailure } = this.#around;
    const { trainers, steps, checkpoints } = this.#desks;
    switch (effect.type) {
      case 'assignStep':
        return this.#work.assignStep(effect);
      case 'requestSketches':
        return this.#work.requestSketches(effect);
      case 'assignFactors':
        return this.#work.assignFactors(effect);
      case 'assignEvaluation':
        return this.#assignEvaluation(effect);
      case 'requestSnapshot':
        return this.#snapshots.request(effect, trainers.get(effect.trainerId));
      case 'rejectStep': {
        const { trainerId, step, reason } = effect;
        return trainers.get(trainerId)?.send({ kind: 'stepRejected', step, reason });
      }
      case 'closeConnection':
        if (effect.reason === 'STATE_DIVERGED') checkpoints.distrust();
        return trainers.close(effect.trainerId, effect.reason, effect.text);
      case 'tellCapacity':
        link.send({ kind: 'capacity', trainers: effect.trainers });
        return this.#reportApplied();
      case 'sendSketches':
        return this.#work.sendSketches(effect);
      case 'sendFactors':
        return this.#work.sendFactors(effect);
      case 'sendContribution':
        return this.#work.sendContribution(effect);
      case 'sendEvaluation':
        return link.send(summedEvaluation(effect.step, effect.parts));
      case 'sendHash': {
        const weightsSha256 = new Uint8Array(Buffer.from(effect.weightsSha256, 'hex'));
        return link.send({ kind: 'stateHash', step: effect.step, weightsSha256 });
      }
      case 'sendSnapshot':
        return void this.#snapshots.send(effect).catch(onFailure);
      case 'endSnapshot':
        return this.#snapshots.end(effect);
      case 'reconnect':
        logger.warn('gateway.reconnect', {}, effect.text);
        return link.reconnect(effect.text);
      case 'writeCheckpoint': {
        const { type, step, trainerId, weightsSha256 } = effect;
        return checkpoints.write({ type, step, trainerIds: [trainerId], weightsSha256 });
      }
      case 'abandonCheckpoint':
        return void checkpoints.abandon();
      case 'discardStaged':
        return steps.discard();
      default:
        effect satisfies never;
    }
  }

  #assignEvaluation(effect: EffectOf<'assignEvaluation'>): void {
    const session = this.#desks.trainers.get(effect.trainerId);
    if (session !== undefined) this.#heldOut.assign(effect, session);
  }

  /** Ready is said once there are trainers; before that the coordinator must not count on us. */
  #reportApplied(): void {
    const { mirror, link } = this.#around;
    if (this.#state.toldCapacity > 0 && mirror.head !== null) link.applied(mirror.head.sequence);
  }
}
