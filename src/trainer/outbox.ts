/**
 * What goes out on one connection of a trainer: messages and tensors in order, a snapshot behind
 * everything else, and no more in the socket than it can soon send.
 */
import type { WebSocket } from 'ws';
import { crc32c } from '../protocol/crc32c.ts';
import { encodeEnvelope } from '../protocol/envelope.ts';
import { MESSAGE_RULES, type Message } from '../protocol/messages.ts';
import { splitIntoParts, type TensorHeader } from '../protocol/parts.ts';

/** Frames are handed to the socket while it holds less than this, so that a heartbeat does not wait long. */
const MAX_BUFFERED_BYTES = 2 * 1024 * 1024;

/** A frame and how many bytes of tensors are in it. */
interface Outgoing {
  readonly frame: Uint8Array;
  readonly tensorBytes: number;
}

/** An item makes its frames when its turn comes. */
interface QueueItem {
  readonly frames: Iterator<Outgoing>;
  remainingBytes: number;
}

export class Outbox {
  readonly #webSocket: WebSocket;
  readonly #onFlushed: (tensorBytes: number) => void;
  readonly #onFramed: (bytes: Uint8Array) => void;
  readonly #onSent: (frame: Uint8Array) => void;
  readonly #ordered: QueueItem[] = [];
  readonly #snapshot: QueueItem[] = [];
  /** Handed to the socket and not yet taken by the operating system. */
  #inSocketBytes = 0;
  #contributionChecksum = 0;
  #isClosed = false;

  /**
   * @param onFlushed told of tensor bytes that left, or were dropped by `close`
   * @param onFramed gets the bytes of a tensor that are not needed any more: all frames of it are made
   * @param onSent sees every frame that is given to the socket
   */
  constructor(
    webSocket: WebSocket,
    onFlushed: (tensorBytes: number) => void,
    onFramed: (bytes: Uint8Array) => void = () => {},
    onSent: (frame: Uint8Array) => void = () => {},
  ) {
    this.#webSocket = webSocket;
    this.#onFlushed = onFlushed;
    this.#onFramed = onFramed;
    this.#onSent = onSent;
  }

  /** Queues a message; the checksum of a Contribution is filled in when its turn comes. */
  send(message: Message): void {
    if (this.#isClosed) return;
    if (MESSAGE_RULES[message.kind].mayOvertake) {
      const frame = encodeEnvelope(message);
      this.#onSent(frame);
      this.#webSocket.send(frame);
      return;
    }
    const lane = message.kind === 'snapshotEnd' ? this.#snapshot : this.#ordered;
    lane.push({ frames: this.#framesOfMessage(message), remainingBytes: 0 });
    this.#pump();
  }

  /** Queues a tensor. */
  sendTensor(header: TensorHeader, bytes: Uint8Array): void {
    if (this.#isClosed) return this.#onFlushed(bytes.length);
    const lane = header.stream === 'snapshot' ? this.#snapshot : this.#ordered;
    lane.push({ frames: this.#framesOfTensor(header, bytes), remainingBytes: bytes.length });
    this.#pump();
  }

  /** The contribution tensors from here on belong to a new StepAssignment. */
  beginStep(): void {
    // In its turn: tensors of the step before may still be queued.
    const reset = (): IteratorResult<Outgoing> => {
      this.#contributionChecksum = 0;
      return { done: true, value: undefined };
    };
    this.#ordered.push({ frames: { next: reset }, remainingBytes: 0 });
    this.#pump();
  }

  /** Drops what is queued; what the socket already has still leaves. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    const items = [...this.#ordered.splice(0), ...this.#snapshot.splice(0)];
    this.#onFlushed(items.reduce((sum, item) => sum + item.remainingBytes, this.#inSocketBytes));
  }

  *#framesOfMessage(message: Message): Generator<Outgoing> {
    if (message.kind !== 'contribution') {
      yield { frame: encodeEnvelope(message), tensorBytes: 0 };
      return;
    }
    const checksum = this.#contributionChecksum;
    this.#contributionChecksum = 0;
    yield { frame: encodeEnvelope({ ...message, checksum }), tensorBytes: 0 };
  }

  *#framesOfTensor(header: TensorHeader, bytes: Uint8Array): Generator<Outgoing> {
    for (const part of splitIntoParts(header, bytes)) {
      if (header.stream === 'contribution') {
        this.#contributionChecksum = crc32c(part.payload, this.#contributionChecksum);
      }
      yield { frame: encodeEnvelope(part), tensorBytes: part.payload.length };
    }
    this.#onFramed(bytes);
  }

  #pump(): void {
    while (!this.#isClosed && this.#webSocket.bufferedAmount < MAX_BUFFERED_BYTES) {
      const lane = this.#ordered.length > 0 ? this.#ordered : this.#snapshot;
      const item = lane[0];
      if (item === undefined) return;
      const next = item.frames.next();
      if (next.done === true) {
        lane.shift();
        continue;
      }
      const { frame, tensorBytes } = next.value;
      item.remainingBytes -= tensorBytes;
      this.#inSocketBytes += tensorBytes;
      this.#onSent(frame);
      this.#webSocket.send(frame, () => this.#flushed(tensorBytes));
    }
  }

  #flushed(tensorBytes: number): void {
    if (this.#isClosed) return;
    this.#inSocketBytes -= tensorBytes;
    if (tensorBytes > 0) this.#onFlushed(tensorBytes);
    this.#pump();
  }
}
