/**
 * The trainer process: one loop over what the network thread hands in. State changes only by snapshots
 * and records; work for a step is held until the step's record arrives or the connection goes.
 */
import { bytesOf, floatsOf } from '../array-bytes.ts';
import type { RunConfig } from '../config/schema.ts';
import { ConfigError } from '../errors.ts';
import { withFields } from '../log.ts';
import { restartsOf } from '../galore/method.ts';
import { learningRate } from '../galore/schedule.ts';
import { LOCAL_PREFIX, stateTensors } from '../galore/state-table.ts';
import { BufferPool } from '../protocol/buffer-pool.ts';
import type { CloseReason } from '../protocol/close-codes.ts';
import type {
  CommitMessage,
  EvaluationAssignmentMessage,
  FactorAssignmentMessage,
  Sequences,
  SketchRequestMessage,
  SnapshotEndMessage,
  SnapshotHeader,
  SnapshotRequestMessage,
  StepAssignmentMessage,
  WelcomeMessage,
} from '../protocol/messages.ts';
import type { AssembledTensor } from '../protocol/parts.ts';
import { collectWhenGrown } from '../heap.ts';
import { stepTargets, type RunShape } from '../run-shape.ts';
import type { TrainerOptions, TrainerResult } from './api.ts';
import { applyRecord, replicaOf, stateArrayOf } from './apply-record.ts';
import { toBatches, toLocalBatches } from './batches.ts';
import { DisplacementWork } from './displacement-work.ts';
import { precisionWarning } from './engine/device.ts';
import { loadEngine, type Engine } from './engine/load.ts';
import { hyperparametersOf } from './hyperparameters.ts';
import { KeptState } from './kept-state.ts';
import { Link, type LinkEvent, type LinkMessage } from './link.ts';
import { makeModel } from './model/make-model.ts';
import { addLosses, measureLoss, type LossSum, type Model } from './model/model.ts';
import { RefreshWork } from './refresh-work.ts';
import type { Replica, StateArray } from './replica.ts';
import { SOFTWARE } from '../software.ts';
import { Site, siteFault } from './site.ts';
import { SnapshotUpload } from './snapshot-upload.ts';
import { StepTimes } from './step-times.ts';
import { StepWork, type StepOutput, type Work } from './step.ts';
import { understand, type WelcomedRun } from './welcomed-run.ts';

/** Ends that are no failure; any other makes the process exit with 3. */
const GOOD_ENDS: readonly CloseReason[] = ['RUN_FINISHED', 'LEAVING'];

/** Takes part in a run until it ends, is left, or refuses this trainer for good. */
export async function runTrainer(options: TrainerOptions): Promise<TrainerResult> {
  const { precision, threads, device } = options;
  const engine = await loadEngine({ precision, threads, device });
  options.logger.info('trainer.device', {}, `computing on ${engine.device.description}`);
  const warning = precisionWarning(engine.device);
  if (warning !== null) options.logger.warn('trainer.precision', { precision }, warning);
  return new Trainer(options, engine).run();
}

class Trainer {
  readonly #options: TrainerOptions;
  readonly #engine: Engine;
  readonly #link: Link;
  #run: WelcomedRun | null = null;
  /** With data of its own. */
  #site: Site | null = null;
  /** The site's sequences for the step that is assigned. */
  #siteSequences: Sequences | null = null;
  #replica: Replica | null = null;
  #model: Model | null = null;
  /** Committed steps and records in the replica. */
  #step = 0;
  #sequence = 0;
  /** The step whose hash was told on this connection; -1: none was. */
  #toldStep = -1;
  readonly #kept: KeptState;
  #work: Work | null = null;
  /** Spent on the work so far. */
  #workSeconds = 0;
  #upload: SnapshotUpload | null = null;
  /** Tensors of the snapshot that is coming in, by their names in the state table. */
  readonly #snapshot = new Map<string, StateArray>();
  readonly #refresh = new RefreshWork();
  /** Contributions are encoded where updates were: buffers go round between the threads. */
  readonly #pool = new BufferPool();
  readonly #times = new StepTimes();
  constructor(options: TrainerOptions, engine: Engine) {
    const fieldsOf = () => ({ run: this.#run?.config.name, step: this.#step });
    const logger = withFields(options.logger, fieldsOf);
    this.#options = { ...options, logger };
    this.#engine = engine;
    this.#kept = new KeptState(this.#options);
    this.#link = Link.open({
      url: options.url,
      trainerId: options.trainerId,
      runName: options.runName,
      token: options.token,
      tls: options.tls,
      software: SOFTWARE,
      device: engine.device.description,
      isAudited: options.onAudit !== undefined,
      logger,
    });
  }

