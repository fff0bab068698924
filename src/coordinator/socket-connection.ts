/**
 * A Connection over one WebSocket of `ws`: the queue, the counters and the orderly end. What comes in
 * is the server's business (server.ts).
 */
import type { Socket } from 'node:net';
import { WebSocket } from 'ws';
import { CLOSE_CODES, closeReasonOf, type CloseReason } from '../protocol/close-codes.ts';
import { encodeEnvelope } from '../protocol/envelope.ts';
import { MESSAGE_RULES, type Message } from '../protocol/messages.ts';
import { cutText, MAX_CLOSE_TEXT_BYTES, MAX_GOODBYE_LENGTH } from '../protocol/texts.ts';
import type { Connection } from './connection.ts';

/**
 * Frames are handed to the socket while it holds less than this. More would only delay what may overtake: a ping behind
 * 2 MiB waits 16 s on a link of 1 Mbit/s, less than the default heartbeat timeout.
 */
export const MAX_BUFFERED_BYTES = 2 * 1024 * 1024;

/** The WebSocket close code that says nothing in particular. */
const NORMAL_CLOSURE = 1000;

/** What a connection is told by the server. */
export interface ConnectionLimits {
  readonly maxUnsentBytes: number;
  readonly drainTimeoutMs: number;
  /** Told of every frame that is given to the socket. */
  readonly onSent: (frame: Uint8Array) => void;
}

/** Why a connection ended. */
export interface CloseCause {
  readonly code: number;
  readonly reason: string;
}

interface QueueItem {
  readonly frames: Iterator<Uint8Array> | AsyncIterator<Uint8Array>;
  /** Bytes counted as unsent when the item was queued; null: each frame is counted when it is taken. */
  readonly countedBytes: number | null;
  readonly settle: (isSent: boolean) => void;
  readonly fail: (error: unknown) => void;
  takenBytes: number;
  unflushedFrames: number;
  isExhausted: boolean;
}

export class SocketConnection implements Connection {
  readonly id: number;
  readonly remoteAddress: string;
  trainerId: string | null = null;
  readonly #webSocket: WebSocket;
  readonly #socket: Socket;
  readonly #limits: ConnectionLimits;
  readonly #queue: QueueItem[] = [];
  #unsentBytes = 0;
  #isTaking = false;
  #closeCause: CloseCause | null = null;
  #finish: { readonly reason: CloseReason; readonly text: string; readonly timer: NodeJS.Timeout } | null =
    null;

  constructor(id: number, webSocket: WebSocket, socket: Socket, limits: ConnectionLimits) {
    this.id = id;
    this.remoteAddress = `${socket.remoteAddress ?? '?'}:${socket.remotePort ?? '?'}`;
    this.#webSocket = webSocket;
    this.#socket = socket;
    this.#limits = limits;
  }

  get isOpen(): boolean {
    return this.#closeCause === null && this.#webSocket.readyState === WebSocket.OPEN;
  }

  get bytesSent(): number {
    return this.#socket.bytesWritten;
  }

  get bytesReceived(): number {
    return this.#socket.bytesRead;
  }

  get unsentBytes(): number {
    return this.#unsentBytes;
  }

  /** What the socket was given and has not passed on: of the above, and what is not counted there. */
  get bytesInSocket(): number {
    return this.#webSocket.bufferedAmount;
  }

  /** Why this side closed or what the other side's Goodbye said; null while neither happened. */
  get closeCause(): CloseCause | null {
    return this.#closeCause;
  }

