/**
 * The coordinator process: turns sockets, disk and clock into events for the core and carries out the
 * effects it answers with. It decides nothing; the rules are in core/, the sums in step-desk.ts.
 */
import { randomInt } from 'node:crypto';
import { systemClock } from '../clock.ts';
import { deferred } from '../deferred.ts';
import { ProtocolError } from '../errors.ts';
import { sequenceAt } from '../files/order.ts';
import type { SequenceSource } from '../files/dataset.ts';
import { stateTensors } from '../galore/state-table.ts';
import { createChangeLogger, type ChangeLogger } from '../log.ts';
import { CLOSE_CODES, type CloseReason } from '../protocol/close-codes.ts';
import { FIRST_DIGEST } from '../protocol/digest.ts';
import { maxSequencesPerAssignment } from '../protocol/limits.ts';
import type { HelloMessage, Message, SnapshotHeader } from '../protocol/messages.ts';
import { admit } from './admission.ts';
import type { CoordinatorOptions, RunningCoordinator, RunSummary } from './api.ts';
import type { Connection } from './connection.ts';
import { advance, initialState } from './core/advance.ts';
import type { Effect, Event, Outcome, RunState } from './core/state.ts';
import { EvaluationTally } from './evaluation-tally.ts';
import { feedTrainer } from './feed.ts';
import { planOf } from './plan.ts';
import { factsOf, prepareRun, type PreparedRun } from './prepare-run.ts';
import type { SealedRecord } from './records.ts';
import { RunMetrics } from './run-metrics.ts';
import { CoordinatorServer } from './server.ts';
import { Session } from './session.ts';
import { SnapshotIntake } from './snapshot-intake.ts';
import { StepDesk } from './step-desk.ts';
import { beginCheckpoint, openNewestCheckpoint, pruneCheckpoints } from './store/checkpoint.ts';

/** How often the core hears what time it is. */
const TICK_INTERVAL_MS = 200;

/** An event without its time. */
type Fact = Event extends infer E ? (E extends Event ? Omit<E, 'nowMs'> : never) : never;
type EffectOf<T extends Effect['type']> = Extract<Effect, { type: T }>;
type MessageOf<K extends Message['kind']> = Extract<Message, { kind: K }>;

/** Opens or creates the run and starts to listen. Errors: see CoordinatorOptions. */
export async function startCoordinator(options: CoordinatorOptions): Promise<RunningCoordinator> {
  const run = await prepareRun(options);
  try {
    return await Coordinator.start(run, options);
  } catch (error) {
    await run.close();
    throw error;
  }
}

class Coordinator {
  readonly #run: PreparedRun;
  readonly #options: CoordinatorOptions;
  readonly #clock = systemClock;
  readonly #desk: StepDesk;
  readonly #metrics: RunMetrics;
  readonly #logNote: ChangeLogger;
  readonly #sessions = new Map<string, Session>();
  readonly #tallies = new Map<string, EvaluationTally>();
  readonly #heartbeats = new Map<string, { residentBytes: number; tensorCount: number }>();
  readonly #facts: Fact[] = [];
  readonly #finished = deferred<RunSummary>();
  #server!: CoordinatorServer;
  #state: RunState;
  #record: SealedRecord | null = null;
  #intake: SnapshotIntake | null = null;
  #ticker: NodeJS.Timeout | null = null;
  #isDispatching = false;
  #isEnding = false;
  #newestCheckpoint: { readonly path: string; readonly weightsSha256: string } | null = null;