  async run(): Promise<TrainerResult> {
    const leave = (): void => void this.#link.close('the trainer was asked to leave');
    if (this.#options.signal.aborted) leave();
    this.#options.signal.addEventListener('abort', leave, { once: true });
    try {
      for await (const event of this.#link.events()) {
        await this.#readAhead(event);
        const startedMs = performance.now();
        const result = this.#handle(event);
        this.#times.worked(performance.now() - startedMs);
        if (result !== null) return result;
        this.#sayWhenItWas();
      }
      throw new Error('the network thread ended without saying why');
    } finally {
      this.#options.signal.removeEventListener('abort', leave);
      this.#upload?.cancel();
      this.#dropState();
      await this.#link.close();
      await this.#site?.close();
      this.#options.onAudit?.(this.#link.audit, this.#link.bytesSent);
    }
  }

  /** What is done before an event is handled: its run is understood, and what it needs of the site's data is read. */
  async #readAhead(event: LinkEvent): Promise<void> {
    if (event.type === 'connected') return this.#onConnected(event.welcome);
    if (event.type !== 'message' || this.#site === null) return;
    const { message } = event;
    if (message.kind === 'stepAssignment' && message.sequences === null) {
      this.#siteSequences = await this.#site.sequencesOf(message.step, message.localExamples);
    }
    if (message.kind === 'evaluationAssignment' && message.sequences === null) {
      await this.#evaluateOwn(message.step, this.#site);
    }
  }

  /** @throws ConfigError if the run is none for this trainer; DataError for its data. Nothing is said of it to the coordinator. */
  async #openSite(run: WelcomedRun, welcome: WelcomeMessage): Promise<void> {
    if (this.#run?.runId === run.runId) return; // it is open already
    const { site: options, logger } = this.#options;
    const fault = siteFault(welcome, run.config.data.local, options !== undefined);
    if (fault !== null) throw new ConfigError(fault);
    await this.#site?.close();
    this.#site = null;
    if (options === undefined) return;
    this.#site = await Site.open(run, welcome.site!, options);
    for (const notice of this.#site.notices) logger.warn('site.data', {}, notice);
    logger.info('site.data', {}, this.#site.description);
  }

  #handle(event: LinkEvent): TrainerResult | null {
    switch (event.type) {
      case 'connected':
        return null; // see #readAhead
      case 'tensor':
        this.#onTensor(event.tensor);
        return null;
      case 'snapshotEnd':
        this.#onSnapshotEnd(event.message);
        return null;
      case 'record':
        this.#onRecord(event.commit, event.tensors);
        return null;
      case 'message':
        this.#onMessage(event.message);
        return null;
      case 'stateDiscarded':
        this.#dropState();
        return null;
      case 'disconnected':
        this.#dropWork();
        this.#upload?.cancel();
        this.#activity(`not connected: ${event.reason}`);
        return null;
      case 'closed':
        this.#sayWhereItEnds();
        return { code: GOOD_ENDS.includes(event.reason) ? 0 : 3, reason: event.text };
    }
  }

  // ---- state ----

  async #onConnected(welcome: WelcomeMessage): Promise<void> {
    const run = understand(welcome);
    if ('fault' in run) return this.#link.refuse('SCHEMA_MISMATCH', run.fault);
    await this.#openSite(run, welcome);
    this.#dropWork();
    this.#toldStep = -1;
    this.#run = run;
    this.#keepTensors(run.snapshot);
    this.#link.accept(run.shape.sizes, this.#site?.examples);
    this.#activity(run.snapshot === null ? 'catching up' : 'receiving the state');
  }

  /** Of the snapshot that came on an earlier connection only what this one goes on from. */
  #keepTensors(snapshot: SnapshotHeader | null): void {
    const kept = new Set(snapshot?.tensors.slice(0, snapshot.firstTensor).map(({ name }) => name));
    for (const name of this.#snapshot.keys()) if (!kept.has(name)) this.#snapshot.delete(name);
    if (kept.size === 0) return;
    const text = `goes on with the snapshot behind tensor ${kept.size} of ${snapshot!.tensors.length}`;
    this.#options.logger.info('trainer.snapshot', { tensors: kept.size }, text);
  }

  #onTensor(part: AssembledTensor): void {
    const { stream, tensor, bytes } = part;
    if (stream === 'snapshot') {
      const info = this.#run?.snapshot?.tensors[tensor];
      if (info !== undefined) this.#snapshot.set(info.name, stateArrayOf(part));
      return;
    }
    if (stream === 'sketchSum') this.#refresh.takeSum(tensor, floatsOf(bytes));
    if (stream === 'factor') this.#refresh.takeFactor(tensor, floatsOf(bytes));
  }

