/**
 * The compute side's handle on the network thread. The socket, frames, Parts, heartbeats and
 * reconnects live in that thread (network-thread.ts), so a tensor operation that blocks this one for
 * minutes costs no connection. Here only whole tensors and checked messages arrive.
 */
import { Worker } from 'node:worker_threads';
import { ConfigError, type ConfigFault } from '../errors.ts';
import type { PemPaths } from '../files/pem.ts';
import type { Logger } from '../log.ts';
import { WORKER_YOUNG_GENERATION_MB } from '../heap.ts';
import type { CloseReason } from '../protocol/close-codes.ts';
import type {
  CapacityMessage,
  CommitMessage,
  EvaluationAssignmentMessage,
  EvaluationMessage,
  FactorAssignmentMessage,
  FactorMessage,
  NoticeMessage,
  SketchMessage,
  SketchRequestMessage,
  SnapshotEndMessage,
  SnapshotRequestMessage,
  StateHashMessage,
  StepAssignmentMessage,
  StepRejectedMessage,
  WelcomeMessage,
  ContributionMessage,
} from '../protocol/messages.ts';
import type { AssembledTensor, TensorHeader } from '../protocol/parts.ts';
import type { SlotSizes } from '../protocol/slot-sizes.ts';
import { MAX_NAME_LENGTH, TRAINER_ID_PATTERN } from '../protocol/limits.ts';
import { splitUrls } from './addresses.ts';
import type { AuditRow } from './audit.ts';
import type { FromThread, ThreadOptions, ToThread } from './thread-messages.ts';

export interface LinkOptions {
  /** `ws://` or `wss://`; several with commas between them. */
  readonly url: string;
  readonly trainerId: string;
  /** Empty: whatever run the coordinator has. */
  readonly runName?: string;
  readonly token?: string;
  /** PEM files: `ca` to trust in place of the system's authorities, `cert` and `key` to show. */
  readonly tls?: PemPaths | undefined;
  /** Name and version, for the coordinator's log. */
  readonly software?: string;
  /** What computes, for the coordinator's log; setActivity may change it later. */
  readonly device?: string;
  /** Hash of the slots of a model this trainer insists on. */
  readonly schemaHash?: Uint8Array;
  /** From the opening of a socket to the Welcome. Default 10 000. */
  readonly handshakeTimeoutMs?: number;
  /** Handed over and not yet taken by `events`: beyond it the socket is not read. Default 512 MiB. */
  readonly maxUndeliveredBytes?: number;
  /** Whether what leaves is counted by kind, see `audit`. */
  readonly isAudited?: boolean;
  readonly logger: Logger;
}

/** Messages that reach the compute side as they are. */
export type LinkMessage =
  | StepAssignmentMessage
  | SketchRequestMessage
  | FactorAssignmentMessage
  | EvaluationAssignmentMessage
  | SnapshotRequestMessage
  | StepRejectedMessage
  | NoticeMessage;

/** Messages the compute side sends. The checksum of a Contribution is filled in by the network thread. */
export type OutgoingMessage =
  | SketchMessage
  | FactorMessage
  | Omit<ContributionMessage, 'checksum'>
  | StateHashMessage
  | EvaluationMessage
  | CapacityMessage
  | Omit<SnapshotEndMessage, 'digest'>;

/** What happened, in order. */
export type LinkEvent =
  /**
   * The handshake passed. Answer with `accept` or `refuse`: nothing else comes before. (After a
   * reconnect to the same run with the same slots the thread goes on with the old answer; `accept` may be called again.) With
   * `welcome.snapshot` a whole new state follows and any half-received one is void; without it the
   * state at hand is good and records follow it.
   */
  | { readonly type: 'connected'; readonly welcome: WelcomeMessage }
  /** All tensors of the snapshot came before as `tensor` events of stream snapshot. Call `applied` when done. */
  | { readonly type: 'snapshotEnd'; readonly message: SnapshotEndMessage }
  /** A whole record with the right digest, the one after the state before. Call `applied` when done. */
  | {
      readonly type: 'record';
      readonly commit: CommitMessage;
      readonly tensors: readonly AssembledTensor[]; // ascending arrival
    }
  /** A whole tensor of stream snapshot, sketchSum or factor; `bytes` are the receiver's own. */
  | { readonly type: 'tensor'; readonly tensor: AssembledTensor }
  | { readonly type: 'message'; readonly message: LinkMessage }
  /** The state at hand is void (STATE_DIVERGED, another run): a snapshot will come. */
  | { readonly type: 'stateDiscarded' }
  /** Assignments of this connection are void: what is sent for them is dropped. */
  | { readonly type: 'disconnected'; readonly reason: string; readonly willRetryMs: number }
  /** The last event. */
  | {
      readonly type: 'closed';
      readonly reason: CloseReason;
      readonly code: number;
      readonly text: string;
      readonly mayRetry: boolean;
    };

/** What a Heartbeat tells besides the memory of the process. */
export interface Activity {
  readonly activity?: string;
  readonly tensorCount?: number;
  readonly tokensPerSecond?: number;
}

