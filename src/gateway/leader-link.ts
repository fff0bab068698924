/**
 * The gateway's connection to the coordinator: that of a trainer, in this thread, for here no tensor operation blocks
 * it. Everything that comes is taken in order, one thing after the other.
 */
import { NetworkThread } from '../trainer/network-thread.ts';
import type { LinkEvent, OutgoingMessage } from '../trainer/link.ts';
import type { FromThread, ThreadOptions } from '../trainer/thread-messages.ts';
import type { CloseReason } from '../protocol/close-codes.ts';
import type { Message } from '../protocol/messages.ts';
import type { TensorHeader } from '../protocol/parts.ts';
import type { SlotSizes } from '../protocol/slot-sizes.ts';
import type { Logger } from '../log.ts';

/** What came, in order; a frame before what it completes. */
export type LeaderItem =
  | { readonly type: 'frame'; readonly message: Message; readonly frame: Uint8Array }
  | { readonly type: 'event'; readonly event: LinkEvent };

export type LeaderOptions = Omit<ThreadOptions, 'isGateway' | 'traffic' | 'isAudited'>;

export class LeaderLink {
  readonly #thread: NetworkThread;
  readonly #logger: Logger;
  readonly #traffic = new Float64Array(2);
  #queue: Queued[] = [];
  #wake: (() => void) | null = null;
  #connection = 0;
  #lastItem = 0;
  #unsentBytes = 0;
  #drainers: (() => void)[] = [];
  #hasEnded = false;

  constructor(options: LeaderOptions, logger: Logger) {
    this.#logger = logger;
    this.#thread = new NetworkThread(
      { ...options, isGateway: true, isAudited: false, traffic: this.#traffic },
      (message) => this.#post(message),
      () => {},
      (message, frame) => {
        if (isOfInterest(message)) this.#put({ type: 'frame', message, frame }, 0, 0, 0);
      },
    );
  }

  start(): void {
    this.#thread.start();
  }

  /** Until `closed`. One consumer. */
  async *items(): AsyncGenerator<LeaderItem, void, undefined> {
    for (;;) {
      const next = this.#queue.shift();
      if (next === undefined) {
        await new Promise<void>((resolve) => (this.#wake = resolve));
        continue;
      }
      const { item, bytes, number } = next;
      if (bytes > 0) this.#thread.take({ type: 'taken', bytes });
      if (number > 0) this.#lastItem = number;
      if (item.type === 'event' && item.event.type === 'connected') this.#connection = next.connection;
      if (item.type === 'event' && item.event.type === 'message') {
        if (item.event.message.kind === 'stepAssignment') {
          this.#thread.take({ type: 'stepBegun', connection: this.#connection });
        }
      }
      yield item;
      if (item.type === 'event' && item.event.type === 'closed') return;
    }
  }

  accept(sizes: readonly SlotSizes[]): void {
    this.#thread.take({ type: 'accept', connection: this.#connection, sizes });
  }

  refuse(reason: CloseReason, text: string): void {
    this.#thread.take({ type: 'refuse', connection: this.#connection, reason, text });
  }

  /** Gives up the connection; another is opened, with what is held. */
  reconnect(text: string): void {
    this.refuse('TIMEOUT', text);
  }

  /** Everything up to `sequence` is stored, and trainers are ready. */
  applied(sequence: number): void {
    this.#thread.take({ type: 'applied', sequence, item: this.#lastItem });
  }

  send(message: OutgoingMessage): void {
    this.#thread.take({ type: 'send', connection: this.#connection, message });
  }

  /** The bytes must not be changed afterwards. */
  sendTensor(header: TensorHeader, bytes: Uint8Array): void {
    this.#unsentBytes += bytes.length;
    this.#thread.take({ type: 'sendTensor', connection: this.#connection, header, bytes });
  }

  setActivity(activity: string): void {
    this.#thread.take({ type: 'activity', activity: { activity: activity.slice(0, 256) } });
  }

  /** Resolves when no more than `maxBytes` given to sendTensor are unsent. */
  async drained(maxBytes: number): Promise<void> {
    while (this.#unsentBytes > maxBytes && !this.#hasEnded) {
      await new Promise<void>((resolve) => this.#drainers.push(resolve));
    }
  }

  leave(text: string): void {
    this.#thread.take({ type: 'leave', text });
  }

  get bytesSent(): number {
    return this.#traffic[0]!;
  }

  get bytesReceived(): number {
    return this.#traffic[1]!;
  }

  #post(message: FromThread): void {
    switch (message.type) {
      case 'event': {
        const { event, connection, item, bytes } = message;
        if (event.type === 'closed') this.#hasEnded = true;
        this.#put({ type: 'event', event }, connection, item, bytes);
        return this.#drain();
      }
      case 'flushed':
        this.#unsentBytes -= message.bytes;
        return this.#drain();
      case 'log':
        return this.#logger[message.level](message.event, message.fields, message.message);
      case 'audit':
        return;
      default:
        message satisfies never;
    }
  }

  #put(item: LeaderItem, connection: number, number: number, bytes: number): void {
    this.#queue.push({ item, connection, number, bytes });
    this.#wake?.();
    this.#wake = null;
  }

  #drain(): void {
    for (const resolve of this.#drainers.splice(0)) resolve();
  }
}

interface Queued {
  readonly item: LeaderItem;
  readonly connection: number;
  /** Of a snapshot or record; 0: it is neither. */
  readonly number: number;
  readonly bytes: number;
}

/** Frames that are passed on as they are. */
function isOfInterest(message: Message): boolean {
  if (message.kind === 'commit' || message.kind === 'updateWithdrawn') return true;
  return message.kind === 'part' && message.stream !== 'snapshot';
}
