/**
 * The coordinator process: turns sockets, disk and clock into events for the core and carries out the
 * effects it answers with. It decides nothing; the rules are in core/, the sums in step-desk.ts.
 */
import { randomInt } from 'node:crypto';
import { hostname } from 'node:os';
import { dirname } from 'node:path';
import { setImmediate, setTimeout as sleep } from 'node:timers/promises';
import { systemClock } from '../clock.ts';
import { deferred } from '../deferred.ts';
import { sequenceAt } from '../files/order.ts';
import { countedLabels, readSequences } from '../files/sequences.ts';
import { collectGrownFrames, collectGrownHeap, expectFrames } from '../heap.ts';
import {
  createChangeLogger,
  createRateLimitedLogger,
  withFields,
  type ChangeLogger,
  type Logger,
} from '../log.ts';
import type { CloseReason } from '../protocol/close-codes.ts';
import { FIRST_DIGEST } from '../protocol/digest.ts';
import { contributionBytes } from '../protocol/slot-sizes.ts';
import type { CoordinatorOptions, RunningCoordinator, RunReport, RunSummary } from './api.ts';
import { describeChoice, describeShortage } from './aggregation-notice.ts';
import { foldCounted, type CountedSteps } from './counted-steps.ts';
import { CheckpointDesk } from './checkpoint-desk.ts';
import { coordinatorPage, type CoordinatorPage } from './coordinator-page.ts';
import { advance, initialState } from './core/advance.ts';
import { describeOutlier, type Outlier } from './core/outliers.ts';
import { pauseOf } from './core/pause.ts';
import type { Effect, Event, Outcome, RunState } from './core/state.ts';
import type { Dispatch, Fact } from './dispatch.ts';
import { Doorkeeper } from './doorkeeper.ts';
import { EvaluationDesk } from './evaluation-desk.ts';
import { FactQueue } from './fact-queue.ts';
import { gatewayFault } from './gateway-fault.ts';
import { sendAhead, sendNotice, sendRecord, withdrawAhead } from './live-feed.ts';
import { nextRefreshSlots } from './core/refresh-schedule.ts';
import { isFlushed } from '../galore/slot.ts';
import { SOFTWARE } from '../software.ts';
import { planOf } from './plan.ts';
import { prepareRun, type PreparedRun } from './prepare-run.ts';
import type { RecordPlace, SealedRecord } from './records.ts';
import { basisFacts, ranksOf, slotNorms } from './restore-bases.ts';
import { RunClock } from './run-clock.ts';
import { RunMetrics } from './run-metrics.ts';
import { CoordinatorServer } from './server.ts';
import { serverLimits } from './server-limits.ts';
import { SpillFile } from './spill-file.ts';
import { StepDesk } from './step-desk.ts';
import { describePassing, isPassing } from './store/full-disk.ts';
import { isKeptElsewhere } from './open-authority.ts';
import { LeaseLost } from './store/state-store.ts';
import { Traffic } from './traffic.ts';
import { TrainerDesk } from './trainer-desk.ts';

/** How often the core hears what time it is. */
const TICK_INTERVAL_MS = 200;

/** Lines of the log about those who come and go: of each kind these at once, and then so many in a second. */
const PEER_LINES = { burst: 256, perSecond: 1 } as const;

type EventOf<T extends Event['type']> = Extract<Event, { type: T }>;
type EffectOf<T extends Effect['type']> = Extract<Effect, { type: T }>;

/** Opens or creates the run and starts to listen. Errors: see StartCoordinator. */
export async function startCoordinator(options: CoordinatorOptions): Promise<RunningCoordinator> {
  const { config, logger, onReport } = options;
  const doorkeeper = await Doorkeeper.open(config, logger);
  if (doorkeeper.warning !== null) {
    logger.warn('coordinator.open', { host: config.coordinator.host }, doorkeeper.warning);
  }
  const run = await prepareRun(options);
  expectFrames(contributionBytes(run.shape.sizes));
  if (!doorkeeper.letsAnyoneIn && config.coordinator.local_trainers === 0) {
    const command = `galore token create ${doorkeeper.tokensPath} --role trainer`;
    onReport({ type: 'notice', text: `no token lets a trainer in yet: ${command}` });
  }
  try {
    return await new Coordinator(run, doorkeeper, options).listen();
  } catch (error) {
    await run.close();
    await run.undo();
    throw error;
  }
}

