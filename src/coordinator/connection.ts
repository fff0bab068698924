/**
 * One trainer's socket on the coordinator: an ordered queue with backpressure, counted bytes, and an
 * orderly end. It knows messages, not what they mean.
 */
import type { CloseReason } from '../protocol/close-codes.ts';
import type { Message } from '../protocol/messages.ts';

/**
 * Everything is sent in the order it was given, except messages whose rule (MESSAGE_RULES) says
 * mayOvertake, and WebSocket pings: those go ahead of what is queued.
 */
export interface Connection {
  /** Unique in this process, from 1. */
  readonly id: number;
  readonly remoteAddress: string;
  /** Set by CoordinatorServer.admit; null before, and again once a newer connection took the id. */
  readonly trainerId: string | null;
  readonly isOpen: boolean;
  /** As counted by the socket: payload, framing and handshake. */
  readonly bytesSent: number;
  readonly bytesReceived: number;
  /** Given to send or sendBulk as arrays and not yet taken by the operating system. */
  readonly unsentBytes: number;
  /**
   * Queues a message, or a frame encoded before (which never overtakes). Does nothing once closed. A
   * peer that reads so slowly that maxUnsentBytes would be passed is closed with TIMEOUT instead: it
   * may come back and is then fed from the journal at its own pace.
   */
  send(message: Message | Uint8Array): void;
  /**
   * Queues frames as one item; an iterable that is not an array is read only as fast as the peer
   * takes them (a journal tail, a snapshot). Resolves to true when all were handed to the operating
   * system, to false if the connection ended first.
   * @throws what the iterable throws; the connection is then closed with INTERNAL_ERROR
   */
  sendBulk(frames: AsyncIterable<Uint8Array> | Iterable<Uint8Array>): Promise<boolean>;
  /** Drops what is queued, says Goodbye, closes, and destroys the socket if the peer does not answer. Messages that still come are dropped. */
  close(reason: CloseReason, text: string): void;
  /** Like close, once everything queued is sent, at the latest after drainTimeoutMs. */
  closeAfterQueue(reason: CloseReason, text: string): void;
}
