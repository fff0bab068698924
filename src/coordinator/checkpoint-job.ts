/**
 * One checkpoint in the making: its files, and what of them is still on its way from which trainer. The files
 * are made while the trainers are being asked.
 */
import type { StateTensor } from '../galore/state-table.ts';
import { SnapshotIntake } from './snapshot-intake.ts';
import type { CheckpointInfo, CheckpointWriter, FeedbackWriter, RunFacts } from './store/checkpoint.ts';

/** What a checkpoint is made of. */
export interface CheckpointContents {
  readonly facts: RunFacts;
  /** What all trainers share, and what each has for itself. */
  readonly shared: readonly StateTensor[];
  readonly local: readonly StateTensor[];
}

export class CheckpointJob {
  readonly #contents: CheckpointContents;
  readonly #begun: Promise<CheckpointWriter>;
  readonly #intakes = new Map<string, SnapshotIntake>();

  /** @param begun the files; a rejection is the owner's to handle */
  constructor(contents: CheckpointContents, begun: Promise<CheckpointWriter>) {
    this.#contents = contents;
    this.#begun = begun;
  }

  get step(): number {
    return this.#contents.facts.step;
  }

  /** Of what all trainers share, but for its headers. */
  get bytes(): number {
    return this.#contents.shared.reduce((sum, { totalBytes }) => sum + totalBytes, 0);
  }

  get sequence(): number {
    return this.#contents.facts.sequence;
  }

  /** Resolves to whether there are files to write to. */
  get isBegun(): Promise<boolean> {
    return this.#begun.then(
      () => true,
      () => false,
    );
  }

  /** What is being sent by this trainer; undefined: it was not asked. */
  intakeOf(trainerId: string): SnapshotIntake | undefined {
    return this.#intakes.get(trainerId);
  }

  /** This trainer is being asked. */
  expect(trainerId: string, isLocalOnly: boolean): void {
    const { shared, local } = this.#contents;
    let feedback: Promise<FeedbackWriter> | null = null;
    const intake = new SnapshotIntake(
      { trainerId, step: this.step, shared, local, isLocalOnly },
      {
        writeShared: async (tensor, offset, bytes) => await (await this.#begun).write(tensor, offset, bytes),
        writeLocal: async (tensor, offset, bytes) => {
          feedback ??= this.#begun.then((writer) => writer.beginFeedback(trainerId, local));
          await (await feedback).write(tensor, offset, bytes);
        },
      },
    );
    this.#intakes.set(trainerId, intake);
  }

  /**
   * Seals it with what these trainers keep of their gradients; if that fails nothing of it is left.
   * @throws CheckpointError if the weights have not the hash that was told
   */
  async finish(trainerIds: readonly string[], weightsSha256: string | null = null): Promise<CheckpointInfo> {
    const writer = await this.#begun;
    try {
      const sent = trainerIds.flatMap((trainerId) => this.#intakes.get(trainerId) ?? []);
      for (const intake of sent) await intake.flushed();
      await this.#settled();
      const kept = trainerIds.filter((trainerId) => this.#intakes.get(trainerId)?.hasLocal === true);
      return await writer.finish(this.#contents.facts, kept, weightsSha256);
    } catch (error) {
      await this.abandon();
      throw error;
    }
  }

  /** Deletes what was written. */
  async abandon(): Promise<void> {
    await this.#settled();
    const writer = await this.#begun.catch(() => null);
    await writer?.abandon();
  }

  /** No file is being written any more. */
  async #settled(): Promise<void> {
    await Promise.allSettled([...this.#intakes.values()].map((intake) => intake.flushed()));
  }
}
