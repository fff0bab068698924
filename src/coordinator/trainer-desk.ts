/**
 * The connected trainers: lets them in, brings them up to date, and turns what they send into facts.
 * Which trainer takes part in what is the core's business.
 */
import type { RunConfig } from '../config/schema.ts';
import { CheckpointError } from '../errors.ts';
import { protocolError } from '../protocol/checks.ts';
import type { Logger } from '../log.ts';
import { CLOSE_CODES, type CloseReason } from '../protocol/close-codes.ts';
import type { HelloMessage, Message, ReadyMessage, SnapshotProgress } from '../protocol/messages.ts';
import { codecsInUse } from '../protocol/slot-sizes.ts';
import { admit } from './admission.ts';
import type { CheckpointDesk } from './checkpoint-desk.ts';
import type { Connection } from './connection.ts';
import type { Dispatch } from './dispatch.ts';
import type { Doorkeeper } from './doorkeeper.ts';
import type { EvaluationDesk } from './evaluation-desk.ts';
import { feedTrainer, snapshotHeader } from './feed.ts';
import { FeedGate } from './feed-gate.ts';
import type { PreparedRun } from './prepare-run.ts';
import { Session } from './session.ts';
import type { StepDesk } from './step-desk.ts';
import type { OpenCheckpoint } from './store/checkpoint.ts';
import { RateLimiter } from '../rate-limiter.ts';
import { SOFTWARE } from '../software.ts';
import { MAX_SITE_WEIGHT } from './weights.ts';

/** Sizes that a trainer's last heartbeat told. */
export interface TrainerSizes {
  readonly residentBytes: number;
  readonly tensorCount: number;
}

/** All trainers of a run may join at once, and once more, before joins_per_second counts. */
const LEAST_BURST = 64;

/** What trainers are told of a run. */
export type ServedRun = Pick<
  PreparedRun,
  'runId' | 'config' | 'shape' | 'schemaHash' | 'journal' | 'modelJson' | 'site'
>;

/** What the desk needs of its surroundings. */
export interface TrainerSurroundings {
  readonly steps: StepDesk;
  readonly evaluations: Pick<EvaluationDesk, 'accept' | 'forget'>;
  readonly checkpoints: CheckpointDesk;
  readonly doorkeeper: Pick<Doorkeeper, 'judge' | 'judgeAgain'>;
  /** Why a gateway is not taken; null: it is. */
  readonly gatewayFault: (
    hello: HelloMessage,
  ) => { readonly reason: CloseReason; readonly text: string } | null;
  readonly dispatch: Dispatch;
  /** The last one. */
  readonly committedStep: () => number;
  /** Gives a connection its trainer id; an older one with the same id is closed. */
  readonly adopt: (connection: Connection, trainerId: string) => void;
  readonly onFailure: (error: unknown) => void;
  /** Monotonic. */
  readonly nowMs: () => number;
  /** See GateSurroundings. */
  readonly pause: (durationMs: number) => Promise<void>;
  readonly logger: Logger;
}

/** What trainers are told of the configuration: how the door is guarded is none of their business. */
function withoutDoor(config: RunConfig): object {
  const { auth: _, tls: __, limits: ___, ...coordinator } = config.coordinator;
  return { ...config, coordinator };
}

export class TrainerDesk {
  readonly #run: ServedRun;
  readonly #around: TrainerSurroundings;
  readonly #sessions = new Map<string, Session>();
  /** By token. Each costs the reading of a checkpoint, or of records. */
  readonly #joins: RateLimiter;
  readonly #sizes = new Map<string, TrainerSizes>();
  readonly #gate: FeedGate;

