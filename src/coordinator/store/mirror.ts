/**
 * The run directory of a coordinator whose run is kept in a store: brought to what the store has, and held there while
 * another leads. What it has beyond the store, or otherwise than it, was never committed and goes. See docs/state.md,
 * "State store". SHELL.
 */
import { rm } from 'node:fs/promises';
import { CheckpointError } from '../../errors.ts';
import { explaining } from '../../files/system-error.ts';
import { describeCheckpoint, listCheckpointSteps, openCheckpoint, removeCheckpoint } from './checkpoint.ts';
import { Journal } from './journal.ts';
import {
  committedStep,
  createRunDirectory,
  discardRunDirectory,
  openRunDirectory,
  readRunDirectory,
  type RunDirectory,
  type RunDirectoryPaths,
} from './run-directory.ts';
import type { StateStore, StoredCheckpoint, StoredRun } from './state-store.ts';

/** How often a mirror that follows looks for new checkpoints, in records. */
const RECORDS_BETWEEN_LOOKS = 32;

/** What `dir` says of its run; null: it holds none. @throws CheckpointError when it is damaged */
export async function readMirror(dir: string): Promise<RunDirectoryPaths | null> {
  try {
    return await readRunDirectory(dir);
  } catch (error) {
    const isNone =
      error instanceof CheckpointError && /does not exist|is not a run directory/.test(error.message);
    if (isNone) return null;
    throw error;
  }
}

/**
 * What `dir` says of this run; null: it holds none. What is left there of another whose start was cut off goes.
 * @throws CheckpointError when it holds another run than the store
 */
export async function settleMirror(
  dir: string,
  run: StoredRun,
  where: string,
): Promise<RunDirectoryPaths | null> {
  const held = await readMirror(dir);
  if (held === null || held.runId === run.runId) return held;
  if (await discardUntrained(dir)) return null;
  throw new CheckpointError(
    dir,
    `${dir} holds run ${held.name} with the id ${held.runId}, the run of that name in ${where} has the id ${run.runId}; ` +
      'choose another --dir, or another name',
  );
}

/** Removes a run of which no step was ever committed. False: it is trained. @throws OperatingError when it is in use */
export async function discardUntrained(dir: string): Promise<boolean> {
  const directory = await openRunDirectory(dir);
  try {
    const isUntrained = (await committedStep(dir)) === 0;
    if (isUntrained) await discardRunDirectory(dir);
    return isUntrained;
  } finally {
    await directory.close();
  }
}

/**
 * Brings `dir` up to date with the store; it is made if need be. Holds its lock meanwhile. Nothing may be appended at
 * the same time but records behind `lastSequence`.
 * @param lastSequence the last record that it is to have
 * @throws CheckpointError when the directory holds another run, or the store has no whole checkpoint
 */
export async function mirrorRun(
  store: StateStore,
  dir: string,
  lastSequence: number,
  onNotice: (text: string) => void,
): Promise<void> {
  const run = await store.readRun();
  if (run === null) throw new CheckpointError(store.where, `${store.where} does not have the run any more`);
  await using mirror = await Mirror.open(store, run, dir, onNotice);
  if (!(await mirror.catchUp({ lastSequence }))) {
    throw new CheckpointError(store.where, `${store.where} has no whole checkpoint of the run`);
  }
  if (mirror.sequence < lastSequence) {
    const text = `${store.where} ends at record ${mirror.sequence}, not at ${lastSequence}`;
    throw new CheckpointError(store.where, text);
  }
}

