/**
 * The compute side's handle on the network thread. The socket, frames, Parts, heartbeats and
 * reconnects live in that thread (network-thread.ts), so a tensor operation that blocks this one for
 * minutes costs no connection. Here only whole tensors and checked messages arrive.
 */
import type { Logger } from '../log.ts';
import type { CloseReason } from '../protocol/close-codes.ts';
import type {
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

export interface LinkOptions {
  /** `ws://` or `wss://`. */
  readonly url: string;
  readonly trainerId: string;
  /** Empty: whatever run the coordinator has. */
  readonly runName?: string;
  readonly token?: string;
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
  readonly #options: LinkOptions;

  private constructor(options: LinkOptions) {
    this.#options = options;
  }

  /** Starts the network thread, which connects at once and again whenever that can help. */
  static open(options: LinkOptions): Link {
    return new Link(options);
  }

  /** Everything that happens, in order, until `closed`. One consumer. Throws if the network thread dies. */
  events(): AsyncIterableIterator<LinkEvent> {
    throw new Error(`not written yet ${this.#options.url}`);
  }

  /** The Welcome is good; `sizes` are what tensors may come (slotSizes of the run's slots). */
  accept(sizes: readonly SlotSizes[]): void {
    throw new Error(`not written yet ${sizes.length}`);
  }

  /** The Welcome is no good (SCHEMA_MISMATCH): leave for good. */
  refuse(reason: CloseReason, text: string): void {
    throw new Error(`not written yet ${reason} ${text}`);
  }

  /** The state is that of record `sequence` now. The thread says Ready when the time has come. */
  applied(sequence: number): void {
    throw new Error(`not written yet ${sequence}`);
  }

  /** The state is not good any more (an apply failed): join again without it. */
  spoiled(text: string): void {
    throw new Error(`not written yet ${text}`);
  }

  /** Queues a message behind the tensors sent before it; SnapshotEnd behind those of stream snapshot. */
  send(message: OutgoingMessage): void {
    throw new Error(`not written yet ${message.kind}`);
  }

  /**
   * Queues a tensor. If `bytes` is all of its buffer the buffer is transferred (and unusable here
   * afterwards), otherwise the bytes are copied. Stream snapshot yields to everything else.
   */
  sendTensor(header: TensorHeader, bytes: Uint8Array): void {
    throw new Error(`not written yet ${header.step} ${bytes.length}`);
  }

  /** Resolves when fewer than `maxBytes` given to sendTensor are unsent: for the pace of a snapshot. */
  async drained(maxBytes: number): Promise<void> {
    throw new Error(`not written yet ${maxBytes}`);
  }

  /** What the next Heartbeats say. */
  setActivity(activity: Activity): void {
    throw new Error(`not written yet ${activity.activity}`);
  }

  /** As counted by the sockets since the start. */
  get bytesSent(): number {
    return 0;
  }

  get bytesReceived(): number {
    return 0;
  }

  /** Leaves politely: what is queued, Goodbye, close frame. `events` ends with `closed`. Resolves when the thread is gone. */
  async close(text = 'the trainer leaves'): Promise<void> {
    throw new Error(`not written yet ${text}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