  send(message: Message | Uint8Array): void {
    if (!this.isOpen || this.#finish !== null) return;
    const isFrame = message instanceof Uint8Array;
    const frame = isFrame ? message : encodeEnvelope(message);
    if (!isFrame && MESSAGE_RULES[message.kind].mayOvertake) {
      this.#limits.onSent(frame);
      this.#webSocket.send(frame);
      return;
    }
    this.#enqueue([frame].values(), frame.length, ignore, ignore);
  }

  sendBulk(frames: AsyncIterable<Uint8Array> | Iterable<Uint8Array>): Promise<boolean> {
    const iterator =
      Symbol.asyncIterator in frames ? frames[Symbol.asyncIterator]() : frames[Symbol.iterator]();
    return new Promise((resolve, reject) => {
      if (!this.isOpen || this.#finish !== null) {
        endIteration(iterator);
        resolve(false);
        return;
      }
      const countedBytes = Array.isArray(frames) ? totalBytes(frames as Uint8Array[]) : null;
      this.#enqueue(iterator, countedBytes, resolve, reject);
    });
  }

  /** Sends a WebSocket ping ahead of everything queued. */
  ping(): void {
    if (this.isOpen) this.#webSocket.ping();
  }

  close(reason: CloseReason, text: string): void {
    if (this.#closeCause !== null) return;
    const { code } = CLOSE_CODES[reason];
    if (this.#webSocket.readyState === WebSocket.OPEN) {
      const frame = encodeEnvelope({ kind: 'goodbye', code, reason: text.slice(0, MAX_GOODBYE_LENGTH) });
      this.#limits.onSent(frame);
      this.#webSocket.send(frame);
    }
    this.#end({ code, reason: text });
  }

  closeAfterQueue(reason: CloseReason, text: string): void {
    if (this.#closeCause !== null || this.#finish !== null) return;
    const timer = setTimeout(() => this.close(reason, text), this.#limits.drainTimeoutMs);
    this.#finish = { reason, text, timer };
    this.#closeIfDone();
  }

  /** The other side said Goodbye: close without saying more. */
  acknowledgeGoodbye(cause: CloseCause): void {
    if (this.#closeCause === null) this.#end(cause);
  }

  /** The socket is gone: settles whatever still waits. */
  release(): void {
    if (this.#finish !== null) clearTimeout(this.#finish.timer);
    for (const item of this.#queue.splice(0)) {
      endIteration(item.frames);
      item.settle(false);
    }
    this.#unsentBytes = 0;
  }

  #enqueue(
    frames: QueueItem['frames'],
    countedBytes: number | null,
    settle: QueueItem['settle'],
    fail: QueueItem['fail'],
  ): void {
    const wouldHoldBytes = this.#unsentBytes + (countedBytes ?? 0);
    if (this.#unsentBytes > 0 && countedBytes !== null && wouldHoldBytes > this.#limits.maxUnsentBytes) {
      settle(false);
      const text = `it reads too slowly: ${wouldHoldBytes} bytes unsent, allowed: ${this.#limits.maxUnsentBytes} (coordinator.limits.unsent_memory)`;
      this.close('TIMEOUT', text);
      return;
    }
    this.#unsentBytes = wouldHoldBytes;
    this.#queue.push({
      frames,
      countedBytes,
      settle,
      fail,
      takenBytes: 0,
      unflushedFrames: 0,
      isExhausted: false,
    });
    this.#pump();
  }

  /** Hands frames to the socket until it has enough of them. */
  #pump(): void {
    while (this.isOpen && !this.#isTaking && this.#webSocket.bufferedAmount < MAX_BUFFERED_BYTES) {
      const item = this.#queue.find(({ isExhausted }) => !isExhausted);
      if (item === undefined) return;
      try {
        const next = item.frames.next();
        if (next instanceof Promise) this.#await(item, next);
        else this.#take(item, next);
      } catch (error) {
        this.#failItem(item, error);
      }
    }
  }

  #await(item: QueueItem, next: Promise<IteratorResult<Uint8Array>>): void {
    this.#isTaking = true;
    next.then(
      (result) => {
        this.#isTaking = false;
        if (!this.isOpen) return;
        this.#take(item, result);
        this.#pump();
      },
      (error: unknown) => {
        this.#isTaking = false;
        this.#failItem(item, error);
      },
    );
  }

  #take(item: QueueItem, result: IteratorResult<Uint8Array>): void {
    if (result.done) {
      item.isExhausted = true;
      this.#settleIfFlushed(item);
      return;
    }
    const frame = result.value;
    item.unflushedFrames++;
    item.takenBytes += frame.length;
    if (item.countedBytes === null) this.#unsentBytes += frame.length;
    this.#limits.onSent(frame);
    this.#webSocket.send(frame, (error) => {
      if (error !== null && error !== undefined) return; // the close event follows and settles
      item.unflushedFrames--;
      this.#unsentBytes = Math.max(0, this.#unsentBytes - frame.length);
      this.#settleIfFlushed(item);
      this.#pump();
    });
  }

  #settleIfFlushed(item: QueueItem): void {
    if (!item.isExhausted || item.unflushedFrames > 0) return;
    const index = this.#queue.indexOf(item);
    if (index < 0) return;
    this.#queue.splice(index, 1);
    item.settle(true);
    this.#closeIfDone();
  }

  #failItem(item: QueueItem, error: unknown): void {
    const index = this.#queue.indexOf(item);
    if (index < 0) return;
    this.#queue.splice(index, 1);
    item.fail(error);
    this.close('INTERNAL_ERROR', 'what was to be sent could not be read');
  }

  #closeIfDone(): void {
    if (this.#finish === null || this.#queue.length > 0) return;
    const { reason, text } = this.#finish;
    this.close(reason, text);
  }

  #end(cause: CloseCause): void {
    this.#closeCause = cause;
    this.release();
    // The code may be what a peer wrote into its Goodbye: only one of ours goes into a close frame.
    const code = closeReasonOf(cause.code) === null ? NORMAL_CLOSURE : cause.code;
    this.#webSocket.close(code, cutText(cause.reason, MAX_CLOSE_TEXT_BYTES));
  }
}

function totalBytes(frames: readonly Uint8Array[]): number {
  return frames.reduce((sum, frame) => sum + frame.length, 0);
}

function endIteration(frames: QueueItem['frames']): void {
  // An iterator may hold a file open; what it says on closing is of no interest any more.
  Promise.resolve(frames.return?.()).catch(ignore);
}

function ignore(): void {
  return;
}