  private constructor(run: PreparedRun, options: CoordinatorOptions) {
    this.#run = run;
    this.#options = options;
    this.#desk = new StepDesk(run.config, run.shape, randomInt(2 ** 32));
    const nowMs = this.#clock.nowMs();
    const { metrics, evaluations } = run;
    const { onReport } = options;
    const onFailure = (error: unknown): void => this.#fail(error);
    this.#metrics = new RunMetrics(
      run.config.steps,
      { metrics, evaluations },
      { onReport, onFailure },
      nowMs,
    );
    this.#logNote = createChangeLogger(options.logger, 'run.note');
    const validationSequences = run.dataset.validation?.count ?? 0;
    const plan = planOf(run.config, run.shape, validationSequences);
    this.#state = initialState(plan, { ...run.start, checkpointedStep: run.newestCheckpoint.step, nowMs });
  }

  static async start(run: PreparedRun, options: CoordinatorOptions): Promise<RunningCoordinator> {
    const coordinator = new Coordinator(run, options);
    await coordinator.#listen();
    return {
      url: `ws://${coordinator.#server.address}/`,
      finished: coordinator.#finished.promise,
      stop: () => coordinator.#dispatch({ type: 'stopRequested' }),
    };
  }

  async #listen(): Promise<void> {
    const { host, port, ...timers } = this.#run.config.coordinator;
    this.#server = await CoordinatorServer.listen(
      {
        host,
        port,
        handshakeTimeoutMs: timers.handshake_timeout_ms,
        heartbeatIntervalMs: timers.heartbeat_interval_ms,
        heartbeatTimeoutMs: timers.heartbeat_timeout_ms,
        logger: this.#options.logger,
      },
      {
        onMessage: (connection, message) => this.#onMessage(connection, message),
        onClose: (connection, code, reason) => this.#onClose(connection, code, reason),
        onFatal: (error) => this.#fail(error),
      },
    );
    this.#ticker = setInterval(() => this.#dispatch({ type: 'ticked' }), TICK_INTERVAL_MS);
    this.#dispatch({ type: 'ticked' });
  }

  // ---- facts in, effects out ----

  #dispatch(fact: Fact): void {
    this.#facts.push(fact);
    if (this.#isDispatching || this.#isEnding) return;
    this.#isDispatching = true;
    try {
      for (let next = this.#facts.shift(); next !== undefined; next = this.#facts.shift()) {
        const event = { ...next, nowMs: this.#clock.nowMs() } as Event;
        const { state, effects, note } = advance(this.#state, event);
        this.#state = state;
        if (note !== undefined) this.#logNote(note);
        for (const effect of effects) this.#perform(effect);
      }
    } catch (error) {
      this.#fail(error);
    } finally {
      this.#isDispatching = false;
    }
  }

  #perform(effect: Effect): void {
    switch (effect.type) {
      case 'assignStep':
        return this.#assignStep(effect);
      case 'requestSketches':
        return this.#requestSketches(effect);
      case 'sumSketches':
        return this.#desk.sumSketches(effect);
      case 'assignFactors':
        return this.#assignFactors(effect);
      case 'commitBases':
        return this.#commit('basis', effect.step, (place) => this.#desk.sealBases(place, effect));
      case 'commitUpdate':
        return this.#commit('update', effect.step, (place) => this.#desk.sealUpdate(place, effect));
      case 'announceRecord':
        return this.#announceRecord(effect.sequence);
      case 'discardStaged':
        return this.#desk.discard();
      case 'rejectStep':
        return this.#sessions
          .get(effect.trainerId)
          ?.send({ kind: 'stepRejected', step: effect.step, reason: effect.reason });
      case 'assignEvaluation':
        return this.#assignEvaluation(effect);
      case 'reportEvaluation':
        this.#metrics.evaluated(effect.step, effect.lossSum, effect.tokens);
        return this.#metrics.restartClock(this.#clock.nowMs());
      case 'requestSnapshot':
        return this.#requestSnapshot(effect);
      case 'abandonCheckpoint':
        return this.#abandonIntake();
      case 'closeConnection':
        return this.#closeTrainer(effect.trainerId, effect.reason, effect.text);
      case 'finishRun':
        return this.#end(effect.outcome);
      default:
        effect satisfies never;
    }
  }

  #assignStep(effect: EffectOf<'assignStep'>): void {
    const { trainerId, step, positions, refreshSlots, waitMs: deadlineMs } = effect;
    if (step === this.#run.start.step + 1) this.#metrics.restartClock(this.#clock.nowMs());
    this.#desk.assigned(effect);
    const { seed, data } = this.#run.config;
    const { train } = this.#run.dataset;
    const indices = positions.map((position) => sequenceAt(position, train.count, seed, data.order));
    const session = this.#sessions.get(trainerId);
    session?.enqueue(async () => {
      const sequences = await this.#readSequences(train, indices, positions);
      const learningRate = this.#desk.learningRate(step);
      session.connection.send({
        kind: 'stepAssignment',
        step,
        learningRate,
        seed,
        sequences,
        refreshSlots,
        deadlineMs,
      });
    });
  }

  #requestSketches(effect: EffectOf<'requestSketches'>): void {
    const { step, round, trainerIds } = effect;
    const { slots, frames } = this.#desk.beginRound(effect);
    const { seed } = this.#run.config;
    for (const trainerId of trainerIds) {
      const session = this.#sessions.get(trainerId);
      if (frames.length > 0) session?.sendFrames(frames);
      session?.send({ kind: 'sketchRequest', step, round, slots, seed });
    }
  }

  #assignFactors(effect: EffectOf<'assignFactors'>): void {
    const { trainerId, step, round, isFinal } = effect;
    const { slots, frames } = this.#desk.beginJob(effect);
    const session = this.#sessions.get(trainerId);
    session?.sendFrames(frames);
    session?.send({ kind: 'factorAssignment', step, round, slots, isFinal });
  }

  #commit(
    kind: 'basis' | 'update',
    step: number,
    seal: (place: { sequence: number; step: number; previousDigest: Uint8Array }) => SealedRecord,
  ): void {
    const { journal } = this.#run;
    const sequence = this.#state.sequence + 1;
    const record = seal({ sequence, step, previousDigest: journal.digestOf(sequence - 1) ?? FIRST_DIGEST });
    journal.append(record.frames, { sequence, step, digest: record.commit.digest, kind }).then(
      () => {
        this.#record = record;
        this.#dispatch({ type: 'recordCommitted', step, kind, sequence });
      },
      (error: unknown) => this.#fail(error),
    );
  }

  #announceRecord(sequence: number): void {
    const record = this.#record;
    if (record === null || record.commit.sequence !== sequence) return;
    for (const session of this.#sessions.values()) {
      if (session.liveSequence !== null && session.liveSequence < sequence) session.sendFrames(record.frames);
    }
    this.#record = null;
    if (record.commit.record.type === 'basis') return this.#desk.refreshCommitted();
    const { step } = record.commit;
    this.#desk.discard();
    this.#metrics.stepCommitted(step, record.commit.record, this.#server, this.#sizes(), this.#clock.nowMs());
    if (step === this.#options.stopAtStep) this.#dispatch({ type: 'stopRequested' });
  }

  #assignEvaluation(effect: EffectOf<'assignEvaluation'>): void {
    const { trainerId, step, sequences } = effect;
    const { validation } = this.#run.dataset;
    const session = this.#sessions.get(trainerId);
    if (validation === null || session === undefined) return;
    const portion = maxSequencesPerAssignment(this.#run.config.seq_len + 1);
    this.#tallies.set(trainerId, new EvaluationTally(step, Math.ceil(sequences.length / portion)));
    for (let start = 0; start < sequences.length; start += portion) {
      const indices = sequences.slice(start, start + portion).map((number) => this.#heldOutIndex(number, validation));
      session.enqueue(async () => {
        const read = await this.#readSequences(validation, indices, indices);
        session.connection.send({ kind: 'evaluationAssignment', step, sequences: read });
      });
    }
  }

  /** The core numbers the sequences of an evaluation; they are spread evenly over what is held out. */
  #heldOutIndex(number: number, validation: SequenceSource): number {
    return Math.floor((number * validation.count) / this.#state.plan.evaluationSequences);
  }

  async #readSequences(source: SequenceSource, indices: readonly number[], positions: readonly number[]) {
    const { tokens, mask } = await source.read(indices);
    return { positions, length: this.#run.config.seq_len + 1, tokens, mask: mask ?? new Uint8Array(0) };
  }

  // ---- checkpoints ----

  #requestSnapshot(effect: EffectOf<'requestSnapshot'>): void {
    const { trainerId, step, sequence, refreshedStep, cursor } = effect;
    const { journal, shape, checkpointsDir, texts } = this.#run;
    const table = stateTensors(shape.slots);
    const digest = journal.digestOf(sequence) ?? FIRST_DIGEST;
    const facts = factsOf(this.#run, { step, sequence, digest, refreshedStep, cursor }, this.#memberIds());
    const session = this.#sessions.get(trainerId);
    session?.enqueue(async () => {
      const writer = await beginCheckpoint(checkpointsDir, step, table, texts);
      this.#intake = new SnapshotIntake(trainerId, facts, table, writer);
      session.connection.send({ kind: 'snapshotRequest', step, sequence });
    });
  }

  #finishIntake(intake: SnapshotIntake): void {
    const { checkpointsDir, journal, config } = this.#run;
    const store = async (): Promise<void> => {
      this.#newestCheckpoint = await intake.finish();
      const kept = await pruneCheckpoints(checkpointsDir, config.checkpoint.keep);
      await journal.startSegment();
      const oldest = kept.at(0);
      if (oldest !== undefined) await journal.removeSegmentsBefore(oldest.sequence + 1);
    };
    store().then(
      () => {
        this.#options.onReport({ type: 'checkpoint', step: intake.step, path: this.#newestCheckpoint!.path });
        this.#dispatch({ type: 'checkpointWritten', step: intake.step });
      },
      (error: Error) => {
        this.#options.onReport({
          type: 'notice',
          text: `checkpoint of step ${intake.step} failed: ${error.message}`,
        });
        this.#dispatch({ type: 'checkpointFailed', step: intake.step, reason: error.message });
      },
    );
  }

  #abandonIntake(): void {
    const intake = this.#intake;
    this.#intake = null;
    intake
      ?.abandon()
      .catch((error: unknown) =>
        this.#options.logger.warn('checkpoint.abandon', { error: String(error) }, ''),
      );
  }

  // ---- trainers ----

  #onMessage(connection: Connection, message: Message): void {
    if (message.kind === 'hello') return this.#onHello(connection, message);
    const session = connection.trainerId === null ? undefined : this.#sessions.get(connection.trainerId);
    if (session === undefined || session.connection !== connection) return;
    const { trainerId } = session;
    switch (message.kind) {
      case 'ready':
        session.readySequence = message.sequence;
        session.device = message.device;
        return this.#reportReady(session);
      case 'heartbeat':
        this.#heartbeats.set(trainerId, {
          residentBytes: message.residentBytes,
          tensorCount: message.tensorCount,
        });
        return this.#dispatch({ type: 'trainerSeen', trainerId });
      case 'part':
        if (message.stream !== 'snapshot') return this.#desk.acceptPart(trainerId, message);
        if (this.#intake?.trainerId === trainerId) this.#intake.accept(message);
        return;
      case 'sketch':
        this.#desk.acceptSketch(trainerId, message);
        return this.#dispatch({
          type: 'sketchReceived',
          trainerId,
          step: message.step,
          round: message.round,
          tokens: message.tokens,
        });
      case 'factor': {
        const slots = this.#desk.acceptFactor(trainerId, message);
        return this.#dispatch({
          type: 'factorReceived',
          trainerId,
          step: message.step,
          round: message.round,
          slots,
        });
      }
      case 'contribution':
        this.#desk.acceptContribution(trainerId, message);
        return this.#dispatch({
          type: 'contributionReceived',
          trainerId,
          step: message.step,
          tokens: message.tokens,
          lossSum: message.lossSum,
        });
      case 'evaluation':
        return this.#onEvaluation(trainerId, message);
      case 'stateHash': {
        const weightsSha256 = Buffer.from(message.weightsSha256).toString('hex');
        return this.#dispatch({ type: 'stateHashReceived', trainerId, step: message.step, weightsSha256 });
      }
      case 'snapshotEnd':
        return this.#onSnapshotEnd(trainerId);
      default:
        return;
    }
  }

  #onHello(connection: Connection, hello: HelloMessage): void {
    const { runId, config, schemaHash, journal, modelJson } = this.#run;
    const { trainerId } = hello;
    const isReplacement = this.#sessions.has(trainerId);
    const answer = admit(hello, {
      runId,
      runName: config.name,
      schemaHash,
      trainerCount: this.#sessions.size - (isReplacement ? 1 : 0),
      maxTrainers: config.coordinator.max_trainers,
      digestOf: (sequence) => journal.digestOf(sequence),
    });
    if (!answer.isAdmitted) return connection.close(answer.reason, answer.text);
    this.#server.admit(connection, trainerId);
    const session = new Session(trainerId, connection, (error) => this.#fail(error));
    if (isReplacement) this.#desk.forget(trainerId);
    this.#sessions.set(trainerId, session);
    this.#options.logger.info(
      'trainer.joined',
      { trainer: trainerId, address: connection.remoteAddress },
      `${trainerId} joined`,
    );
    this.#dispatch({ type: 'trainerJoined', trainerId });
    session.enqueue(async () => {
      const snapshot =
        answer.heldSequence === null ? await openNewestCheckpoint(this.#run.checkpointsDir, () => {}) : null;
      const header: SnapshotHeader | null =
        snapshot === null
          ? null
          : {
              step: snapshot.step,
              sequence: snapshot.run.sequence,
              tensors: snapshot.tensors.map(({ name, shape, totalBytes }) => ({
                name,
                shape,
                codec: 'f32',
                totalBytes,
              })),
            };
      connection.send({
        kind: 'welcome',
        protocolVersion: answer.version,
        runId,
        runName: config.name,
        configJson: JSON.stringify(config),
        modelJson,
        schemaHash,
        heartbeatIntervalMs: config.coordinator.heartbeat_interval_ms,
        heartbeatTimeoutMs: config.coordinator.heartbeat_timeout_ms,
        snapshot: header,
      });
      const nextSequence = (snapshot?.run.sequence ?? answer.heldSequence ?? 0) + 1;
      await feedTrainer(connection, { snapshot, nextSequence }, journal, (sequence) => {
        session.liveSequence = sequence;
      });
      this.#reportReady(session);
    });
  }

  #reportReady(session: Session): void {
    if (!session.isUpToDate || this.#sessions.get(session.trainerId) !== session) return;
    this.#dispatch({ type: 'trainerReady', trainerId: session.trainerId, sequence: session.readySequence });
  }

  #onEvaluation(trainerId: string, { step, tokens, lossSum }: MessageOf<'evaluation'>): void {
    const tally = this.#tallies.get(trainerId);
    if (tally?.step !== step) return;
    const total = tally.add(tokens, lossSum);
    if (total === null) return;
    this.#tallies.delete(trainerId);
    this.#dispatch({ type: 'evaluationReceived', trainerId, step, ...total });
  }

  #onSnapshotEnd(trainerId: string): void {
    const intake = this.#intake;
    if (intake?.trainerId !== trainerId) return;
    if (!intake.isComplete) {
      throw new ProtocolError(
        CLOSE_CODES.UNEXPECTED_MESSAGE.code,
        'the snapshot ended before all tensors were sent',
      );
    }
    this.#intake = null;
    this.#dispatch({ type: 'snapshotReceived', trainerId, step: intake.step });
    this.#finishIntake(intake);
  }

  #onClose(connection: Connection, code: number, reason: string): void {
    const { trainerId } = connection;
    if (trainerId === null || this.#sessions.get(trainerId)?.connection !== connection) return;
    this.#forget(trainerId);
    const text = `${reason || 'the connection ended'} (${code})`;
    this.#options.logger.info('trainer.lost', { trainer: trainerId, code }, `${trainerId} left: ${text}`);
    this.#dispatch({ type: 'trainerLost', trainerId, reason: text });
  }

  #closeTrainer(trainerId: string, reason: CloseReason, text: string): void {
    const session = this.#sessions.get(trainerId);
    this.#forget(trainerId);
    this.#options.logger.warn('trainer.closed', { trainer: trainerId, reason }, `${trainerId}: ${text}`);
    session?.connection.close(reason, text);
  }

  #forget(trainerId: string): void {
    this.#sessions.delete(trainerId);
    this.#heartbeats.delete(trainerId);
    this.#tallies.delete(trainerId);
    this.#desk.forget(trainerId);
  }

  #memberIds(): readonly string[] {
    return this.#state.trainers.map(({ trainerId }) => trainerId);
  }

  #sizes() {
    const sizes = Object.fromEntries([...this.#heartbeats].sort(([a], [b]) => (a < b ? -1 : 1)));
    return { coordinatorResidentBytes: process.memoryUsage.rss(), sizes };
  }

  // ---- the end ----

  #end(outcome: Outcome): void {
    if (this.#isEnding) return;
    this.#isEnding = true;
    const [reason, text]: [CloseReason, string] =
      outcome === 'completed'
        ? ['RUN_FINISHED', `all ${this.#state.step} steps are done`]
        : ['COORDINATOR_STOPPING', `the run was stopped after step ${this.#state.step}`];
    this.#shutDown(reason, text).then(
      () => this.#finished.resolve(this.#summary(outcome)),
      (error: unknown) => this.#finished.reject(error),
    );
  }

  /** Our own fault, or the disk's: everything committed is in the journal; say so and end. */
  #fail(error: unknown): void {
    if (this.#isEnding) return;
    this.#isEnding = true;
    const end = (): void => this.#finished.reject(error);
    this.#shutDown('INTERNAL_ERROR', 'the coordinator had an error and ends').then(end, end);
  }

  async #shutDown(reason: CloseReason, text: string): Promise<void> {
    if (this.#ticker !== null) clearInterval(this.#ticker);
    this.#abandonIntake();
    await this.#server.close(reason, text);
    await this.#run.close();
  }

  #summary(outcome: Outcome): RunSummary {
    return {
      outcome,
      step: this.#state.step,
      totalSteps: this.#run.config.steps,
      dir: this.#run.config.dir,
      lastLoss: this.#metrics.lastLoss ?? NaN,
      validationPerplexity: this.#metrics.validationPerplexity,
      checkpointPath: this.#newestCheckpoint?.path ?? this.#run.newestCheckpoint.path,
      weightsSha256: this.#newestCheckpoint?.weightsSha256 ?? this.#run.newestCheckpoint.weightsSha256,
    };
  }
}
