/**
 * The coordinator's view of one connected trainer: its connection, how far it has been fed, and an
 * outbox that keeps everything sent to it in order even when some of it has to be read from disk.
 */
import type { CheckpointJob } from './checkpoint-job.ts';
import type { Connection } from './connection.ts';
import type { Message } from '../protocol/messages.ts';

/**
 * What waits for a trainer that does not read what it is fed, at most: an honest one is owed the answers to one step,
 * which are a few for each slot.
 */
const MAX_OWED = 32_768;

export class Session {
  readonly trainerId: string;
  readonly connection: Connection;
  /** Of the token it came in with; null: without one. */
  readonly tokenId: string | null;
  /** The record up to which the feed went; null while the feed is still under way. */
  liveSequence: number | null = null;
  /** The last record the trainer says it has applied. */
  readySequence = -1;
  /** Of a site that has told so; null: it has not. */
  examples: number | null = null;
  /** Parts of the next record that it was sent before the record was sealed. */
  framesAhead = 0;
  /** What it was told last. */
  lastNotice = '';
  /** It takes trainers of its own. */
  isGateway = false;
  /** Of each snapshot that it was asked for and has not ended, what it is for; oldest first. */
  readonly uploadsOwed: CheckpointJob[] = [];
  #outbox: Promise<void> = Promise.resolve();
  #owed = 0;
  readonly #onFailure: (error: unknown) => void;

  constructor(
    trainerId: string,
    connection: Connection,
    onFailure: (error: unknown) => void,
    tokenId: string | null = null,
  ) {
    this.trainerId = trainerId;
    this.connection = connection;
    this.tokenId = tokenId;
    this.#onFailure = onFailure;
  }

  /** Runs `task` after everything put here before; skipped once the connection is closed. */
  enqueue(task: () => void | Promise<void>): void {
    if (!this.connection.isOpen) return;
    if (++this.#owed > MAX_OWED) {
      const text = `it reads nothing: ${this.#owed} answers wait for it, allowed: ${MAX_OWED}`;
      return this.connection.close('TIMEOUT', text);
    }
    this.#outbox = this.#outbox.then(async () => {
      this.#owed--;
      if (!this.connection.isOpen) return;
      try {
        await task();
      } catch (error) {
        if (this.connection.isOpen) this.#onFailure(error);
      }
    });
  }

  /** Sends a message in its turn. */
  send(message: Message): void {
    this.enqueue(() => this.connection.send(message));
  }

  /**
   * Sends frames in their turn. A trainer that does not take them fast enough is closed by its
   * connection (maxUnsentBytes) and may come back to be fed from the journal.
   */
  sendFrames(frames: readonly Uint8Array[]): void {
    this.enqueue(() => void this.connection.sendBulk(frames));
  }

  /** It takes part in steps, and something it is to get waits for its socket. */
  get hasLiveBacklog(): boolean {
    return this.isUpToDate && this.connection.isOpen && this.connection.unsentBytes > 0;
  }

  /** True when it has applied everything that was fed to it and gets every new record live. */
  get isUpToDate(): boolean {
    return this.liveSequence !== null && this.readySequence >= this.liveSequence;
  }
}
