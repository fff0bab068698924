/**
 * The run directory as a state store: its lock is the lease, its journal and its checkpoints are what they are. SHELL.
 */
import { cp } from 'node:fs/promises';
import { join } from 'node:path';
import { CheckpointError } from '../../errors.ts';
import { explaining } from '../../files/system-error.ts';
import { receiveCheckpoint, readCheckpointFiles } from './checkpoint-copy.ts';
import { checkpointName } from './checkpoint-format.ts';
import { describeCheckpoint, listCheckpointSteps, readRunFacts, removeCheckpoint } from './checkpoint.ts';
import { readLockOwner } from './directory-lock.ts';
import { EventHub } from './event-hub.ts';
import { readFrames } from './journal-read.ts';
import { scanJournal, type RecordPlace } from './journal-scan.ts';
import { Journal, type RecordSummary } from './journal.ts';
import type { StoreClock } from './lease-keeper.ts';
import {
  createRunDirectory,
  discardRunDirectory,
  openRunDirectory,
  readRunDirectory,
  type RunDirectory,
} from './run-directory.ts';
import {
  LeaseLost,
  type CheckpointStore,
  type Holder,
  type Leader,
  type Lease,
  type StateStore,
  type StoredCheckpoint,
  type StoredRecord,
  type StoredRun,
  type StoreEvent,
} from './state-store.ts';

/** How often one looks for the lock to be given back, and for records of another process. */
const LOOK_INTERVAL_MS = 200;

/** A run directory that this process has locked, with its journal. */
interface OpenedRun {
  readonly directory: Pick<RunDirectory, 'close'>;
  readonly journal: Journal;
}

export class FileStateStore implements StateStore {
  readonly where: string;
  readonly checkpoints: CheckpointStore;
  readonly #dir: string;
  readonly #clock: StoreClock;
  readonly #events = new EventHub<StoreEvent>();
  /** Null: this process has not the lock. */
  #opened: OpenedRun | null = null;
  #lease: FileLease | null = null;

