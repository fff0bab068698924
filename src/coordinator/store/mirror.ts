/**
 * Makes a run directory the mirror of a store: the newest checkpoint, and every record behind it. What the directory has
 * beyond the store, or otherwise than it, was never committed and goes. See docs/state.md, "State store".
 */
import { rm } from 'node:fs/promises';
import { CheckpointError } from '../../errors.ts';
import { explaining } from '../../files/system-error.ts';
import { describeCheckpoint, listCheckpointSteps, openCheckpoint, removeCheckpoint } from './checkpoint.ts';
import { Journal } from './journal.ts';
import {
  createRunDirectory,
  openRunDirectory,
  readRunDirectory,
  type RunDirectory,
  type RunDirectoryPaths,
} from './run-directory.ts';
import type { StateStore, StoredCheckpoint, StoredRun } from './state-store.ts';

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

/** @throws CheckpointError when `dir` holds another run than the store */
export async function checkMirror(dir: string, run: StoredRun, where: string): Promise<void> {
  const held = await readMirror(dir);
  if (held === null || held.runId === run.runId) return;
  throw new CheckpointError(
    dir,
    `${dir} holds run ${held.name} with the id ${held.runId}, the run of that name in ${where} has the id ${run.runId}; ` +
      'choose another --dir, or another name',
  );
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
  await checkMirror(dir, run, store.where);
  const directory =
    (await readMirror(dir)) === null ? await createRunDirectory(dir, run) : await openRunDirectory(dir);
  try {
    const checkpoint = await mirrorCheckpoints(store, directory, onNotice);
    await mirrorRecords(store, directory, checkpoint, lastSequence, onNotice);
  } finally {
    await directory.close();
  }
}

/** The one that the run goes on from. */
async function mirrorCheckpoints(
  store: StateStore,
  { checkpointsDir }: RunDirectory,
  onNotice: (text: string) => void,
): Promise<StoredCheckpoint> {
  const stored = await store.checkpoints.list();
  for (const step of await listCheckpointSteps(checkpointsDir)) {
    const known = stored.find((checkpoint) => checkpoint.step === step);
    const own = await describeCheckpoint(checkpointsDir, step).catch(() => null);
    if (own !== null && own.weightsSha256 === known?.weightsSha256) continue;
    await removeCheckpoint(checkpointsDir, step);
  }
  for (const checkpoint of stored.toReversed()) {
    const { step } = checkpoint;
    try {
      await store.checkpoints.get(checkpointsDir, step);
      await (await openCheckpoint(checkpointsDir, step)).close();
      return checkpoint;
    } catch (error) {
      if (!(error instanceof CheckpointError)) throw error;
      onNotice(`${error.message}; trying the checkpoint before it`);
      await removeCheckpoint(checkpointsDir, step).catch(() => {});
    }
  }
  throw new CheckpointError(store.where, `${store.where} has no whole checkpoint of the run`);
}

async function mirrorRecords(
  store: StateStore,
  { journalDir }: RunDirectory,
  checkpoint: StoredCheckpoint,
  lastSequence: number,
  onNotice: (text: string) => void,
): Promise<void> {
  let journal = await openSound(journalDir, onNotice);
  try {
    if (!(await isBeginning(store, journal, checkpoint, lastSequence))) {
      await journal.close();
      await explaining(`delete ${journalDir}`, rm(journalDir, { recursive: true }));
      journal = await Journal.open(journalDir, onNotice);
      await journal.restartAfter(checkpoint.sequence, new Uint8Array(Buffer.from(checkpoint.digest, 'hex')));
    }
    const first = journal.nextSequence;
    if (first <= lastSequence) {
      for await (const { frames, ...summary } of store.records(first)) {
        if (summary.sequence > lastSequence) break;
        await journal.append(frames, summary);
      }
    }
    if (journal.nextSequence <= lastSequence) {
      const text = `${store.where} ends at record ${journal.nextSequence - 1}, not at ${lastSequence}`;
      throw new CheckpointError(store.where, text);
    }
    const count = journal.nextSequence - first;
    if (count > 0) onNotice(`fetched ${count === 1 ? 'one record' : `${count} records`} from ${store.where}`);
  } finally {
    await journal.close();
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

/** Whether the store's records begin with those of the journal, and these reach back to the checkpoint. */
async function isBeginning(
  store: StateStore,
  journal: Journal,
  checkpoint: StoredCheckpoint,
  lastSequence: number,
): Promise<boolean> {
  const own = journal.nextSequence - 1;
  if (own > lastSequence || own < checkpoint.sequence || journal.firstSequence - 1 > checkpoint.sequence)
    return false;
  const known = own === checkpoint.sequence ? checkpoint.digest : await digestIn(store, own);
  const digest = journal.digestOf(own);
  if (journal.head === null) return own === checkpoint.sequence;
  return digest !== null && Buffer.from(digest).toString('hex') === known;
}

/** Null: the store does not have the record. */
async function digestIn(store: StateStore, sequence: number): Promise<string | null> {
  try {
    for await (const { digest } of store.records(sequence)) return Buffer.from(digest).toString('hex');
  } catch (error) {
    if (!(error instanceof CheckpointError)) throw error;
  }
  return null;
}
