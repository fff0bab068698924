/**
 * The gateway process: a trainer to the coordinator, a coordinator to the trainers near it. Turns what comes from both
 * sides into events for core/advance-gateway.ts and carries out the effects. Records are passed on as they come, the
 * same bytes; what trainers send is summed here and sent once. SHELL.
 */
import { randomInt } from 'node:crypto';
import { existsSync } from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { join } from 'node:path';
import { setImmediate, setTimeout as sleep } from 'node:timers/promises';
import { floatsOf } from '../array-bytes.ts';
import { systemClock } from '../clock.ts';
import type { RunConfig } from '../config/schema.ts';
import type { Fact } from '../coordinator/dispatch.ts';
import { CheckpointDesk } from '../coordinator/checkpoint-desk.ts';
import { Doorkeeper } from '../coordinator/doorkeeper.ts';
import { CoordinatorServer } from '../coordinator/server.ts';
import { SpillFile } from '../coordinator/spill-file.ts';
import { StepDesk } from '../coordinator/step-desk.ts';
import { TrainerDesk } from '../coordinator/trainer-desk.ts';
import { deferred } from '../deferred.ts';
import { hasLocalState } from '../galore/feedback/local-state.ts';
import { withRanks } from '../galore/slot.ts';
import { stateTensors } from '../galore/state-table.ts';
import { collectGrownHeap } from '../heap.ts';
import { createChangeLogger } from '../log.ts';
import { protocolError } from '../protocol/checks.ts';
import type { CloseReason } from '../protocol/close-codes.ts';
import type {
  CommitMessage,
  EvaluationMessage,
  Message,
  Sequences,
  StepAssignmentMessage,
  WelcomeMessage,
} from '../protocol/messages.ts';
import { ranksIn } from '../protocol/slot-sizes.ts';
import { targetsOfSequence } from '../run-shape.ts';
import { SOFTWARE } from '../software.ts';
import type { LinkEvent, LinkMessage } from '../trainer/link.ts';
import { understand, type WelcomedRun } from '../trainer/welcomed-run.ts';
import { pathOf } from '../view/paths.ts';
import { probeAnswer } from '../view/probes.ts';
import { summedContribution, summedEvaluation } from './answers.ts';
import type { GatewayOptions, GatewayResult, RunningGateway } from './api.ts';
import { advanceGateway, initialGateway } from './core/advance-gateway.ts';
import type { GatewayEffect, GatewayEvent, GatewayState } from './core/gateway-state.ts';
import { checkGatewayExposure } from './exposure.ts';
import { LeaderLink, type LeaderItem } from './leader-link.ts';
import { Mirror } from './mirror.ts';
import { selectSequences } from './split-sequences.ts';

const MIB = 1024 * 1024;
const TICK_INTERVAL_MS = 200;
const HANDSHAKE_TIMEOUT_MS = 10_000;
const HEARTBEAT = { intervalMs: 5_000, timeoutMs: 30_000 } as const;
/** Of a snapshot, given to the connection ahead of what has left. */
const AHEAD_BYTES = 4 * MIB;
const MAX_UNDELIVERED_BYTES = 512 * MIB;

/** As coordinator.limits has them where nothing is said. */
const LIMITS: RunConfig['coordinator']['limits'] = {
  connections: 256,
  connections_per_address: 128,
  handshakes_per_second: 128,
  joins_per_second: 4,
  messages_per_second: 10_000,
  unsent_memory: 256,
};

/** Ends that are no failure. */
const GOOD_ENDS: readonly CloseReason[] = ['RUN_FINISHED', 'LEAVING'];

type EffectOf<T extends GatewayEffect['type']> = Extract<GatewayEffect, { type: T }>;
type GatewayFact = GatewayEvent extends infer E ? (E extends GatewayEvent ? Omit<E, 'nowMs'> : never) : never;