  constructor(dir: string, clock: StoreClock) {
    this.where = dir;
    this.#dir = dir;
    this.#clock = clock;
    this.checkpoints = {
      list: () => this.#list(),
      put: (lease, checkpointsDir, step) => this.#put(lease, checkpointsDir, step),
      get: (checkpointsDir, step) => this.#copy(this.#checkpointsDir, checkpointsDir, step),
      remove: async (lease, step) => {
        this.#check(lease);
        const steps = await listCheckpointSteps(this.#checkpointsDir);
        if (steps.includes(step)) await removeCheckpoint(this.#checkpointsDir, step);
      },
    };
  }

  /** Of a directory that is open already; its owner closes it. */
  static leading(
    dir: string,
    journal: Journal,
    holder: Holder,
    clock: StoreClock,
  ): { readonly store: FileStateStore; readonly lease: Lease } {
    const store = new FileStateStore(dir, clock);
    store.#opened = { directory: { close: () => Promise.resolve() }, journal };
    store.#lease = new FileLease(holder, journal.nextSequence - 1, () => Promise.resolve());
    return { store, lease: store.#lease };
  }

  async readRun(): Promise<StoredRun | null> {
    try {
      const { runId, name, configYaml } = await readRunDirectory(this.#dir);
      return { runId, name, configYaml };
    } catch (error) {
      if (error instanceof CheckpointError) return null;
      throw error;
    }
  }

  async createRun(run: StoredRun, holder: Holder): Promise<Lease> {
    if ((await this.readRun()) !== null) {
      throw new CheckpointError(this.#dir, `${this.#dir} already holds run ${run.name}`);
    }
    return await this.#lead(await createRunDirectory(this.#dir, run), holder);
  }

  async restartRun(lease: Lease, run: StoredRun): Promise<Lease> {
    this.#check(lease);
    await lease.release();
    await discardRunDirectory(this.#dir);
    return await this.createRun(run, lease);
  }

  async leader(): Promise<Leader | null> {
    if (this.#lease !== null) return this.#lease;
    const owner = await readLockOwner(this.#dir);
    if (owner === null || owner.liveness === 'dead') return null;
    return { holderId: `${owner.owner?.host}:${owner.owner?.pid}`, address: '', epoch: 1 };
  }

  async acquire(holder: Holder, signal?: AbortSignal): Promise<Lease> {
    for (;;) {
      signal?.throwIfAborted();
      await readRunDirectory(this.#dir);
      const owner = await readLockOwner(this.#dir);
      if (owner === null || owner.liveness === 'dead') break;
      await this.#clock.sleep(LOOK_INTERVAL_MS, signal);
    }
    return await this.#lead(await openRunDirectory(this.#dir), holder);
  }

  async append(lease: Lease, frames: readonly Uint8Array[], summary: RecordSummary): Promise<void> {
    await this.#check(lease).journal.append(frames, summary);
  }

  async *records(fromSequence: number): AsyncGenerator<StoredRecord, void, void> {
    const places = await this.#placesFrom(fromSequence);
    for (const place of places) yield await readRecord(place);
  }

  async *follow(fromSequence: number, signal: AbortSignal): AsyncGenerator<StoredRecord, void, void> {
    for (let next = fromSequence; !signal.aborted;) {
      for (const place of await this.#placesFrom(next)) {
        if (signal.aborted) return;
        yield await readRecord(place);
        next = place.sequence + 1;
      }
      await this.#clock.sleep(LOOK_INTERVAL_MS, signal);
    }
  }

  async removeRecordsBefore(lease: Lease, sequence: number): Promise<void> {
    await this.#check(lease).journal.removeSegmentsBefore(sequence);
  }

  publish(event: StoreEvent): void {
    this.#events.tell(event);
  }

  watch(signal: AbortSignal): AsyncGenerator<StoreEvent, void, void> {
    return this.#events.told(signal);
  }

  async close(): Promise<void> {
    await this.#lease?.release();
  }

  get #checkpointsDir(): string {
    return join(this.#dir, 'checkpoints');
  }

  #check(lease: Lease): OpenedRun {
    if (lease !== this.#lease || this.#opened === null)
      throw new LeaseLost('this is not the lease of this store');
    return this.#opened;
  }

  async #letGo(): Promise<void> {
    const opened = this.#opened;
    this.#opened = null;
    this.#lease = null;
    await opened?.journal.close();
    await opened?.directory.close();
  }

  /** @throws CheckpointError when the first of them are not there any more */
  async #placesFrom(sequence: number): Promise<readonly RecordPlace[]> {
    const journal = this.#opened?.journal;
    const path = join(this.#dir, 'journal');
    let places: readonly RecordPlace[];
    if (journal === undefined) {
      const { records } = await scanJournal(path, { isFull: false, fromSequence: sequence });
      places = records.filter((record) => record.sequence >= sequence);
    } else {
      const count = Math.max(0, journal.nextSequence - sequence);
      places = Array.from({ length: count }, (_, i) => journal.describe(sequence + i)).filter(
        (p) => p !== null,
      );
      if (places.length < count) throw missing(path, sequence);
    }
    if (places.length > 0 && places[0]!.sequence !== sequence) throw missing(path, sequence);
    return places;
  }

  /** With the lock of the directory. */
  async #lead(directory: RunDirectory, holder: Holder): Promise<Lease> {
    try {
      const journal = await Journal.open(directory.journalDir, () => {});
      this.#opened = { directory, journal };
      this.#lease = new FileLease(holder, journal.nextSequence - 1, () => this.#letGo());
      return this.#lease;
    } catch (error) {
      await directory.close();
      throw error;
    }
  }

  async #list(): Promise<readonly StoredCheckpoint[]> {
    const stored: StoredCheckpoint[] = [];
    for (const step of await listCheckpointSteps(this.#checkpointsDir)) {
      try {
        const { weightsSha256 } = await describeCheckpoint(this.#checkpointsDir, step);
        const { sequence, digest } = await readRunFacts(this.#checkpointsDir, step);
        stored.push({ step, sequence, digest, weightsSha256 });
      } catch (error) {
        if (!(error instanceof CheckpointError)) throw error; // a damaged one is none
      }
    }
    return stored;
  }

  async #put(lease: Lease, checkpointsDir: string, step: number): Promise<void> {
    this.#check(lease);
    await this.#copy(checkpointsDir, this.#checkpointsDir, step);
  }

  /** Nothing to do within the run directory. */
  async #copy(from: string, to: string, step: number): Promise<void> {
    if (from === to) return;
    await readCheckpointFiles(from, step);
    await receiveCheckpoint(to, step, async (folder) => {
      await explaining(`write ${folder}`, cp(join(from, checkpointName(step)), folder, { recursive: true }));
    });
  }
}

/** As long as the process lives nobody takes it away. */
class FileLease implements Lease {
  readonly holderId: string;
  readonly epoch = 1;
  readonly isCurrent = true;
  readonly lost = new AbortController().signal;
  readonly lastSequence: number;
  #address: string;
  readonly #letGo: () => Promise<void>;

  constructor({ holderId, address }: Holder, lastSequence: number, letGo: () => Promise<void>) {
    this.holderId = holderId;
    this.#address = address;
    this.lastSequence = lastSequence;
    this.#letGo = letGo;
  }

  get address(): string {
    return this.#address;
  }

  setAddress(address: string): Promise<void> {
    this.#address = address;
    return Promise.resolve();
  }

  release(): Promise<void> {
    return this.#letGo();
  }
}

async function readRecord(place: RecordPlace): Promise<StoredRecord> {
  const frames: Uint8Array[] = [];
  for await (const frame of readFrames(place)) frames.push(frame);
  const { sequence, step, kind, digest } = place;
  return { sequence, step, kind, digest, frames };
}

function missing(path: string, sequence: number): CheckpointError {
  return new CheckpointError(path, `${path}: record ${sequence} is not there any more`);
}