/**
 * Sends are meant for the connection whose `connected` event was the last to be taken from `events`;
 * if that one is gone by then they are dropped silently: a `disconnected` event is on its way.
 */
export class Link {
  readonly #worker: Worker;
  readonly #logger: Logger;
  readonly #traffic: Float64Array;
  readonly #exited: Promise<void>;
  /** Events not taken yet. */
  #queue: QueuedEvent[] = [];
  #wake: (() => void) | null = null;
  #failure: Error | null = null;
  #hasEnded = false;
  #audit: readonly AuditRow[] = [];
  /** The connection of the last `connected` event taken. */
  #connection = 0;
  /** The number of the last snapshot or record taken. */
  #item = 0;
  #unsentBytes = 0;
  #drainers: { readonly maxBytes: number; readonly resolve: () => void }[] = [];

  private constructor(options: LinkOptions) {
    this.#logger = options.logger;
    this.#traffic = new Float64Array(new SharedArrayBuffer(16));
    const workerData: ThreadOptions = {
      url: options.url,
      trainerId: options.trainerId,
      runName: options.runName ?? '',
      token: options.token ?? '',
      tls: options.tls ?? {},
      software: options.software ?? '',
      device: options.device ?? '',
      schemaHash: options.schemaHash ?? new Uint8Array(0),
      handshakeTimeoutMs: options.handshakeTimeoutMs ?? 10_000,
      maxUndeliveredBytes: options.maxUndeliveredBytes ?? 512 * 1024 * 1024,
      isAudited: options.isAudited ?? false,
      traffic: this.#traffic,
    };
    this.#worker = new Worker(new URL('./network-thread.js', import.meta.url), {
      workerData,
      name: 'network',
      resourceLimits: { maxYoungGenerationSizeMb: WORKER_YOUNG_GENERATION_MB },
    });
    this.#worker.on('message', (message: FromThread) => this.#take(message));
    this.#worker.on('error', (error: Error) => this.#end(error));
    this.#exited = new Promise((resolve) => {
      this.#worker.once('exit', () => {
        this.#end(new Error('the network thread ended without saying why'));
        resolve();
      });
    });
  }

  /**
   * Starts the network thread, which connects at once and again whenever that can help.
   * @throws ConfigError if the address is no ws:// or wss:// URL or the id is not allowed
   */
  static open(options: LinkOptions): Link {
    checkOptions(options);
    return new Link(options);
  }

  /**
   * Everything that happens, in order, until `closed`. One consumer. Other work of this thread gets
   * its turn between two events.
   * @throws the error that ended the network thread
   */
  async *events(): AsyncGenerator<LinkEvent, void, undefined> {
    for (;;) {
      await nextTurn();
      const next = this.#queue.shift();
      if (next !== undefined) {
        this.#taken(next);
        yield next.event;
        if (next.event.type === 'closed') return;
      } else if (this.#failure !== null) {
        throw this.#failure;
      } else if (this.#hasEnded) {
        return;
      } else {
        await new Promise<void>((resolve) => (this.#wake = resolve));
      }
    }
  }

  /**
   * The Welcome is good; `sizes` are what tensors may come (slotSizes of the run's slots).
   * @param examples of the site, where the run asks for them
   */
  accept(sizes: readonly SlotSizes[], examples?: number): void {
    this.#post({ type: 'accept', connection: this.#connection, sizes, examples });
  }

  /** The Welcome is no good (SCHEMA_MISMATCH): leave for good. */
  refuse(reason: CloseReason, text: string): void {
    this.#post({ type: 'refuse', connection: this.#connection, reason, text });
  }

  /** The state is that of record `sequence` now. The thread says Ready when the time has come. */
  applied(sequence: number): void {
    this.#post({ type: 'applied', sequence, item: this.#item });
  }

  /** The state is not good any more (an apply failed): join again without it. */
  spoiled(text: string): void {
    this.#post({ type: 'spoiled', text });
  }

  /** Queues a message behind the tensors sent before it; SnapshotEnd behind those of stream snapshot. */
  send(message: OutgoingMessage): void {
    this.#post({ type: 'send', connection: this.#connection, message });
  }

  /**
   * Queues a tensor. If `bytes` is all of its buffer the buffer is transferred (and unusable here
   * afterwards), otherwise the bytes are copied. Stream snapshot yields to everything else.
   */
  sendTensor(header: TensorHeader, bytes: Uint8Array): void {
    const isWhole = bytes.byteOffset === 0 && bytes.byteLength === bytes.buffer.byteLength;
    const owned = isWhole && bytes.buffer instanceof ArrayBuffer ? bytes : Uint8Array.from(bytes);
    this.#unsentBytes += owned.length;
    const message = { type: 'sendTensor', connection: this.#connection, header, bytes: owned } as const;
    this.#post(message, [owned.buffer as ArrayBuffer]);
  }

  /** Resolves when at most `maxBytes` given to sendTensor are unsent (or the link has ended): for the pace of a snapshot. */
  drained(maxBytes: number): Promise<void> {
    if (this.#unsentBytes <= maxBytes || this.#hasEnded) return Promise.resolve();
    return new Promise((resolve) => this.#drainers.push({ maxBytes, resolve }));
  }

  /** What the next Heartbeats say. */
  setActivity(activity: Activity): void {
    const text = activity.activity?.slice(0, MAX_NAME_LENGTH);
    this.#post({
      type: 'activity',
      activity: text === undefined ? activity : { ...activity, activity: text },
    });
  }

  /** Everything that has left by kind of message; known when `closed` has come, empty unless it was asked for. */
  get audit(): readonly AuditRow[] {
    return this.#audit;
  }

  /** As counted by the sockets since the start, at most a tenth of a second old. */
  get bytesSent(): number {
    return this.#traffic[0] ?? 0;
  }

  get bytesReceived(): number {
    return this.#traffic[1] ?? 0;
  }

  /**
   * Leaves politely: Goodbye, close frame; what is still queued is dropped. `events` ends with
   * `closed`. Resolves when the thread is gone.
   */
  async close(text = 'the trainer leaves'): Promise<void> {
    this.#post({ type: 'leave', text });
    await this.#exited;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #post(message: ToThread, transfer: ArrayBuffer[] = []): void {
    this.#worker.postMessage(message, transfer);
  }

  #take(message: FromThread): void {
    switch (message.type) {
      case 'event':
        this.#dropVoid(message.event);
        this.#queue.push(message);
        if (message.event.type === 'closed') this.#end(null);
        this.#wake?.();
        return;
      case 'audit':
        this.#audit = message.rows;
        return;
      case 'flushed':
        this.#unsentBytes -= message.bytes;
        return this.#wakeDrainers();
      case 'log':
        return this.#logger[message.level](message.event, message.fields, message.message);
      default:
        message satisfies never;
    }
  }

  /** Takes back what `event` makes void and nobody has seen yet. */
  #dropVoid(event: LinkEvent): void {
    if (event.type === 'disconnected' || event.type === 'closed') this.#drop((queued) => !isState(queued));
    if (event.type === 'stateDiscarded') this.#drop(isState);
  }

  #drop(isVoid: (event: LinkEvent) => boolean): void {
    const isDropped = ({ event }: QueuedEvent): boolean => isWork(event) && isVoid(event);
    const bytes = this.#queue.reduce((sum, queued) => sum + (isDropped(queued) ? queued.bytes : 0), 0);
    this.#queue = this.#queue.filter((queued) => !isDropped(queued));
    if (bytes > 0) this.#post({ type: 'taken', bytes });
  }

  #taken({ event, connection, item, bytes }: QueuedEvent): void {
    if (bytes > 0) this.#post({ type: 'taken', bytes });
    if (item > 0) this.#item = item;
    if (event.type === 'connected') this.#connection = connection;
    if (event.type === 'message' && event.message.kind === 'stepAssignment') {
      this.#post({ type: 'stepBegun', connection: this.#connection });
    }
  }

  #wakeDrainers(): void {
    const isDone = ({ maxBytes }: { readonly maxBytes: number }): boolean =>
      this.#unsentBytes <= maxBytes || this.#hasEnded;
    const done = this.#drainers.filter(isDone);
    this.#drainers = this.#drainers.filter((drainer) => !isDone(drainer));
    for (const { resolve } of done) resolve();
  }

  #end(failure: Error | null): void {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    this.#failure = failure;
    this.#wakeDrainers();
    this.#wake?.();
  }
}