/** See StartGateway. */
export async function startGateway(options: GatewayOptions): Promise<RunningGateway> {
  const { listen, doorTls, tokensPath, isInsecure, dir, logger } = options;
  const tokens = tokensPath ?? join(dir, 'tokens.json');
  checkGatewayExposure({
    ...{ host: listen.host, isInsecure, hasTls: doorTls !== undefined },
    hasTokens: tokensPath !== undefined || existsSync(tokens),
  });
  const auth = tokensPath === undefined ? {} : { tokens: tokensPath };
  const door = { host: listen.host, auth, insecure: isInsecure, tls: doorTls };
  const doorkeeper = await Doorkeeper.open({ dir, coordinator: door }, logger);
  if (doorkeeper.warning !== null) logger.warn('gateway.open', { host: listen.host }, doorkeeper.warning);
  const mirror = await Mirror.open(dir, logger);
  try {
    return await new Gateway(options, mirror, doorkeeper).listen();
  } catch (error) {
    await mirror.close();
    throw error;
  }
}

/** What there is once the gateway has the state of a run. */
interface Served {
  readonly run: WelcomedRun;
  readonly welcome: WelcomeMessage;
  readonly trainers: TrainerDesk;
  readonly steps: StepDesk;
  readonly checkpoints: CheckpointDesk;
  readonly spillFile: SpillFile;
}

class Gateway {
  readonly #options: GatewayOptions;
  readonly #mirror: Mirror;
  readonly #doorkeeper: Doorkeeper;
  readonly #link: LeaderLink;
  readonly #finished = deferred<GatewayResult>();
  readonly #logNote: (text: string | null) => void;
  #server!: CoordinatorServer;
  #served: Served | null = null;
  #state: GatewayState;
  #welcome: { readonly run: WelcomedRun; readonly message: WelcomeMessage } | null = null;
  readonly #facts: GatewayFact[] = [];
  #isDispatching = false;
  #isEnding = false;
  #ticker: NodeJS.Timeout | null = null;
  /** Parts of the record that is on its way, and those of it that sessions were given (Session.framesAhead). */
  #recordFrames: Uint8Array[] = [];
  /** Of the round before, for the members of a step. */
  #factorFrames: Uint8Array[] = [];
  #assignment: StepAssignmentMessage | null = null;
  #sketchSeed = 0;
  /** By the number of the core's job. */
  readonly #heldOut = new Map<number, Sequences | null>();
  #newestHeldOut: Sequences | null = null;
  /** Tokens that each trainer may declare for the held-out sequences it was given, in that order. */
  readonly #mostTokens = new Map<string, number[]>();
  #upload: { readonly step: number; readonly sequence: number; isOver: boolean } | null = null;