  constructor(run: ServedRun, around: TrainerSurroundings) {
    this.#run = run;
    this.#around = around;
    const { limits, max_trainers: maxTrainers } = run.config.coordinator;
    const rate = { burst: Math.max(maxTrainers, LEAST_BURST), perSecond: limits.joins_per_second };
    this.#joins = new RateLimiter(rate, around.nowMs);
    const isBusy = (): boolean => [...this.#sessions.values()].some(({ hasLiveBacklog }) => hasLiveBacklog);
    this.#gate = new FeedGate({ isBusy, nowMs: around.nowMs, pause: around.pause });
  }

  get(trainerId: string): Session | undefined {
    return this.#sessions.get(trainerId);
  }

  /** Every connected trainer. */
  sessions(): Iterable<Session> {
    return this.#sessions.values();
  }

  /** What the trainers' last heartbeats told, ascending by id. */
  sizes(): Readonly<Record<string, TrainerSizes>> {
    return Object.fromEntries([...this.#sizes].sort(([a], [b]) => (a < b ? -1 : 1)));
  }

  /** Handles a checked message. @throws ProtocolError when it does not fit what was asked for */
  receive(connection: Connection, message: Message): void {
    if (message.kind === 'hello') return this.#welcome(connection, message);
    const session = connection.trainerId === null ? undefined : this.#sessions.get(connection.trainerId);
    if (session?.connection === connection) this.#receiveFrom(session, message);
  }

  /** A connection is gone. */
  closed(connection: Connection, code: number, reason: string): void {
    const { trainerId } = connection;
    if (trainerId === null || this.#sessions.get(trainerId)?.connection !== connection) return;
    this.#forget(trainerId);
    const text = `${reason || 'the connection ended'} (${code})`;
    this.#around.logger.info('trainer.lost', { trainer: trainerId, code }, `${trainerId} left: ${text}`);
    const isRefused = code === CLOSE_CODES.INVALID_CONTRIBUTION.code;
    this.#around.dispatch({ type: 'trainerLost', trainerId, reason: isRefused ? reason : text, isRefused });
  }

  /** Closes a trainer's connection; nothing more is reported of it. */
  close(trainerId: string, reason: CloseReason, text: string): void {
    const session = this.#sessions.get(trainerId);
    this.#forget(trainerId);
    this.#around.logger.warn('trainer.closed', { trainer: trainerId, reason }, `${trainerId}: ${text}`);
    session?.connection.close(reason, text);
  }

  /** Closes the connections of those who may not be here any more: their tokens were revoked, or have expired. */
  judgeAgain(): void {
    const { doorkeeper, dispatch } = this.#around;
    for (const { trainerId, tokenId } of [...this.#sessions.values()]) {
      const verdict = doorkeeper.judgeAgain(tokenId);
      if (verdict.isValid) continue;
      this.close(trainerId, verdict.reason, verdict.text);
      dispatch({ type: 'trainerLost', trainerId, reason: verdict.text });
    }
  }

  #receiveFrom(session: Session, message: Message): void {
    const { steps, evaluations, checkpoints, dispatch } = this.#around;
    const { trainerId } = session;
    switch (message.kind) {
      case 'ready':
        this.#noteExamples(session, message);
        session.readySequence = message.sequence;
        return this.#reportReady(session);
      case 'heartbeat': {
        const { residentBytes, tensorCount } = message;
        this.#sizes.set(trainerId, { residentBytes, tensorCount });
        return dispatch({ type: 'trainerSeen', trainerId });
      }
      case 'capacity':
        this.#checkGateway(session, message.kind);
        return dispatch({ type: 'capacityTold', trainerId, trainers: message.trainers });
      case 'part':
        if (message.stream === 'snapshot') return checkpoints.acceptPart(session, message);
        return steps.acceptPart(trainerId, message);
      case 'sketch': {
        const norm = steps.acceptSketch(trainerId, message);
        const { step, round, tokens } = message;
        const told = norm === undefined ? {} : { norm };
        return dispatch({ type: 'sketchReceived', trainerId, step, round, tokens, ...told });
      }
      case 'factor': {
        const slots = steps.acceptFactor(trainerId, message);
        const { step, round } = message;
        return dispatch({ type: 'factorReceived', trainerId, step, round, slots });
      }
      case 'contribution': {
        if (message.members !== undefined) this.#checkGateway(session, 'a sum of contributions');
        const norm = steps.acceptContribution(trainerId, message);
        const { step, tokens, isLossWithheld, members } = message;
        const lossSum = isLossWithheld === true ? null : message.lossSum;
        const used = members === undefined ? {} : { used: members.flatMap(({ positions }) => positions) };
        const told = { ...steps.weightOf(message), ...(norm === undefined ? {} : { norm }), ...used };
        return dispatch({ type: 'contributionReceived', trainerId, step, tokens, lossSum, ...told });
      }
      case 'evaluation':
        return evaluations.accept(trainerId, message);
      case 'stateHash': {
        const weightsSha256 = Buffer.from(message.weightsSha256).toString('hex');
        return dispatch({ type: 'stateHashReceived', trainerId, step: message.step, weightsSha256 });
      }
      case 'snapshotEnd':
        return checkpoints.acceptEnd(session);
      default:
        return; // a Goodbye: the close frame behind it tells the rest
    }
  }

  /** @throws ProtocolError for what a gateway alone may send */
  #checkGateway({ trainerId, isGateway }: Session, what: string): void {
    if (!isGateway)
      throw protocolError('UNEXPECTED_MESSAGE', `${what} from ${trainerId}, which is no gateway`);
  }

  #welcome(connection: Connection, hello: HelloMessage): void {
    const { runId, config, shape, schemaHash, journal } = this.#run;
    const { logger, dispatch, doorkeeper, onFailure } = this.#around;
    const { trainerId } = hello;
    const present = this.#sessions.get(trainerId);
    const isReplacement = present !== undefined;
    const answer = admit(hello, {
      runId,
      runName: config.name,
      schemaHash,
      judge: (token) => doorkeeper.judge(token),
      codecs: codecsInUse(shape.sizes),
      presentTokenId: present?.tokenId,
      mayJoin: (tokenId) => this.#joins.take(tokenId ?? ''),
      trainerCount: this.#sessions.size - (isReplacement ? 1 : 0),
      maxTrainers: config.coordinator.max_trainers,
      digestOf: (sequence) => journal.digestOf(sequence),
      gatewayFault: () => this.#around.gatewayFault(hello),
    });
    if (!answer.isAdmitted) {
      logger.warn(
        'trainer.refused',
        { trainer: trainerId, reason: answer.reason },
        `${trainerId}: ${answer.text}`,
      );
      return connection.close(answer.reason, answer.text);
    }
    this.#around.adopt(connection, trainerId);
    if (isReplacement) this.#forget(trainerId);
    const session = new Session(trainerId, connection, onFailure, answer.tokenId);
    session.isGateway = hello.isGateway === true;
    this.#sessions.set(trainerId, session);
    const fields = {
      trainer: trainerId,
      address: connection.remoteAddress,
      token: answer.tokenId ?? undefined,
    };
    logger.info('trainer.joined', fields, `${trainerId} joined`);
    dispatch({ type: 'trainerJoined', trainerId });
    session.enqueue(() => this.#bringUpToDate(session, answer.version, answer.heldSequence, hello.snapshot));
  }

  async #bringUpToDate(
    session: Session,
    protocolVersion: number,
    heldSequence: number | null,
    progress: SnapshotProgress | null,
  ): Promise<void> {
    const { runId, config, schemaHash, journal, modelJson } = this.#run;
    const { checkpoints } = this.#around;
    let snapshot: OpenCheckpoint | null = null;
    let firstTensor = 0;
    try {
      if (heldSequence === null && progress !== null) {
        snapshot = await checkpoints.openContinued(progress);
        firstTensor = snapshot === null ? 0 : Math.min(progress.tensors, snapshot.tensors.length);
      }
      if (heldSequence === null) snapshot ??= await checkpoints.openNewest();
      // Behind a checkpoint that is older than the run, what a trainer kept is not what it would have by now.
      if (snapshot?.step === this.#around.committedStep()) await snapshot.includeFeedback(session.trainerId);
    } catch (error) {
      // The trainers that have the state can go on, and give a good checkpoint, without this one.
      const others = [...this.#sessions.values()].filter((other) => other !== session);
      if (!(error instanceof CheckpointError) || !others.some(({ isUpToDate }) => isUpToDate)) throw error;
      this.#around.logger.error('trainer.joining', { trainer: session.trainerId }, error.message);
      return session.connection.close('INTERNAL_ERROR', 'there is no good checkpoint to join from now');
    }
    session.connection.send({
      kind: 'welcome',
      protocolVersion,
      runId,
      runName: config.name,
      configJson: JSON.stringify(withoutDoor(config)),
      modelJson,
      schemaHash,
      heartbeatIntervalMs: config.coordinator.heartbeat_interval_ms,
      heartbeatTimeoutMs: config.coordinator.heartbeat_timeout_ms,
      snapshot:
        snapshot === null
          ? null
          : snapshotHeader(snapshot, firstTensor, session.trainerId, session.isGateway),
      ...(this.#run.site === null ? {} : { site: this.#run.site }),
      software: SOFTWARE,
    });
    const nextSequence = (snapshot?.run.sequence ?? heldSequence ?? 0) + 1;
    const plan = { snapshot, firstTensor, nextSequence };
    await feedTrainer(session.connection, plan, journal, this.#gate, (sequence) => {
      session.liveSequence = sequence;
    });
    this.#reportReady(session);
  }

  #reportReady(session: Session): void {
    const { trainerId, readySequence, examples } = session;
    if (!session.isUpToDate || this.#sessions.get(trainerId) !== session) return;
    const told = examples === null ? {} : { examples };
    this.#around.dispatch({ type: 'trainerReady', trainerId, sequence: readySequence, ...told });
  }

  /** @throws ProtocolError if it says nothing of its size where shares go by it, or what cannot be */
  #noteExamples(session: Session, { examples }: ReadyMessage): void {
    if (this.#run.config.coordinator.sharding !== 'examples') return;
    if (examples === undefined || !Number.isInteger(examples) || examples < 1 || examples > MAX_SITE_WEIGHT) {
      const given = examples === undefined ? 'no examples are' : `examples ${examples} is`;
      const text = `${given} told, but a step is shared out by the examples of sites: 1 to ${MAX_SITE_WEIGHT}`;
      throw protocolError('MALFORMED_MESSAGE', text);
    }
    session.examples = examples;
  }

  #forget(trainerId: string): void {
    this.#sessions.delete(trainerId);
    this.#sizes.delete(trainerId);
    this.#around.evaluations.forget(trainerId);
    this.#around.steps.forget(trainerId);
  }
}