type QueuedEvent = Extract<FromThread, { type: 'event' }>;

/** Events that a lost connection or a lost state can make void. */
function isWork(event: LinkEvent): boolean {
  return isState(event) || event.type === 'message' || event.type === 'tensor';
}

/** Events that bring state: those of snapshots and records. */
function isState(event: LinkEvent): boolean {
  return (
    event.type === 'record' ||
    event.type === 'snapshotEnd' ||
    (event.type === 'tensor' && event.tensor.stream === 'snapshot')
  );
}

function checkOptions({ url, trainerId }: LinkOptions): void {
  const faults: ConfigFault[] = [];
  if (!splitUrls(url).every(isWebSocketUrl)) {
    const allowed = 'the address of a coordinator, such as ws://192.168.1.5:29400/ or wss://host/';
    faults.push({ field: 'url', value: url, allowed });
  }
  if (!TRAINER_ID_PATTERN.test(trainerId)) {
    faults.push({ field: 'trainer id', value: trainerId, allowed: '1 to 64 of A-Z a-z 0-9 . _ -' });
  }
  if (faults.length > 0) throw new ConfigError('the trainer cannot connect', faults);
}

function isWebSocketUrl(url: string): boolean {
  return URL.canParse(url) && /^wss?:$/.test(new URL(url).protocol) && !url.includes('#');
}

/** Lets timers, signals and messages have their turn. */
function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