/** Where others find what listens at `url`. */
function advertisedUrl(url: string): string {
  const place = new URL(url);
  if (['0.0.0.0', '[::]'].includes(place.hostname)) place.hostname = hostname();
  return place.href;
}

class Coordinator {
  readonly #run: PreparedRun;
  readonly #doorkeeper: Doorkeeper;
  readonly #options: CoordinatorOptions;
  readonly #clock = systemClock;
  /** Of the core. */
  readonly #runClock = new RunClock(systemClock);
  readonly #spillFile: SpillFile;
  readonly #steps: StepDesk;
  readonly #evaluations: EvaluationDesk;
  readonly #checkpoints: CheckpointDesk;
  readonly #trainers: TrainerDesk;
  readonly #metrics: RunMetrics;
  readonly #traffic: Traffic;
  readonly #view: CoordinatorPage;
  /** For what peers cause. */
  readonly #peerLogger: Logger;
  readonly #logNote: ChangeLogger;
  readonly #logWaiting: ChangeLogger;
  readonly #logPause: ChangeLogger;
  readonly #logChoice: ChangeLogger;
  readonly #logShortage: ChangeLogger;
  readonly #facts: FactQueue<Fact>;
  readonly #finished = deferred<RunSummary>();
  #server!: CoordinatorServer;
  #state: RunState;
  /** Of the newest update. */
  #outliers: readonly Outlier[] = [];
  /** The newest record, from its sealing until it is announced or given up; with who took part if it is an update. */
  #record: SealedRecord | null = null;
  /** For checkpoints; null: nobody keeps anything, or it is not known. */
  #counted: CountedSteps | null;
  #attendance: EffectOf<'commitUpdate'>['attendance'] = { assigned: [], late: [], waitMs: 0 };
  #ticker: NodeJS.Timeout | null = null;
  #isEnding = false;

