/**
 * Records on their way from the coordinator to the trainers, the same bytes: their Parts go on as they come, to those who
 * have all before them, and the rest once the record is on disk.
 */
import { sendAhead, sendRecord, withdrawAhead } from '../coordinator/live-feed.ts';
import type { Session } from '../coordinator/session.ts';
import type { CommitMessage, Message } from '../protocol/messages.ts';
import type { Mirror } from './mirror.ts';

export class RecordRelay {
  readonly #mirror: Pick<Mirror, 'append'>;
  readonly #sessions: () => Iterable<Session>;
  /** Of the record that is on its way. */
  #frames: Uint8Array[] = [];

  constructor(mirror: Pick<Mirror, 'append'>, sessions: () => Iterable<Session>) {
    this.#mirror = mirror;
    this.#sessions = sessions;
  }

  /** A frame of a record, or the word that what has come of it is void. */
  take(message: Message, frame: Uint8Array): void {
    switch (message.kind) {
      case 'part':
        sendAhead(this.#sessions(), this.#frames.length, [frame]);
        return void this.#frames.push(frame);
      case 'commit':
        return void this.#frames.push(frame);
      case 'updateWithdrawn':
        this.#frames = [];
        return withdrawAhead(this.#sessions(), message.step);
      default:
        return; // no frame of a record
    }
  }

  /** The record is whole. When this resolves it is on disk, and on its way to all that are not still being fed. */
  async end(commit: CommitMessage): Promise<void> {
    const frames = this.#frames;
    this.#frames = [];
    await this.#mirror.append(frames, commit);
    sendRecord(this.#sessions(), commit.sequence, frames);
  }

  /** The connection is gone on which the rest would have come. */
  breakOff(reason: string): void {
    this.#frames = [];
    // Of a record that broke off, perhaps within a tensor, nothing can be taken back.
    for (const { framesAhead, connection } of this.#sessions()) {
      if (framesAhead > 0) connection.close('COORDINATOR_STOPPING', `a record broke off: ${reason}`);
    }
  }
}