  constructor(options: GatewayOptions, mirror: Mirror, doorkeeper: Doorkeeper) {
    const { url, gatewayId, runName, token, tls, logger } = options;
    this.#options = options;
    this.#mirror = mirror;
    this.#doorkeeper = doorkeeper;
    this.#logNote = createChangeLogger(logger, 'gateway.note');
    this.#state = initialGateway({ sequence: 0, committedStep: 0, hashEvery: 0, nowMs: this.#nowMs() });
    this.#link = new LeaderLink(
      {
        ...{ url, trainerId: gatewayId, runName, token, tls: tls ?? {}, software: SOFTWARE },
        ...{ device: 'gateway', schemaHash: new Uint8Array(0), handshakeTimeoutMs: HANDSHAKE_TIMEOUT_MS },
        ...{ maxUndeliveredBytes: MAX_UNDELIVERED_BYTES, held: mirror.held, ranks: mirror.ranks },
      },
      logger,
    );
  }

  async listen(): Promise<RunningGateway> {
    const { listen, logger } = this.#options;
    const { certificates: tls, asksForTokens } = this.#doorkeeper;
    this.#server = await CoordinatorServer.listen(
      {
        ...{ host: listen.host, port: listen.port, tls, logger },
        handshakeTimeoutMs: HANDSHAKE_TIMEOUT_MS,
        heartbeatIntervalMs: HEARTBEAT.intervalMs,
        heartbeatTimeoutMs: HEARTBEAT.timeoutMs,
        maxConnections: LIMITS.connections,
        maxConnectionsPerAddress: LIMITS.connections_per_address,
        maxHandshakesPerSecond: LIMITS.handshakes_per_second,
        maxMessagesPerSecond: LIMITS.messages_per_second,
        maxUnsentBytes: LIMITS.unsent_memory * MIB,
      },
      {
        onMessage: (connection, message) => {
          if (this.#served !== null) return this.#served.trainers.receive(connection, message);
          connection.close('COORDINATOR_STOPPING', 'this gateway has no state of a run yet: try again');
        },
        onClose: (connection, code, reason) => this.#served?.trainers.closed(connection, code, reason),
        onFatal: (error) => this.#fail(error),
        onRequest: (request, response) => this.#respond(request, response),
      },
    );
    this.#doorkeeper.watch({
      onLook: () => this.#served?.trainers.judgeAgain(),
      onCertificates: (texts) => this.#server.renewCertificates(texts),
    });
    this.#ticker = setInterval(() => {
      collectGrownHeap();
      this.#dispatch({ type: 'ticked' });
    }, TICK_INTERVAL_MS);
    this.#link.start();
    void this.#follow();
    const link = this.#link;
    return {
      url: this.#server.url,
      asksForTokens,
      finished: this.#finished.promise,
      stop: () => link.leave('the gateway was asked to leave'),
      get bytesSent() {
        return link.bytesSent;
      },
      get bytesReceived() {
        return link.bytesReceived;
      },
    };
  }

  /** A gateway has no page: the run's is the coordinator's. */
  #respond(request: IncomingMessage, response: ServerResponse): void {
    const isReady = this.#served !== null && this.#state.isUp;
    const answer = probeAnswer(pathOf(request), isReady ? null : 'not ready');
    const { status, text } = answer ?? { status: 404, text: 'not found' };
    response.writeHead(status, { 'content-type': 'text/plain' }).end(`${text}\n`);
  }

  // ---- from the coordinator ----

  async #follow(): Promise<void> {
    try {
      for await (const item of this.#link.items()) await this.#take(item);
    } catch (error) {
      this.#fail(error);
    }
  }

  async #take(item: LeaderItem): Promise<void> {
    if (item.type === 'frame') return this.#takeFrame(item.message, item.frame);
    const { event } = item;
    switch (event.type) {
      case 'connected':
        return await this.#connected(event.welcome);
      case 'tensor': {
        const { stream, tensor, bytes } = event.tensor;
        if (stream === 'snapshot') return await this.#mirror.writeTensor(tensor, bytes);
        if (stream === 'sketchSum') this.#served?.steps.takeSum(tensor, floatsOf(bytes));
        return;
      }
      case 'snapshotEnd':
        return await this.#snapshotCame();
      case 'record':
        return await this.#recordCame(event.commit);
      case 'message':
        return this.#obey(event.message);
      case 'stateDiscarded':
        await this.#stopServing('STATE_DIVERGED', 'the coordinator calls the state of this gateway wrong');
        return await this.#mirror.clear();
      case 'disconnected':
        return this.#disconnected(event.reason);
      case 'closed':
        return await this.#closed(event);
      default:
        event satisfies never;
    }
  }

  async #connected(welcome: WelcomeMessage): Promise<void> {
    if (welcome.software !== SOFTWARE) {
      const theirs = welcome.software ?? 'of a version that knows no gateways';
      const text = `the coordinator is ${theirs}, this gateway ${SOFTWARE}: both must be of one version`;
      return this.#link.refuse('PROTOCOL_VERSION', text);
    }
    const run = understand(welcome);
    if ('fault' in run) return this.#link.refuse('SCHEMA_MISMATCH', run.fault);
    this.#welcome = { run, message: welcome };
    if (run.snapshot !== null) {
      await this.#stopServing('COORDINATOR_STOPPING', 'this gateway gets the state of the run anew');
      await this.#mirror.beginSnapshot(run.snapshot, welcome.modelJson);
      this.#tell('receiving the state');
      return this.#link.accept(run.shape.sizes);
    }
    if (this.#served === null) this.#serve();
    this.#link.accept(run.shape.sizes);
    this.#dispatch({ type: 'leaderJoined' });
    this.#applied();
  }

  async #snapshotCame(): Promise<void> {
    const { run, message } = this.#welcome!;
    const { runId, config } = run;
    const { modelJson } = message;
    const ranks = ranksIn(run.snapshot!.tensors, run.shape.sizes);
    await this.#mirror.endSnapshot({ runId, name: config.name, seed: config.seed, modelJson }, ranks);
    this.#serve();
    this.#dispatch({ type: 'leaderJoined' });
    this.#applied();
  }

  /** Parts of records go on to those who have all before them, at once. */
  #takeFrame(message: Message, frame: Uint8Array): void {
    if (message.kind === 'commit') return void this.#recordFrames.push(frame);
    if (message.kind === 'updateWithdrawn') return this.#withdraw(message.step);
    if (message.kind !== 'part') return;
    if (message.stream === 'factor') return void this.#factorFrames.push(frame);
    if (message.stream !== 'update' && message.stream !== 'basis') return;
    const first = this.#recordFrames.length;
    this.#recordFrames.push(frame);
    for (const session of this.#served?.trainers.sessions() ?? []) {
      if (session.liveSequence === null || session.framesAhead !== first) continue;
      session.framesAhead++;
      session.sendFrames([frame]);
    }
  }

  /** The record that is on its way does not come, or comes anew. */
  #withdraw(step: number): void {
    this.#recordFrames = [];
    for (const session of this.#served?.trainers.sessions() ?? []) {
      if (session.framesAhead === 0) continue;
      session.framesAhead = 0;
      session.send({ kind: 'updateWithdrawn', step });
    }
  }

  async #recordCame(commit: CommitMessage): Promise<void> {
    const frames = this.#recordFrames;
    this.#recordFrames = [];
    await this.#mirror.append(frames, commit);
    const served = this.#served;
    if (served === null) return;
    const { sequence, step, record } = commit;
    for (const session of served.trainers.sessions()) {
      // One that is still being fed gets it from the disk.
      if (session.liveSequence === null || session.liveSequence >= sequence) continue;
      session.sendFrames(frames.slice(session.framesAhead));
      session.framesAhead = 0;
    }
    if (record.type === 'basis') {
      served.steps.setRanks(this.#mirror.ranks);
      served.steps.refreshCommitted();
    }
    this.#dispatch({ type: 'recordStored', sequence, step, kind: record.type });
    if (record.type === 'update') this.#tell(`step ${step} passed on`);
    this.#applied();
  }

  /** What is asked on a connection that was given up is void. */
  #obey(message: LinkMessage): void {
    if (!this.#state.isUp || this.#served === null) return;
    switch (message.kind) {
      case 'stepAssignment': {
        const { step, sequences, refreshSlots, deadlineMs } = message;
        this.#assignment = message;
        const positions = sequences?.positions ?? null;
        return this.#dispatch({ type: 'stepAssigned', step, positions, refreshSlots, deadlineMs });
      }
      case 'sketchRequest': {
        const { step, round, slots, seed } = message;
        this.#sketchSeed = seed;
        this.#dispatch({ type: 'sketchesAsked', step, round, slots });
        this.#factorFrames = [];
        return;
      }
      case 'factorAssignment': {
        const { step, round, slots, isFinal } = message;
        return this.#dispatch({ type: 'factorsAsked', step, round, slots, isFinal });
      }
      case 'evaluationAssignment': {
        const { step, sequences } = message;
        this.#newestHeldOut = sequences;
        const count = sequences?.positions.length ?? null;
        return this.#dispatch({ type: 'evaluationAsked', step, sequences: count });
      }
      case 'snapshotRequest': {
        const { step, sequence, isLocalOnly } = message;
        return this.#dispatch({ type: 'snapshotAsked', step, sequence, isLocalOnly });
      }
      case 'stepRejected':
        return this.#options.logger.info('step.rejected', { step: message.step }, message.reason);
      case 'notice':
        return this.#notice(message.text);
      default:
        message satisfies never;
    }
  }

  #disconnected(reason: string): void {
    this.#dispatch({ type: 'leaderLost', reason });
    this.#recordFrames = [];
    // Of a record that broke off, perhaps within a tensor, nothing can be taken back.
    for (const { framesAhead, connection } of this.#served?.trainers.sessions() ?? []) {
      if (framesAhead > 0) connection.close('COORDINATOR_STOPPING', `a record broke off: ${reason}`);
    }
    this.#factorFrames = [];
    if (this.#upload !== null) this.#upload.isOver = true;
    this.#upload = null;
    this.#notice(`the gateway is not connected to the coordinator: ${reason}`);
  }

  async #closed({ reason, text }: Extract<LinkEvent, { type: 'closed' }>): Promise<void> {
    const isGood = GOOD_ENDS.includes(reason);
    const [said, words]: [CloseReason, string] =
      reason === 'RUN_FINISHED' ? [reason, text] : ['COORDINATOR_STOPPING', `the gateway ends: ${text}`];
    await this.#shutDown(said, words);
    this.#finished.resolve({ code: isGood ? 0 : 3, reason: text });
  }

  /** Ready is said once there are trainers; before that the coordinator must not count on us. */
  #applied(): void {
    const { head } = this.#mirror;
    if (this.#state.toldCapacity > 0 && head !== null) this.#link.applied(head.sequence);
  }

  #notice(text: string): void {
    this.#tell(text);
    for (const session of this.#served?.trainers.sessions() ?? []) {
      if (session.liveSequence === null || session.lastNotice === text) continue;
      session.lastNotice = text;
      session.send({ kind: 'notice', text });
    }
  }

  #tell(activity: string): void {
    this.#link.setActivity(activity);
    this.#options.onActivity?.(activity);
  }

  // ---- the run that is passed on ----

  #serve(): void {
    const { run, message } = this.#welcome!;
    const { head, journal, verified, checkpointsDir, newest } = this.#mirror;
    if (head === null) throw new Error('assertion failed: there is no state to pass on');
    const { config, shape } = run;
    const { modelJson, schemaHash, site = null } = message;
    const { logger } = this.#options;
    const nowMs = (): number => this.#nowMs();
    const about = { runId: run.runId, shape, journal };
    const spillFile = new SpillFile(this.#mirror.path, createChangeLogger(logger, 'staging.full', 'warn'));
    const steps = new StepDesk(config, shape, randomInt(2 ** 32), null, spillFile);
    steps.setRanks(this.#mirror.ranks);
    const dispatch = (fact: Fact): void => this.#takeFact(fact);
    const texts = { configJson: modelJson };
    const checkpoint = { ...config.checkpoint, keep: 1 };
    const checkpoints = new CheckpointDesk(
      {
        ...{ ...about, config: { ...config, checkpoint }, dataset: null, baseSha256: '', texts },
        authority: null,
        ...{ checkpointsDir, newestCheckpoint: newest, verified },
      },
      { dispatch, onReport: () => {}, logger, nowMs },
    );
    // The rest of it is the coordinator's, so that trainers are told what it would tell them.
    const coordinator = { ...config.coordinator, limits: LIMITS, auth: {} };
    const trainers = new TrainerDesk(
      { ...about, config: { ...config, coordinator }, schemaHash, modelJson, site },
      {
        ...{ steps, checkpoints, dispatch, logger, nowMs, doorkeeper: this.#doorkeeper },
        evaluations: {
          accept: (trainerId, evaluation) => this.#takeEvaluation(trainerId, evaluation),
          forget: (trainerId) => void this.#mostTokens.delete(trainerId),
        },
        gatewayFault: () => ({ reason: 'WRONG_RUN', text: 'a gateway takes trainers, not gateways' }),
        committedStep: () => this.#state.committedStep,
        pause: (durationMs) => (durationMs === 0 ? setImmediate() : sleep(durationMs)),
        adopt: (connection, trainerId) => this.#server.admit(connection, trainerId),
        onFailure: (error) => this.#fail(error),
      },
    );
    if (shape.slots.some(hasLocalState)) {
      const text =
        'trainers of this run keep something of their gradients: checkpoints have none of it for those behind a gateway; start them with --state';
      logger.warn('gateway.local-state', {}, text);
    }
    const hashEvery = config.method.update_proj_gap;
    const at = { sequence: head.sequence, committedStep: head.step, hashEvery, nowMs: nowMs() };
    this.#state = initialGateway(at);
    this.#served = { run, welcome: message, trainers, steps, checkpoints, spillFile };
    this.#tell(`has the state of step ${head.step}`);
  }

  /** Its trainers join again. */
  async #stopServing(reason: CloseReason, text: string): Promise<void> {
    const served = this.#served;
    if (served === null) return;
    this.#served = null;
    for (const connection of this.#server.connections) connection.close(reason, text);
    this.#recordFrames = [];
    this.#facts.length = 0;
    await served.checkpoints.close();
    served.spillFile.close();
  }

  // ---- from trainers ----

  #takeFact(fact: Fact): void {
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
        return this.#dispatch(fact);
      case 'checkpointFailed':
        this.#options.logger.warn('checkpoint.failed', { step: fact.step }, fact.reason);
        return this.#dispatch(fact);
      default:
        return; // nothing that a gateway acts on
    }
  }

  /** @throws ProtocolError for more tokens than it was given */
  #takeEvaluation(trainerId: string, { step, tokens, lossSum, correct }: EvaluationMessage): void {
    const most = this.#mostTokens.get(trainerId)?.shift() ?? 0;
    if (tokens > most) {
      const text = `${tokens} tokens are declared for the evaluation of step ${step} but only ${most} were assigned`;
      throw protocolError('INVALID_CONTRIBUTION', text);
    }
    const told = correct === undefined ? {} : { correct };
    this.#dispatch({ type: 'evaluationReceived', trainerId, step, tokens, lossSum, ...told });
  }

  // ---- the core ----

  #dispatch(fact: GatewayFact): void {
    this.#facts.push(fact);
    if (this.#isDispatching || this.#isEnding) return;
    this.#isDispatching = true;
    try {
      for (let next = this.#facts.shift(); next !== undefined; next = this.#facts.shift()) {
        const event = { ...next, nowMs: this.#nowMs() } as GatewayEvent;
        const { state, effects, note } = advanceGateway(this.#state, event);
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

  #perform(effect: GatewayEffect): void {
    const served = this.#served;
    if (served === null) return;
    const { trainers, steps, checkpoints } = served;
    switch (effect.type) {
      case 'assignStep':
        return this.#assignStep(effect, served);
      case 'requestSketches':
        return this.#requestSketches(effect, served);
      case 'assignFactors':
        return this.#assignFactors(effect, served);
      case 'assignEvaluation':
        return this.#assignEvaluation(effect, served);
      case 'requestSnapshot':
        return this.#requestSnapshot(effect, served);
      case 'rejectStep': {
        const { trainerId, step, reason } = effect;
        return trainers.get(trainerId)?.send({ kind: 'stepRejected', step, reason });
      }
      case 'closeConnection':
        if (effect.reason === 'STATE_DIVERGED') checkpoints.distrust();
        return trainers.close(effect.trainerId, effect.reason, effect.text);
      case 'tellCapacity':
        this.#link.send({ kind: 'capacity', trainers: effect.trainers });
        return this.#applied();
      case 'sendSketches':
        return this.#sendSketches(effect, steps);
      case 'sendFactors':
        return this.#sendFactors(effect, steps);
      case 'sendContribution':
        return this.#sendContribution(effect, served);
      case 'sendEvaluation':
        this.#heldOut.delete(effect.job);
        return this.#link.send(summedEvaluation(effect.step, effect.parts));
      case 'sendHash': {
        const weightsSha256 = new Uint8Array(Buffer.from(effect.weightsSha256, 'hex'));
        return this.#link.send({ kind: 'stateHash', step: effect.step, weightsSha256 });
      }
      case 'sendSnapshot':
        return void this.#sendSnapshot(effect, served).catch((error: unknown) => this.#fail(error));
      case 'endSnapshot':
        return this.#endSnapshot(effect);
      case 'reconnect':
        this.#options.logger.warn('gateway.reconnect', {}, effect.text);
        return this.#link.reconnect(effect.text);
      case 'writeCheckpoint': {
        const { step, trainerId } = effect;
        const told = this.#state.hashes?.step === step ? this.#state.hashes.told : [];
        const weightsSha256 = told.find((each) => each.trainerId === trainerId)?.weightsSha256 ?? null;
        return checkpoints.write({ type: effect.type, step, trainerIds: [trainerId], weightsSha256 });
      }
      case 'abandonCheckpoint':
        return void checkpoints.abandon();
      case 'discardStaged':
        return steps.discard();
      default:
        effect satisfies never;
    }
  }

  #assignStep({ trainerId, step, positions }: EffectOf<'assignStep'>, { trainers, steps }: Served): void {
    const assignment = this.#assignment!;
    const { sequences: all, refreshSlots, flushSlots } = assignment;
    steps.assigned({ type: 'assignStep', trainerId, step, positions, refreshSlots, waitMs: 0 }, flushSlots);
    const places = new Map(all?.positions.map((position, place) => [position, place]));
    const sequences =
      all &&
      selectSequences(
        all,
        positions.map((position) => places.get(position)!),
      );
    trainers.get(trainerId)?.send({ ...assignment, sequences });
  }

  #requestSketches(effect: EffectOf<'requestSketches'>, { trainers, steps }: Served): void {
    const { trainerIds, step, round, slots } = effect;
    steps.beginRound({ type: 'requestSketches', trainerIds, step, round, slots, jobs: [] });
    for (const trainerId of trainerIds) {
      const session = trainers.get(trainerId);
      session?.sendFrames(this.#factorFrames);
      session?.send({ kind: 'sketchRequest', step, round, slots, seed: this.#sketchSeed });
    }
  }

  #sendSketches({ step, round, received }: EffectOf<'sendSketches'>, steps: StepDesk): void {
    const tokens = received.reduce((sum, each) => sum + each.tokens, 0);
    if (tokens > 0) {
      steps.sumSketches({ type: 'sumSketches', step, round, weights: received });
      for (const { tensor, codec, bytes } of steps.sketchSums()) {
        this.#link.sendTensor({ stream: 'sketch', step, round, tensor, codec }, bytes);
      }
    }
    this.#link.send({ kind: 'sketch', step, round, tokens });
  }

  #assignFactors(effect: EffectOf<'assignFactors'>, { trainers, steps }: Served): void {
    const { trainerId, step, round, isFinal } = effect;
    const { slots, frames } = steps.beginJob(effect);
    const session = trainers.get(trainerId);
    session?.sendFrames(frames);
    session?.send({ kind: 'factorAssignment', step, round, slots, isFinal });
  }

  #sendFactors({ step, round, jobs }: EffectOf<'sendFactors'>, steps: StepDesk): void {
    const { tensors, zeroSlots, similarities } = steps.settleFactors(jobs);
    for (const { tensor, codec, bytes } of tensors) {
      this.#link.sendTensor({ stream: 'factor', step, round, tensor, codec }, bytes.slice());
    }
    const slots = tensors.map(({ tensor }) => tensor);
    this.#link.send({ kind: 'factor', step, round, slots, zeroSlots, similarities });
  }

  #sendContribution({ step, received, shards }: EffectOf<'sendContribution'>, { steps, run }: Served): void {
    if (received.length > 0) {
      for (const { tensor, codec, bytes } of steps.sumContributions(
        this.#options.gatewayId,
        step,
        received,
      )) {
        this.#link.sendTensor({ stream: 'contribution', step, round: 0, tensor, codec }, bytes);
      }
    }
    const isWeighed = run.config.local_steps.weighting !== 'targets';
    this.#link.send(summedContribution(step, received, shards, isWeighed));
  }

  #assignEvaluation(effect: EffectOf<'assignEvaluation'>, { trainers, run }: Served): void {
    const { trainerId, job, step, sequences: places } = effect;
    if (!this.#heldOut.has(job)) this.#heldOut.set(job, this.#newestHeldOut);
    const all = this.#heldOut.get(job) ?? null;
    const most = places === null ? Infinity : places.length * targetsOfSequence(run.config);
    this.#mostTokens.set(trainerId, [...(this.#mostTokens.get(trainerId) ?? []), most]);
    const sequences = all === null || places === null ? null : selectSequences(all, places);
    trainers.get(trainerId)?.send({ kind: 'evaluationAssignment', step, sequences });
  }

  #requestSnapshot({ trainerId, step, sequence }: EffectOf<'requestSnapshot'>, served: Served): void {
    const { trainers, checkpoints } = served;
    if (this.#upload !== null) this.#endSnapshot(this.#upload);
    const session = trainers.get(trainerId);
    if (session === undefined) return;
    const { bases } = this.#mirror;
    const cursor = { next: 0, returned: [] };
    const effect = { trainerId, step, sequence, cursor, refreshedStep: 0, bases };
    checkpoints.request({ type: 'requestSnapshot', ...effect }, session, [], this.#mirror.counted);
  }

  /** Reads the state back from the disk, as fast as it leaves. */
  async #sendSnapshot({ step, sequence }: EffectOf<'sendSnapshot'>, served: Served): Promise<void> {
    const upload = { step, sequence, isOver: false };
    this.#upload = upload;
    const checkpoint = await served.checkpoints.openNewest();
    if (checkpoint === null)
      throw new Error('assertion failed: the checkpoint that was written is not there');
    try {
      const places = new Map(checkpoint.tensors.map(({ name }, place) => [name, place]));
      const wanted = stateTensors(withRanks(served.run.shape.slots, this.#mirror.ranks));
      for (const [tensor, { name }] of wanted.entries()) {
        await this.#link.drained(AHEAD_BYTES);
        const place = places.get(name)!;
        const { totalBytes, dtype } = checkpoint.tensors[place]!;
        const bytes = await checkpoint.read(place, 0, totalBytes);
        if (upload.isOver) return;
        this.#link.sendTensor({ stream: 'snapshot', step, round: 0, tensor, codec: dtype }, bytes);
      }
    } finally {
      await checkpoint.close();
    }
    if (!upload.isOver) this.#endSnapshot(upload);
  }

  #endSnapshot({ step, sequence }: { readonly step: number; readonly sequence: number }): void {
    if (this.#upload?.step === step) {
      this.#upload.isOver = true;
      this.#upload = null;
    }
    this.#link.send({ kind: 'snapshotEnd', step, sequence, tensors: [] });
  }

  // ---- the end ----

  #fail(error: unknown): void {
    if (this.#isEnding) return;
    this.#link.leave('the gateway had an error and ends');
    const end = (): void => this.#finished.reject(error);
    this.#shutDown('INTERNAL_ERROR', 'the gateway had an error and ends').then(end, end);
  }

  async #shutDown(reason: CloseReason, text: string): Promise<void> {
    this.#isEnding = true;
    if (this.#ticker !== null) clearInterval(this.#ticker);
    this.#doorkeeper.close();
    await this.#server.close(reason, text);
    await this.#served?.checkpoints.close();
    this.#served?.spillFile.close();
    await this.#mirror.close();
  }

  #nowMs(): number {
    return systemClock.nowMs();
  }
}