  constructor(run: PreparedRun, doorkeeper: Doorkeeper, options: CoordinatorOptions) {
    this.#run = run;
    this.#counted = run.start.counted;
    this.#doorkeeper = doorkeeper;
    const fieldsOf = () => ({ run: run.config.name, step: this.#state.step });
    this.#options = { ...options, logger: withFields(options.logger, fieldsOf) };
    const { config, shape, dataset, metrics, evaluations } = run;
    const { logger } = this.#options;
    const onReport = (report: RunReport): void => this.#report(report);
    const nowMs = this.#clock.nowMs();
    const plan = planOf(config, shape, dataset?.validation?.count ?? 0);
    this.#state = initialState(plan, {
      ...run.start,
      checkpointedStep: run.newestCheckpoint.step,
      nowMs: this.#runClock.nowMs(),
    });
    const onFailure = (error: unknown): void => this.#fail(error);
    this.#facts = new FactQueue((fact) => this.#take(fact), onFailure);
    const dispatch: Dispatch = (fact) => this.#facts.put(fact);
    this.#metrics = new RunMetrics(config, { metrics, evaluations }, { onReport, onFailure }, nowMs);
    this.#traffic = new Traffic(shape.slots);
    this.#peerLogger = createRateLimitedLogger(logger, PEER_LINES, () => this.#clock.nowMs());
    this.#logNote = createChangeLogger(logger, 'run.note', 'debug');
    this.#logWaiting = createChangeLogger(this.#peerLogger, 'run.waiting');
    this.#logPause = createChangeLogger(logger, 'run.paused', 'warn');
    this.#logChoice = createChangeLogger(this.#peerLogger, 'aggregation.choice');
    this.#logShortage = createChangeLogger(this.#peerLogger, 'aggregation.shortage', 'warn');
    const logFull = createChangeLogger(logger, 'staging.full', 'warn');
    this.#spillFile = new SpillFile(dirname(run.checkpointsDir), logFull);
    const earlyUpdate = {
      place: (step: number) => this.#nextPlace(step),
      send: (first: number, frames: readonly Uint8Array[]) =>
        sendAhead(this.#trainers.sessions(), first, frames),
      withdraw: (step: number) => withdrawAhead(this.#trainers.sessions(), step),
    };
    this.#steps = new StepDesk(config, shape, randomInt(2 ** 32), earlyUpdate, this.#spillFile);
    this.#steps.setRanks(ranksOf(this.#state.bases));
    this.#evaluations = new EvaluationDesk(
      dataset?.validation ?? null,
      config.seq_len,
      plan.evaluationSequences,
      dispatch,
    );
    const clock = { nowMs: () => this.#clock.nowMs() };
    const addFiles = (folder: string): Promise<readonly string[]> => this.#metrics.copyTo(folder);
    this.#checkpoints = new CheckpointDesk(run, { dispatch, onReport, logger, ...clock, addFiles });
    this.#trainers = new TrainerDesk(run, {
      steps: this.#steps,
      evaluations: this.#evaluations,
      checkpoints: this.#checkpoints,
      doorkeeper,
      dispatch,
      committedStep: () => this.#state.step,
      gatewayFault: (hello) => gatewayFault(config, hello, SOFTWARE),
      nowMs: clock.nowMs,
      pause: (durationMs) => (durationMs === 0 ? setImmediate() : sleep(durationMs)),
      adopt: (connection, trainerId) => this.#server.admit(connection, trainerId),
      onFailure,
      logger: this.#peerLogger,
    });
    this.#view = coordinatorPage(run, this.#state, {
      doorkeeper,
      sizes: () => this.#trainers.sizes(),
      whyNotReady: () => (this.#isEnding ? 'it ends' : (pauseOf(this.#state)?.reason ?? null)),
      nowMs: clock.nowMs,
      logger: this.#peerLogger,
    });
  }

  async listen(): Promise<RunningCoordinator> {
    const { coordinator } = this.#run.config;
    const { host, port, local_trainers: localTrainers } = coordinator;
    const { certificates: tls, localToken, asksForTokens } = this.#doorkeeper;
    this.#server = await CoordinatorServer.listen(
      {
        host,
        port,
        tls,
        // The certificate is for a name that trainers elsewhere know, not for this machine's address.
        hasLocalDoor: tls !== null && localTrainers > 0,
        ...serverLimits(coordinator),
        logger: this.#peerLogger,
      },
      {
        onMessage: (connection, message) => this.#trainers.receive(connection, message),
        onClose: (connection, code, reason) => this.#trainers.closed(connection, code, reason),
        onFrame: ({ trainerId }, direction, frame) => {
          if (trainerId !== null) this.#traffic.count(trainerId, direction, frame);
        },
        onFatal: (error) => this.#fail(error),
        onRequest: (request, response) => this.#view.page.respond(request, response),
        onLive: (request, socket, head) => this.#view.page.upgrade(request, socket, head),
      },
    );
    this.#doorkeeper.watch({
      onLook: () => this.#trainers.judgeAgain(),
      onCertificates: (texts) => {
        this.#server.renewCertificates(texts);
        this.#options.logger.info('certificates.renewed', {}, 'new certificates are in use');
      },
    });
    this.#followLease();
    this.#ticker = setInterval(() => {
      this.#metrics.retry(this.#clock.nowMs());
      collectGrownHeap();
      this.#facts.put({ type: 'ticked' });
    }, TICK_INTERVAL_MS);
    this.#facts.put({ type: 'ticked' });
    return {
      url: this.#server.url,
      localUrl: this.#server.localUrl,
      ...{ localToken, asksForTokens },
      finished: this.#finished.promise,
      stop: () => this.#facts.put({ type: 'stopRequested' }),
    };
  }

  /** Without the lease nothing can be committed any more: another coordinator does that. */
  #followLease(): void {
    const { lease, store } = this.#run.authority;
    const end = (): void => this.#fail(lease.lost.reason);
    if (lease.lost.aborted) return end();
    lease.lost.addEventListener('abort', end, { once: true });
    // Who looks for the leader finds the address; that it is late by a renewal is no harm.
    const { epoch } = lease;
    if (isKeptElsewhere(this.#options)) {
      const { step } = this.#run.start;
      const text = `leading the run from step ${step} on (epoch ${epoch}); trainers join at ${this.#server.url}`;
      this.#options.onReport({ type: 'notice', text });
    }
    lease.setAddress(advertisedUrl(this.#server.url)).catch(() => {});
    store.publish({
      type: 'leader',
      step: this.#state.step,
      epoch,
      address: advertisedUrl(this.#server.url),
    });
  }

  /** For people here, and for those who watch from elsewhere. */
  #report(report: RunReport): void {
    const { store } = this.#run.authority;
    if (report.type !== 'notice' && report.type !== 'progress') store.publish({ ...report });
    this.#options.onReport(report);
  }

  /** Tells the core, and carries out what it answers. */
  #take(fact: Fact): void {
    const event = { ...fact, nowMs: this.#runClock.nowMs() } as Event;
    const isPaused = pauseOf(this.#state) !== undefined;
    const { state, effects, note } = advance(this.#state, event);
    this.#state = state;
    this.#view.watch.see(state, event, effects, note);
    if (note !== undefined) this.#tell(note, isPaused);
    for (const effect of effects) this.#perform(effect);
  }

  /** A note goes to the log when it changes, and to the trainers when they wait for something. */
  #tell(note: string, wasPaused: boolean): void {
    const isPaused = wasPaused || pauseOf(this.#state) !== undefined;
    const isWaiting = this.#state.phase.phase === 'waiting';
    (isPaused ? this.#logPause : isWaiting ? this.#logWaiting : this.#logNote)(note);
    if (isWaiting || isPaused) sendNotice(this.#trainers.sessions(), note);
  }

  #perform(effect: Effect): void {
    switch (effect.type) {
      case 'assignStep':
        return this.#assignStep(effect);
      case 'passOver':
        return this.#passOver(effect);
      case 'requestSketches':
        return this.#requestSketches(effect);
      case 'sumSketches':
        return this.#steps.sumSketches(effect);
      case 'assignFactors':
        return this.#assignFactors(effect);
      case 'commitBases':
        return this.#commit(effect.step, (place) => this.#steps.sealBases(place, effect));
      case 'commitUpdate':
        this.#outliers = effect.outliers ?? [];
        this.#outliers.forEach((outlier) => this.#logOutlier(effect.step, outlier));
        this.#attendance = effect.attendance;
        this.#commit(effect.step, (place) => this.#steps.sealUpdate(place, effect));
        return this.#logAggregation();
      case 'announceRecord':
        return this.#announceRecord(effect.sequence);
      case 'retryRecord':
        return this.#append();
      case 'discardStaged':
        this.#steps.discard();
        return withdrawAhead(this.#trainers.sessions(), effect.step);
      case 'rejectStep':
        return this.#rejectStep(effect);
      case 'assignEvaluation':
        return this.#assignEvaluation(effect);
      case 'reportEvaluation':
        return this.#reportEvaluation(effect);
      case 'requestSnapshot':
        return this.#requestSnapshot(effect);
      case 'requestLocalState': {
        const session = this.#trainers.get(effect.trainerId);
        return session === undefined ? undefined : this.#checkpoints.requestLocal(session);
      }
      case 'writeCheckpoint':
        return this.#checkpoints.write(effect);
      case 'abandonCheckpoint':
        return void this.#checkpoints.abandon();
      case 'closeConnection':
        if (effect.reason === 'STATE_DIVERGED') this.#checkpoints.distrust();
        return this.#trainers.close(effect.trainerId, effect.reason, effect.text);
      case 'finishRun':
        return this.#end(effect.outcome);
      default:
        effect satisfies never;
    }
  }

  #assignStep(effect: EffectOf<'assignStep'>): void {
    const { trainerId, step, positions, localExamples = 0, refreshSlots, waitMs: deadlineMs } = effect;
    if (step === this.#run.start.step + 1) this.#metrics.restartClock(this.#clock.nowMs());
    const { plan, bases } = this.#state;
    const next = nextRefreshSlots(plan, step, bases, refreshSlots);
    const flushSlots = next.filter((index) => isFlushed(this.#run.shape.slots[index]!));
    this.#steps.assigned(effect, flushSlots);
    const { seed, data, seq_len: seqLen } = this.#run.config;
    const { dataset } = this.#run;
    const assignment = { kind: 'stepAssignment', step, seed, refreshSlots, flushSlots, deadlineMs } as const;
    const session = this.#trainers.get(trainerId);
    session?.enqueue(async () => {
      const learningRate = this.#steps.learningRate(step);
      if (dataset === null) {
        return session.connection.send({ ...assignment, learningRate, sequences: null, localExamples });
      }
      const { train } = dataset;
      const indices = positions.map((position) => sequenceAt(position, train.count, seed, data.order));
      const sequences = await readSequences(train, indices, positions, seqLen);
      this.#steps.expect(trainerId, positions, countedLabels(sequences));
      session.connection.send({ ...assignment, learningRate, sequences, localExamples: 0 });
    });
  }

  #passOver({ trainerId, step }: EffectOf<'passOver'>): void {
    this.#trainers.get(trainerId)?.send({ kind: 'notice', text: `not chosen for step ${step}` });
  }

  #requestSketches(effect: EffectOf<'requestSketches'>): void {
    const { step, round, trainerIds } = effect;
    const { slots, frames } = this.#steps.beginRound(effect);
    const { seed } = this.#run.config;
    for (const trainerId of trainerIds) {
      const session = this.#trainers.get(trainerId);
      session?.sendFrames(frames);
      session?.send({ kind: 'sketchRequest', step, round, slots, seed });
    }
  }

  #assignFactors(effect: EffectOf<'assignFactors'>): void {
    const { trainerId, step, round, isFinal } = effect;
    const { slots, frames } = this.#steps.beginJob(effect);
    const session = this.#trainers.get(trainerId);
    session?.sendFrames(frames);
    session?.send({ kind: 'factorAssignment', step, round, slots, isFinal });
  }

  /** Seals a record and appends it to the journal. */
  #commit(step: number, seal: (place: RecordPlace) => SealedRecord): void {
    const askedMs = this.#clock.nowMs();
    const record = seal(this.#nextPlace(step));
    this.#record = record;
    this.#append((this.#clock.nowMs() - askedMs) / 1000);
  }

  /** Appends the record that was sealed last to the journal; the core hears how that went. */
  #append(sealSeconds = 0): void {
    const record = this.#record;
    if (record === null) throw new Error('assertion failed: no record is sealed');
    const { journal, commit } = this.#run;
    const { sequence, step, digest } = record.commit;
    const kind = record.commit.record.type;
    const askedMs = this.#clock.nowMs();
    const committed = (): void => {
      const seconds = { seal: sealSeconds, write: (this.#clock.nowMs() - askedMs) / 1000 };
      this.#options.logger.debug(
        'record.committed',
        { step, kind, seconds },
        `record ${sequence} is on disk`,
      );
      this.#facts.put({ type: 'recordCommitted', step, kind, sequence, ...this.#factsOf(record) });
    };
    const failed = async (error: unknown): Promise<void> => {
      if (!isPassing(error)) throw error;
      const bytes = record.frames.reduce((sum, { length }) => sum + length, 0);
      const reason = await describePassing(error, journal.path, bytes);
      this.#facts.put({ type: 'recordFailed', step, kind, sequence, reason });
    };
    commit(record.frames, { sequence, step, digest, kind })
      .then(committed, failed)
      .catch((error: unknown) => this.#fail(error));
  }

  #logOutlier(step: number, outlier: Outlier): void {
    const { trainerId, norm, median, action } = outlier;
    const end = action === 'clip' ? 'is scaled down' : 'is left out';
    const text = `${trainerId}: its contribution to step ${step} ${end}: ${describeOutlier(outlier)}`;
    this.#peerLogger.warn('trainer.outlier', { trainer: trainerId, step, norm, median, action }, text);
  }

  #logAggregation(): void {
    const { notice } = this.#steps;
    if (notice === null) return;
    this.#logChoice(describeChoice(notice));
    this.#logShortage(describeShortage(notice));
  }

  #nextPlace(step: number): RecordPlace {
    const sequence = this.#state.sequence + 1;
    return { sequence, step, previousDigest: this.#run.journal.digestOf(sequence - 1) ?? FIRST_DIGEST };
  }

  /** What the core keeps of a record. */
  #factsOf({ commit: { record } }: SealedRecord): Pick<EventOf<'recordCommitted'>, 'bases' | 'norms'> {
    if (record.type === 'basis') return { bases: basisFacts(record) };
    return { norms: slotNorms(record, this.#state.plan.projectedSlots) };
  }

  #announceRecord(sequence: number): void {
    const record = this.#record;
    if (record === null || record.commit.sequence !== sequence) return;
    sendRecord(this.#trainers.sessions(), sequence, record.frames);
    this.#record = null;
    if (record.commit.record.type === 'basis') {
      this.#steps.setRanks(ranksOf(this.#state.bases));
      return this.#steps.refreshCommitted();
    }
    const { step } = record.commit;
    this.#counted = foldCounted(this.#counted, record.commit);
    this.#steps.discard();
    const { numbers: payloadNumbers, meanRank } = this.#steps.payloadOf(step);
    const sizes = {
      payloadNumbers,
      meanRank,
      coordinatorResidentBytes: process.memoryUsage.rss(),
      sizes: this.#trainers.sizes(),
      traffic: this.#traffic.take(),
      outliers: this.#outliers,
      aggregation: this.#steps.notice,
      stateHash: this.#state.agreed?.step === step - 1 ? this.#state.agreed : null,
    };
    collectGrownFrames(contributionBytes(this.#run.shape.sizes));
    const nowMs = this.#clock.nowMs();
    this.#metrics.stepCommitted(step, record.commit.record, this.#server, this.#attendance, sizes, nowMs);
    if (step === this.#options.stopAtStep) this.#facts.put({ type: 'stopRequested' });
  }

  #rejectStep({ trainerId, step, reason }: EffectOf<'rejectStep'>): void {
    this.#trainers.get(trainerId)?.send({ kind: 'stepRejected', step, reason });
  }

  #assignEvaluation(effect: EffectOf<'assignEvaluation'>): void {
    const session = this.#trainers.get(effect.trainerId);
    if (session !== undefined) this.#evaluations.assign(effect, session);
  }

  #reportEvaluation({ step, parts }: EffectOf<'reportEvaluation'>): void {
    this.#metrics.evaluated(step, parts);
    this.#metrics.restartClock(this.#clock.nowMs());
  }

  #requestSnapshot(effect: EffectOf<'requestSnapshot'>): void {
    const session = this.#trainers.get(effect.trainerId);
    const members = this.#state.trainers.map(({ trainerId }) => trainerId);
    if (session !== undefined) this.#checkpoints.request(effect, session, members, this.#counted);
  }

  #end(outcome: Outcome): void {
    if (this.#isEnding) return;
    this.#isEnding = true;
    this.#run.authority.store.publish({ type: 'finished', step: this.#state.step, outcome });
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
    const [reason, text]: [CloseReason, string] =
      error instanceof LeaseLost
        ? ['COORDINATOR_STOPPING', 'another coordinator leads the run now']
        : ['INTERNAL_ERROR', 'the coordinator had an error and ends'];
    this.#shutDown(reason, text).then(end, end);
  }

  async #shutDown(reason: CloseReason, text: string): Promise<void> {
    this.#facts.close();
    if (this.#ticker !== null) clearInterval(this.#ticker);
    this.#doorkeeper.close();
    this.#view.page.close();
    try {
      await this.#server.close(reason, text);
      await this.#checkpoints.close();
      await this.#metrics.close();
    } finally {
      this.#spillFile.close();
      await this.#run.close();
    }
  }

  #summary(outcome: Outcome): RunSummary {
    const { newest, failure } = this.#checkpoints;
    const { path, weightsSha256 } = newest;
    const { step } = this.#state;
    const unexplained = outcome === 'completed' ? 'no trainer was left to send its state' : null;
    return {
      outcome,
      step,
      totalSteps: this.#run.config.steps,
      dir: this.#run.config.dir,
      lastLoss: this.#metrics.lastLoss ?? NaN,
      validation: this.#metrics.validation,
      checkpointPath: path,
      weightsSha256,
      checkpointFailure: newest.step >= step ? null : (failure ?? unexplained),
    };
  }
}
