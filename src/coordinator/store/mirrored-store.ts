/**
 * A store elsewhere and the run directory that mirrors it, as one: a record is committed there, then it goes into the
 * journal here. What the coordinator reads it reads here.
 */
import type { RecordSummary } from './journal.ts';
import type { Journal } from './journal.ts';
import type {
  CheckpointStore,
  Holder,
  Leader,
  Lease,
  StateStore,
  StoredRecord,
  StoredRun,
  StoreEvent,
} from './state-store.ts';

export class MirroredStateStore implements StateStore {
  readonly where: string;
  readonly checkpoints: CheckpointStore;
  readonly #remote: StateStore;
  readonly #journal: Journal;
  /** The last record that is committed there; it may still be missing here. */
  #committed: number;

  /** @param journal holds all that is committed */
  constructor(remote: StateStore, journal: Journal) {
    this.where = remote.where;
    this.checkpoints = remote.checkpoints;
    this.#remote = remote;
    this.#journal = journal;
    this.#committed = journal.nextSequence - 1;
  }

  async append(lease: Lease, frames: readonly Uint8Array[], summary: RecordSummary): Promise<void> {
    // A disk that was full here: the record is committed all the same, and only the mirror lacks it.
    if (summary.sequence > this.#committed) await this.#remote.append(lease, frames, summary);
    this.#committed = summary.sequence;
    await this.#journal.append(frames, summary);
  }

  readRun(): Promise<StoredRun | null> {
    return this.#remote.readRun();
  }

  createRun(run: StoredRun): Promise<void> {
    return this.#remote.createRun(run);
  }

  discardRun(lease: Lease): Promise<void> {
    return this.#remote.discardRun(lease);
  }

  leader(): Promise<Leader | null> {
    return this.#remote.leader();
  }

  acquire(holder: Holder, signal?: AbortSignal): Promise<Lease> {
    return this.#remote.acquire(holder, signal);
  }

  records(fromSequence: number): AsyncGenerator<StoredRecord, void, void> {
    return this.#remote.records(fromSequence);
  }

  follow(fromSequence: number, signal: AbortSignal): AsyncGenerator<StoredRecord, void, void> {
    return this.#remote.follow(fromSequence, signal);
  }

  removeRecordsBefore(lease: Lease, sequence: number): Promise<void> {
    return this.#remote.removeRecordsBefore(lease, sequence);
  }

  publish(event: StoreEvent): void {
    this.#remote.publish(event);
  }

  watch(signal: AbortSignal): AsyncGenerator<StoreEvent, void, void> {
    return this.#remote.watch(signal);
  }

  close(): Promise<void> {
    return this.#remote.close();
  }
}
