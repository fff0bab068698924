/**
 * The run directory of a coordinator whose run is kept in a state store: brought to what the store has, and held there
 * while another leads. What the directory has beyond that, or differently, is dropped: the store decides. SHELL.
 */
import { rm } from 'node:fs/promises';
import { CheckpointError } from '../errors.ts';
import { explaining } from '../files/system-error.ts';
import { isSameDigest } from '../protocol/digest.ts';
import { listCheckpointSteps, removeCheckpoint } from './store/checkpoint.ts';
import { Journal } from './store/journal.ts';
import {
  createRunDirectory,
  openRunDirectory,
  readRunDirectory,
  type RunDirectory,
} from './store/run-directory.ts';
import type { StateStore, StoredCheckpoint, StoredRun } from './store/state-store.ts';

/** How often a mirror looks for new checkpoints, in records. */
const RECORDS_BETWEEN_LOOKS = 32;

export class Mirror {
  readonly #store: StateStore;
  readonly #directory: RunDirectory;
  readonly #onNotice: (text: string) => void;
  #journal: Journal;
  #sinceLook = 0;

  private constructor(
    store: StateStore,
    directory: RunDirectory,
    journal: Journal,
    onNotice: (text: string) => void,
  ) {
    this.#store = store;
    this.#directory = directory;
    this.#journal = journal;
    this.#onNotice = onNotice;
  }

  /**
   * Opens `dir`, or makes it, and locks it.
   * @throws CheckpointError when another run is there, OperatingError when it is in use or cannot be written
   */
  static async open(
    store: StateStore,
    run: StoredRun,
    dir: string,
    onNotice: (text: string) => void,
  ): Promise<Mirror> {
    const found = await readRunDirectory(dir).catch((error: unknown) => {
      if (error instanceof CheckpointError) return null;
      throw error;
    });
    if (found !== null && found.runId !== run.runId) {
      const text = `${dir} holds another run (${found.name}, ${found.runId}) than ${store.where} (${run.runId}); choose another --dir`;
      throw new CheckpointError(dir, text);
    }
    const directory =
      found === null ? await createRunDirectory(dir, run, onNotice) : await openRunDirectory(dir, onNotice);
    try {
      return new Mirror(store, directory, await openJournal(directory.journalDir, onNotice), onNotice);
    } catch (error) {
      await directory.close();
      throw error;
    }
  }

  /** The last record here. */
  get sequence(): number {
    return this.#journal.nextSequence - 1;
  }

  get step(): number {
    return this.#journal.head?.step ?? 0;
  }

  /** Takes over all that the store has. `onProgress`: records of so many. Returns whether there is a checkpoint. */
  async catchUp(onProgress: (text: string) => void = () => {}): Promise<boolean> {
    const kept = await this.#store.checkpoints.list();
    await this.#dropForeign(kept);
    const [oldest] = kept;
    if (oldest !== undefined && this.sequence < oldest.sequence) {
      await this.#journal.restartAfter(oldest.sequence, digestOf(oldest));
    }
    const missing = await this.#missing(kept);
    for (const [i, step] of missing.entries()) {
      onProgress(`copying the checkpoint of step ${step} (${i + 1} of ${missing.length})`);
      await this.#store.checkpoints.get(this.#directory.checkpointsDir, step);
    }
    for await (const record of this.#store.records(this.sequence + 1)) {
      await this.#journal.append(record.frames, record);
      if (record.sequence % 100 === 0) onProgress(`copying records: ${record.sequence}`);
    }
    return (await listCheckpointSteps(this.#directory.checkpointsDir)).length > 0;
  }

  /** Takes over what comes, until `signal` is aborted. @throws what the store throws: it can be called again */
  async follow(signal: AbortSignal, onStep: (step: number) => void): Promise<void> {
    for await (const record of this.#store.follow(this.sequence + 1, signal)) {
      await this.#journal.append(record.frames, record);
      onStep(record.step);
      if (++this.#sinceLook < RECORDS_BETWEEN_LOOKS) continue;
      this.#sinceLook = 0;
      await this.#look();
    }
  }

  async close(): Promise<void> {
    await this.#journal.close();
    await this.#directory.close();
  }

  /** Checkpoints that are new, and that are not kept any more; records that only those needed. */
  async #look(): Promise<void> {
    const kept = await this.#store.checkpoints.list();
    const { checkpointsDir } = this.#directory;
    for (const step of await this.#missing(kept)) await this.#store.checkpoints.get(checkpointsDir, step);
    await this.#dropCheckpoints(kept);
    await this.#journal.startSegment();
    const [oldest] = kept;
    if (oldest !== undefined) await this.#journal.removeSegmentsBefore(oldest.sequence + 1);
  }

  /** Newest first: that is what is needed for going on. */
  async #missing(kept: readonly StoredCheckpoint[]): Promise<readonly number[]> {
    const here = await listCheckpointSteps(this.#directory.checkpointsDir);
    return kept
      .map(({ step }) => step)
      .filter((step) => !here.includes(step))
      .reverse();
  }

  async #dropCheckpoints(kept: readonly StoredCheckpoint[]): Promise<void> {
    // A run whose first checkpoint has not come to the store yet: this may be the directory it began in.
    if (kept.length === 0) return;
    const { checkpointsDir } = this.#directory;
    for (const step of await listCheckpointSteps(checkpointsDir)) {
      if (!kept.some((each) => each.step === step)) await removeCheckpoint(checkpointsDir, step);
    }
  }

  /** What is here and not in the store, or otherwise there. */
  async #dropForeign(kept: readonly StoredCheckpoint[]): Promise<void> {
    await this.#dropCheckpoints(kept);
    if (this.#journal.head === null || (await this.#isBeginning(this.#journal))) return;
    const { journalDir } = this.#directory;
    this.#onNotice(`${journalDir} is not what ${this.#store.where} has; it is copied anew`);
    await this.#journal.close();
    await explaining(`delete ${journalDir}`, rm(journalDir, { recursive: true, force: true }));
    this.#journal = await Journal.open(journalDir, this.#onNotice);
  }

  /** Whether the store has the last record that is here, and all behind it. */
  async #isBeginning({ head }: Journal): Promise<boolean> {
    try {
      for await (const record of this.#store.records(head!.sequence)) {
        return record.sequence === head!.sequence && isSameDigest(record.digest, head!.digest);
      }
      return false;
    } catch (error) {
      if (error instanceof CheckpointError) return false;
      throw error;
    }
  }
}

/** A journal that is damaged is begun anew: the store has all of it. */
async function openJournal(journalDir: string, onNotice: (text: string) => void): Promise<Journal> {
  try {
    return await Journal.open(journalDir, onNotice);
  } catch (error) {
    if (!(error instanceof CheckpointError)) throw error;
    onNotice(`${error.message}; it is copied anew`);
    await explaining(`delete ${journalDir}`, rm(journalDir, { recursive: true, force: true }));
    return await Journal.open(journalDir, onNotice);
  }
}

function digestOf({ digest }: StoredCheckpoint): Uint8Array {
  return new Uint8Array(Buffer.from(digest, 'hex'));
}
