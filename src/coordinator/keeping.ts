/**
 * What keeps a run that is being led: its directory alone, or a state store of which the directory is a mirror. A record
 * is committed when the keeping has it; one that is in the directory is always in the store, too.
 */
import type { RecordSummary } from './store/journal.ts';
import { describeFullDisk, isDiskFull } from './store/full-disk.ts';
import { StoreFull, StoreUnavailable, type Lease, type StateStore } from './store/state-store.ts';

export interface Keeping {
  /** Commits a record. @throws what `whyItWaits` has a word for, or what ends the coordinator */
  append(frames: readonly Uint8Array[], summary: RecordSummary): Promise<void>;
  /** The checkpoint of this step is in the directory, whole and proved. */
  keepCheckpoint(step: number): Promise<void>;
  /** Deletes all but so many checkpoints elsewhere, and the records that only those needed. */
  dropSuperfluous(keep: number): Promise<void>;
  /** Trainers reach this coordinator here. */
  tell(url: string): Promise<void>;
  /** Aborted when another may lead the run; null: nobody else can. */
  readonly lost: AbortSignal | null;
}

/** The part of a journal that is written to. */
interface Appendable {
  append(frames: readonly Uint8Array[], summary: RecordSummary): Promise<void>;
}

export function keepInDirectory(journal: Appendable): Keeping {
  return {
    append: (frames, summary) => journal.append(frames, summary),
    keepCheckpoint: () => Promise.resolve(),
    dropSuperfluous: () => Promise.resolve(),
    tell: () => Promise.resolve(),
    lost: null,
  };
}

export function keepInStore(
  store: StateStore,
  lease: Lease,
  { journal, checkpointsDir }: { readonly journal: Appendable; readonly checkpointsDir: string },
): Keeping {
  return {
    async append(frames, summary) {
      await store.append(lease, frames, summary);
      await journal.append(frames, summary);
    },
    keepCheckpoint: (step) => store.checkpoints.put(lease, checkpointsDir, step),
    async dropSuperfluous(keep) {
      const all = await store.checkpoints.list();
      for (const { step } of all.slice(0, -keep)) await store.checkpoints.remove(lease, step);
      const oldest = all.at(-keep) ?? all[0];
      if (oldest !== undefined) await store.removeRecordsBefore(lease, oldest.sequence + 1);
    },
    tell: (url) => lease.setAddress(url),
    lost: lease.lost,
  };
}

/** Why something could not be written that can be tried again, in words; null: that cannot. */
export async function whyItWaits(error: unknown, path: string, bytes: number | null): Promise<string | null> {
  if (isDiskFull(error)) return await describeFullDisk(error, path, bytes);
  return error instanceof StoreUnavailable || error instanceof StoreFull ? error.message : null;
}