export interface CatchUpOptions {
  /** The last record that is wanted; default: all that there are. */
  readonly lastSequence?: number;
  readonly onProgress?: (text: string) => void;
}

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
    const isThere = (await settleMirror(dir, run, store.where)) !== null;
    const directory = isThere
      ? await openRunDirectory(dir, onNotice)
      : await createRunDirectory(dir, run, onNotice);
    try {
      return new Mirror(store, directory, await openSound(directory.journalDir, onNotice), onNotice);
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

  /** Takes over the newest whole checkpoint and the records behind it. False: there is no checkpoint yet. */
  async catchUp({ lastSequence = Infinity, onProgress = () => {} }: CatchUpOptions = {}): Promise<boolean> {
    const stored = await this.#store.checkpoints.list();
    const newest = await this.#fetchNewest(stored, onProgress);
    if (newest === null) return false;
    if (!(await this.#isBeginning(stored, newest, lastSequence))) await this.#restartAfter(newest);
    const before = this.sequence;
    if (before < lastSequence) {
      for await (const { frames, ...summary } of this.#store.records(before + 1)) {
        if (summary.sequence > lastSequence) break;
        await this.#journal.append(frames, summary);
        if (summary.sequence % 100 === 0) onProgress(`copying records: ${summary.sequence}`);
      }
    }
    const count = this.sequence - before;
    const what = count === 1 ? 'one record' : `${count} records`;
    if (count > 0) this.#onNotice(`fetched ${what} from ${this.#store.where}`);
    return true;
  }

  /** Takes over what comes, until `signal` is aborted. @throws what the store throws: it can be called again */
  async follow(signal: AbortSignal, onStep: (step: number) => void): Promise<void> {
    for await (const { frames, ...summary } of this.#store.follow(this.sequence + 1, signal)) {
      await this.#journal.append(frames, summary);
      onStep(summary.step);
      if (++this.#sinceLook < RECORDS_BETWEEN_LOOKS) continue;
      this.#sinceLook = 0;
      await this.#look();
    }
  }

  async close(): Promise<void> {
    await this.#journal.close();
    await this.#directory.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** For a new checkpoint, and for those that are not kept any more, with the records that only they needed. */
  async #look(): Promise<void> {
    const stored = await this.#store.checkpoints.list();
    await this.#fetchNewest(stored, () => {});
    await this.#journal.startSegment();
    const [oldest] = stored;
    if (oldest !== undefined) await this.#journal.removeSegmentsBefore(oldest.sequence + 1);
  }

  /** The newest that is whole is here when this resolves, and nothing that the store does not have. Null: it has none. */
  async #fetchNewest(
    stored: readonly StoredCheckpoint[],
    onProgress: (text: string) => void,
  ): Promise<StoredCheckpoint | null> {
    // A run whose first checkpoint has not come to the store yet: this may be the directory it began in.
    if (stored.length === 0) return null;
    const { checkpointsDir } = this.#directory;
    for (const step of await listCheckpointSteps(checkpointsDir)) {
      const known = stored.find((checkpoint) => checkpoint.step === step);
      const own = await describeCheckpoint(checkpointsDir, step).catch(() => null);
      if (own !== null && own.weightsSha256 === known?.weightsSha256) continue;
      await removeCheckpoint(checkpointsDir, step);
    }
    const here = await listCheckpointSteps(checkpointsDir);
    for (const checkpoint of stored.toReversed()) {
      const { step } = checkpoint;
      try {
        if (!here.includes(step)) onProgress(`copying the checkpoint of step ${step}`);
        await this.#store.checkpoints.get(checkpointsDir, step);
        await (await openCheckpoint(checkpointsDir, step)).close();
        return checkpoint;
      } catch (error) {
        if (!(error instanceof CheckpointError)) throw error;
        this.#onNotice(`${error.message}; trying the checkpoint before it`);
        await removeCheckpoint(checkpointsDir, step).catch(() => {});
      }
    }
    return null;
  }

  /** Whether the store's records begin with those that are here, reach on from them, and these reach back to `newest`. */
  async #isBeginning(
    stored: readonly StoredCheckpoint[],
    newest: StoredCheckpoint,
    lastSequence: number,
  ): Promise<boolean> {
    const { head, firstSequence } = this.#journal;
    const own = this.sequence;
    // A store keeps the records behind its oldest checkpoint.
    if (own > lastSequence || own < stored[0]!.sequence || firstSequence - 1 > newest.sequence) return false;
    const known = stored.find(({ sequence }) => sequence === own);
    if (head === null) return known !== undefined;
    return Buffer.from(head.digest).toString('hex') === (known?.digest ?? (await digestIn(this.#store, own)));
  }

  async #restartAfter({ sequence, digest }: StoredCheckpoint): Promise<void> {
    const { journalDir } = this.#directory;
    if (this.#journal.head !== null) {
      this.#onNotice(`${journalDir} is not what ${this.#store.where} has; its records are fetched anew`);
    }
    await this.#journal.close();
    await explaining(`delete ${journalDir}`, rm(journalDir, { recursive: true }));
    this.#journal = await Journal.open(journalDir, this.#onNotice);
    await this.#journal.restartAfter(sequence, new Uint8Array(Buffer.from(digest, 'hex')));
  }
}

/** A damaged one is worth nothing: the store has it all. */
async function openSound(journalDir: string, onNotice: (text: string) => void): Promise<Journal> {
  try {
    return await Journal.open(journalDir, onNotice);
  } catch (error) {
    if (!(error instanceof CheckpointError)) throw error;
    onNotice(`${error.message}; its records are fetched anew`);
    await explaining(`delete ${journalDir}`, rm(journalDir, { recursive: true }));
    return await Journal.open(journalDir, onNotice);
  }
}

/** In hexadecimal; null: the store does not have the record. */
async function digestIn(store: StateStore, sequence: number): Promise<string | null> {
  try {
    for await (const { digest } of store.records(sequence)) return Buffer.from(digest).toString('hex');
  } catch (error) {
    if (!(error instanceof CheckpointError)) throw error;
  }
  return null;
}