  #onSnapshotEnd({ sequence, step }: SnapshotEndMessage): void {
    const { config, model } = this.#run!;
    this.#dropState();
    const { shared, local } = splitState(this.#snapshot);
    this.#snapshot.clear();
    this.#replica = replicaOf(this.#run!, shared);
    this.#step = step;
    this.#kept.restore(this.#run!, this.#replica, step, local);
    const { recompute, loss_chunk: lossChunk } = config.trainer;
    this.#model = makeModel(model, this.#replica.weights, { recompute, lossChunk });
    this.#sequence = sequence;
    this.#link.applied(sequence);
    this.#activity('ready');
  }

  #onRecord(commit: CommitMessage, tensors: readonly AssembledTensor[]): void {
    const { record, sequence, step } = commit;
    const { config, shape, replica } = this.#running();
    if (record.type === 'basis') {
      this.#kept.basesChange();
      const { moments } = config.method;
      const { betas } = config.optimizer;
      applyRecord(replica, { config, shape }, commit, tensors, (change) =>
        this.#kept.locals.carry(change, { moments, betas }),
      );
      this.#sequence = sequence;
      this.#link.applied(sequence);
      if (this.#work?.task.step === step) this.#contribute(this.#work);
      return;
    }
    this.#times.mark('receivedMs', nowMs());
    this.#giveUpWork();
    applyRecord(replica, { config, shape }, commit, tensors);
    this.#kept.updated(config, step, record, tensors);
    this.#pool.give(
      tensors.map(({ bytes }) => bytes),
      tensors.reduce((sum, { bytes }) => sum + bytes.length, 0),
    );
    this.#step = step;
    this.#sequence = sequence;
    this.#link.applied(sequence);
    collectWhenGrown();
    // Counted here, between steps, where nothing but the state should exist.
    this.#link.setActivity({ tensorCount: this.#engine.tf.memory().numTensors });
    this.#activity(`step ${step} applied`);
    if (step % config.method.update_proj_gap === 0) this.#tellHash();
    this.#times.mark('appliedMs', nowMs());
  }

  // ---- work ----

  #onMessage(message: LinkMessage): void {
    switch (message.kind) {
      case 'stepAssignment':
        return this.#onStepAssignment(message);
      case 'sketchRequest':
        return this.#onSketchRequest(message);
      case 'factorAssignment':
        return this.#onFactorAssignment(message);
      case 'evaluationAssignment':
        return this.#onEvaluationAssignment(message);
      case 'snapshotRequest':
        return this.#onSnapshotRequest(message);
      case 'stepRejected':
        this.#options.logger.info('step.rejected', { step: message.step }, message.reason);
        if (this.#work?.task.step === message.step) this.#dropWork();
        return;
      case 'notice':
        this.#options.logger.info('coordinator.notice', {}, message.text);
        this.#activity(message.text);
        return;
    }
  }

  #onStepAssignment(assignment: StepAssignmentMessage): void {
    const { step, sequences, refreshSlots } = assignment;
    const { model } = this.#running();
    this.#dropWork();
    if (step !== this.#step + 1) return this.#link.spoiled(`step ${step} was assigned at step ${this.#step}`);
    const given = sequences ?? this.#siteSequences;
    this.#siteSequences = null;
    if (given === null) return this.#link.spoiled(`step ${step} came without sequences`);
    this.#activity(`step ${step}: ${given.positions.length} sequences`);
    this.#times.mark('assignedMs', nowMs());
    const work = this.#workOn(assignment, given);
    this.#work = work;
    this.#timed(() => work.computeGradients(model));
    if (refreshSlots.length === 0) this.#contribute(work);
  }

  #workOn({ step, seed, refreshSlots, flushSlots }: StepAssignmentMessage, sequences: Sequences): Work {
    const { config, shape, replica } = this.#running();
    const { count: localSteps } = config.local_steps;
    const { micro_batch: microBatch } = config.trainer;
    const task = {
      step,
      seed,
      trainerId: this.#options.trainerId,
      refreshSlots,
      flushSlots,
      codecs: shape.codecs,
      stepTokens: stepTargets(config),
      refresh: shape.refresh,
      slots: shape.slots,
    };
    if (localSteps === 1) {
      const batches = toBatches(sequences, microBatch);
      const isDelayed = config.wire.overlap === 'delayed';
      return new StepWork({ ...task, batches, isDelayed }, replica, this.#kept.locals, this.#output(step));
    }
    const local = {
      localBatches: toLocalBatches(sequences, microBatch, localSteps),
      hyper: { ...hyperparametersOf(config), weightDecay: 0 },
      learningRateAt: (share: number) =>
        learningRate(config.optimizer, step - 1 + share, config.steps, restartsOf(config)),
      proximalMu: config.local_steps.proximal_mu,
    };
    return new DisplacementWork({ ...task, ...local }, replica, this.#kept.locals, this.#output(step));
  }

  #timed(compute: () => void): void {
    const startedMs = performance.now();
    compute();
    this.#workSeconds += (performance.now() - startedMs) / 1000;
  }

  #onSketchRequest(message: SketchRequestMessage): void {
    const { step, round } = message;
    const work = this.#work;
    if (work?.task.step !== step) return;
    this.#refresh.sketch(work, message);
    this.#link.send({ kind: 'sketch', step, round, tokens: work.tokens });
  }

  #onFactorAssignment(message: FactorAssignmentMessage): void {
    const { step, round } = message;
    const answer = this.#refresh.factorise(message, this.#running(), (tensor, factor) =>
      this.#link.sendTensor({ stream: 'factor', step, round, tensor, codec: 'f32' }, bytesOf(factor)),
    );
    this.#link.send(answer);
  }

  #contribute(work: Work): void {
    const { step } = work.task;
    this.#timed(() => work.contributeHeld());
    this.#link.setActivity({ tokensPerSecond: work.tokens / this.#workSeconds });
    work.isAnswered = true;
    if (work.tokens > 0) this.#kept.propose(step);
    const { tokens, lossSum } = work;
    this.#link.send({ kind: 'contribution', step, tokens, ...(this.#site?.told(lossSum) ?? { lossSum }) });
    this.#times.mark('contributedMs', nowMs());
    this.#activity(`step ${step}: contribution sent`);
  }

  #onEvaluationAssignment({ step, sequences }: EvaluationAssignmentMessage): void {
    const { config, model } = this.#running();
    if (step !== this.#step)
      return this.#link.spoiled(`step ${step} is to be evaluated at step ${this.#step}`);
    if (sequences === null) return; // see #evaluateOwn
    this.#activity(`evaluating after step ${step}`);
    const batches = toBatches(sequences, config.trainer.micro_batch);
    this.#link.send({ kind: 'evaluation', step, ...measureLoss(model, batches) });
  }

  /** Of what the site has held out, which is read as it is measured. */
  async #evaluateOwn(step: number, site: Site): Promise<void> {
    if (step !== this.#step) return; // see #onEvaluationAssignment
    const { config, model } = this.#running();
    this.#activity(`evaluating after step ${step}`);
    const parts: LossSum[] = [];
    for await (const sequences of site.heldOut()) {
      parts.push(measureLoss(model, toBatches(sequences, config.trainer.micro_batch)));
    }
    const withheld = site.tellsLosses ? {} : { isLossWithheld: true as const };
    this.#link.send({ kind: 'evaluation', step, ...addLosses(parts), ...withheld });
  }

  #onSnapshotRequest({ step, sequence, isLocalOnly }: SnapshotRequestMessage): void {
    const { replica } = this.#running();
    this.#upload?.cutShort();
    if (sequence !== this.#sequence) {
      return this.#link.spoiled(`the state of record ${sequence} was asked for at record ${this.#sequence}`);
    }
    this.#tellHash();
    const locals = this.#kept.locals.clone(replica.slots);
    const [values, first] = isLocalOnly
      ? [locals, stateTensors(replica.slots).length]
      : [[...replica.cloneState(), ...locals], 0];
    const upload = new SnapshotUpload(values, this.#link, step, sequence, first);
    this.#upload = upload;
    upload.run().catch((error: unknown) => {
      upload.cancel();
      this.#options.logger.warn('snapshot.failed', { step }, String(error));
    });
  }

  /** Once a step. */
  #tellHash(): void {
    const step = this.#step;
    if (step === this.#toldStep) return;
    this.#toldStep = step;
    this.#link.send({ kind: 'stateHash', step, weightsSha256: this.#running().replica.weightsSha256() });
  }

  #output(step: number): StepOutput {
    return {
      allocate: (byteLength) => this.#pool.take(byteLength),
      contribution: (slot, codec, bytes) =>
        this.#link.sendTensor({ stream: 'contribution', step, round: 0, tensor: slot.index, codec }, bytes),
      sketch: (slot, round, values) =>
        this.#link.sendTensor(
          { stream: 'sketch', step, round, tensor: slot.index, codec: 'f32' },
          bytesOf(values),
        ),
    };
  }

  // ---- helpers ----

  #running(): { config: RunConfig; shape: RunShape; replica: Replica; model: Model } {
    if (this.#run === null) throw new Error('a message came before the Welcome was accepted');
    const { config, shape } = this.#run;
    return { config, shape, replica: this.#replica!, model: this.#model! };
  }

  /**
   * The step was committed without us. An empty, late contribution tells the coordinator that we are
   * done with it and can take part in the next one.
   */
  #giveUpWork(): void {
    const step = this.#work?.task.step;
    const isUnanswered = this.#work?.isAnswered === false;
    this.#dropWork();
    if (isUnanswered) this.#link.send({ kind: 'contribution', step: step!, tokens: 0, lossSum: 0 });
  }

  #dropWork(): void {
    this.#work?.dispose();
    this.#work = null;
    this.#workSeconds = 0;
    this.#refresh.clear();
  }

  #dropState(): void {
    this.#dropWork();
    this.#kept.dispose();
    this.#replica?.dispose();
    this.#replica = null;
    this.#model = null;
  }

  /** What `galore bench wan` reads. */
  #sayWhenItWas(): void {
    const times = this.#times.take();
    if (times === null) return;
    const text = `step ${this.#step} took ${times.busySeconds.toFixed(3)} s of work`;
    this.#options.logger.debug('trainer.step', { step: this.#step, ...times }, text);
  }

  /** For people, and for comparing trainers: equal weights have equal hashes. */
  #sayWhereItEnds(): void {
    if (this.#replica === null) return;
    const weightsSha256 = Buffer.from(this.#replica.weightsSha256()).toString('hex');
    const text = `the weights after step ${this.#step} have SHA-256 ${weightsSha256}`;
    this.#options.logger.info('trainer.weights', { step: this.#step, weightsSha256 }, text);
  }

  #activity(activity: string): void {
    this.#link.setActivity({ activity });
    this.#options.onActivity?.(activity);
  }
}

/** Of all processes of a machine alike, to a fraction of a millisecond. */
function nowMs(): number {
  return performance.timeOrigin + performance.now();
}

/** What all trainers have, and what is this one's alone, by their names in the two tables. */
function splitState(values: ReadonlyMap<string, StateArray>): {
  readonly shared: ReadonlyMap<string, StateArray>;
  readonly local: ReadonlyMap<string, StateArray>;
} {
  const isLocal = (name: string): boolean => name.startsWith(LOCAL_PREFIX);
  return {
    shared: new Map([...values].filter(([name]) => !isLocal(name))),
    local: new Map(
      [...values].flatMap(([name, array]) =>
        isLocal(name) ? [[name.slice(LOCAL_PREFIX.length), array] as const] : [],
      ),
    ),
  };
}
