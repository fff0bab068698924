/**
 * Takes what one trainer uploads for a checkpoint and hands it on piece by piece, in the order it comes: the
 * state that all share, what the trainer keeps of its gradients, or the one and behind it the other. Of what it
 * keeps it sends all or nothing.
 */
import { CLOSE_CODES } from '../protocol/close-codes.ts';
import type { PartMessage } from '../protocol/messages.ts';
import { ProtocolError } from '../errors.ts';
import type { StateTensor } from '../galore/state-table.ts';

/** Where the pieces go. */
export interface IntakeFiles {
  writeShared(tensor: number, offset: number, bytes: Uint8Array): Promise<void>;
  writeLocal(tensor: number, offset: number, bytes: Uint8Array): Promise<void>;
}

/** What is asked of a trainer. */
export interface IntakePlan {
  readonly trainerId: string;
  readonly step: number;
  readonly shared: readonly StateTensor[];
  /** Numbered behind `shared`. */
  readonly local: readonly StateTensor[];
  readonly isLocalOnly: boolean;
}

export class SnapshotIntake {
  readonly #plan: IntakePlan;
  readonly #files: IntakeFiles;
  #tensor: number;
  #offset = 0;
  #writes: Promise<void> = Promise.resolve();
  #failure: Error | null = null;

  constructor(plan: IntakePlan, files: IntakeFiles) {
    this.#plan = plan;
    this.#files = files;
    this.#tensor = plan.isLocalOnly ? plan.shared.length : 0;
  }

  /**
   * Writes one piece.
   * @throws ProtocolError when it is not the next one.
   */
  accept(part: PartMessage): void {
    const { step, shared, local } = this.#plan;
    const expected =
      this.#tensor < shared.length ? shared[this.#tensor] : local[this.#tensor - shared.length];
    const isNext =
      expected !== undefined &&
      part.step === step &&
      part.tensor === this.#tensor &&
      part.codec === expected.dtype &&
      part.offset === this.#offset &&
      part.totalBytes === expected.totalBytes &&
      part.offset + part.payload.length <= expected.totalBytes;
    if (!isNext) {
      const wanted =
        expected === undefined ? 'nothing more' : `${expected.totalBytes} bytes of ${expected.dtype}`;
      throw new ProtocolError(
        CLOSE_CODES.UNEXPECTED_MESSAGE.code,
        `snapshot of step ${step}: expected tensor ${this.#tensor} from byte ${this.#offset}, ${wanted}; ` +
          `got ${part.totalBytes} bytes of ${part.codec}, tensor ${part.tensor} of step ${part.step} from byte ${part.offset}`,
      );
    }
    const { tensor, offset, payload } = part;
    this.#offset += payload.length;
    if (this.#offset === expected.totalBytes) {
      this.#tensor++;
      this.#offset = 0;
    }
    this.#writes = this.#writes
      .then(() => (this.#failure === null ? this.#write(tensor, offset, payload) : undefined))
      .catch((error: unknown) => {
        this.#failure ??= error as Error;
      });
  }

  /** True once the upload may end. */
  get isComplete(): boolean {
    const { shared } = this.#plan;
    return this.#offset === 0 && (this.#tensor === shared.length || this.hasLocal);
  }

  /** True once all that the trainer keeps is there. */
  get hasLocal(): boolean {
    const { shared, local } = this.#plan;
    return local.length > 0 && this.#tensor === shared.length + local.length;
  }

  /** Waits for the writes. @throws the first error there was */
  async flushed(): Promise<void> {
    await this.#writes;
    if (this.#failure !== null) throw this.#failure;
  }

  async #write(tensor: number, offset: number, bytes: Uint8Array): Promise<void> {
    const first = this.#plan.shared.length;
    if (tensor < first) await this.#files.writeShared(tensor, offset, bytes);
    else await this.#files.writeLocal(tensor - first, offset, bytes);
  }
}
