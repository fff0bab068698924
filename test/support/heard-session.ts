/** A trainer's session whose connection writes down what it is given. */
import type { Connection } from '../../src/coordinator/connection.ts';
import { Session } from '../../src/coordinator/session.ts';
import type { Message } from '../../src/protocol/messages.ts';

export class HeardSession extends Session {
  /** Messages, the first byte of each frame, and why the connection was closed; in order. */
  readonly heard: (Message | number | string)[];

  /** @param liveSequence the record up to which it was fed; null: it is still being fed */
  constructor(trainerId: string, liveSequence: number | null) {
    const heard: (Message | number | string)[] = [];
    const connection = {
      isOpen: true,
      send: (message: Message) => heard.push(message),
      sendBulk: (frames: readonly Uint8Array[]) => heard.push(...frames.map(([first]) => first!)),
      close: (reason: string) => heard.push(reason),
    };
    super(trainerId, connection as unknown as Connection, (error) => {
      throw error;
    });
    this.heard = heard;
    this.liveSequence = liveSequence;
  }

  /** Resolves when all that was sent before has been heard. */
  async settled(): Promise<void> {
    await new Promise<void>((resolve) => this.enqueue(resolve));
  }
}
