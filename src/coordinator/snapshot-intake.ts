/**
 * Takes the state a trainer uploads for a checkpoint and writes it straight to disk, piece by piece,
 * in the order it comes. One upload at a time.
 */
import { CLOSE_CODES } from '../protocol/close-codes.ts';
import type { PartMessage } from '../protocol/messages.ts';
import { ProtocolError } from '../errors.ts';
import type { StateTensor } from '../galore/state-table.ts';
import type { CheckpointInfo, CheckpointWriter, RunFacts } from './store/checkpoint.ts';

export class SnapshotIntake {
  readonly trainerId: string;
  readonly step: number;
  readonly #run: RunFacts;
  readonly #table: readonly StateTensor[];
  readonly #writer: CheckpointWriter;
  #tensor = 0;
  #offset = 0;
  #writes: Promise<void> = Promise.resolve();
  #failure: Error | null = null;

  constructor(trainerId: string, run: RunFacts, table: readonly StateTensor[], writer: CheckpointWriter) {
    this.trainerId = trainerId;
    this.step = run.step;
    this.#run = run;
    this.#table = table;
    this.#writer = writer;
  }

  /**
   * Writes one piece.
   * @throws ProtocolError when it is not the next one.
   */
  accept(part: PartMessage): void {
    const expected = this.#table[this.#tensor];
    const isNext =
      expected !== undefined &&
      part.step === this.step &&
      part.tensor === this.#tensor &&
      part.codec === expected.dtype &&
      part.offset === this.#offset &&
      part.totalBytes === expected.totalBytes &&
      part.offset + part.payload.length <= expected.totalBytes;
    if (!isNext) {
      throw new ProtocolError(
        CLOSE_CODES.UNEXPECTED_MESSAGE.code,
        `snapshot of step ${this.step}: expected ${expected?.dtype ?? 'no'} tensor ${this.#tensor} from byte ${this.#offset}, ` +
          `got ${part.codec} tensor ${part.tensor} of step ${part.step} from byte ${part.offset}`,
      );
    }
    const { tensor, offset, payload } = part;
    this.#offset += payload.length;
    if (this.#offset === expected.totalBytes) {
      this.#tensor++;
      this.#offset = 0;
    }
    this.#writes = this.#writes
      .then(() => (this.#failure === null ? this.#writer.write(tensor, offset, payload) : undefined))
      .catch((error: unknown) => {
        this.#failure ??= error as Error;
      });
  }

  /** True once every tensor arrived whole. */
  get isComplete(): boolean {
    return this.#tensor === this.#table.length;
  }

  /** Waits for the writes, seals the checkpoint; if that fails nothing of it is left. */
  async finish(): Promise<CheckpointInfo> {
    await this.#writes;
    try {
      if (this.#failure !== null) throw this.#failure;
      return await this.#writer.finish(this.#run);
    } catch (error) {
      await this.#writer.abandon();
      throw error;
    }
  }

  /** Deletes what was written. */
  async abandon(): Promise<void> {
    await this.#writes;
    await this.#writer.abandon();
  }
}
