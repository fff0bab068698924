/** A state store in memory: what the others do without their machinery. For tests of whoever uses one. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CheckpointError } from '../../errors.ts';
import { writeSynced } from '../../files/atomic.ts';
import { EventHub } from './event-hub.ts';
import { placeOf, readCheckpointFiles, receiveCheckpoint } from './checkpoint-copy.ts';
import {
  acquireLease,
  readLeader,
  type KeptLease,
  type LeaseEntry,
  type LeaseRegister,
  type LeaseTimes,
  type StoreClock,
} from './lease-keeper.ts';
import type { RecordSummary } from './journal.ts';
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

interface KeptCheckpoint {
  readonly stored: StoredCheckpoint;
  readonly files: ReadonlyMap<string, Uint8Array>;
}

/** What several stores share: one run. */
export class SharedMemory {
  run: StoredRun | null = null;
  /** The last epoch that has begun. */
  epoch = 0;
  entry: { readonly entry: LeaseEntry; readonly revision: number } | null = null;
  records: StoredRecord[] = [];
  lastSequence = 0;
  readonly checkpoints = new Map<number, KeptCheckpoint>();
  readonly events = new EventHub<StoreEvent>();
  /** Told whenever a record has come. */
  readonly news = new EventHub<number>();
}

export class MemoryStateStore implements StateStore {
  readonly where = 'memory';
  readonly checkpoints: CheckpointStore;
  readonly #shared: SharedMemory;
  readonly #times: LeaseTimes;
  readonly #clock: StoreClock;
  #lease: KeptLease | null = null;

  constructor(shared: SharedMemory, times: LeaseTimes, clock: StoreClock) {
    this.#shared = shared;
    this.#times = times;
    this.#clock = clock;
    this.checkpoints = {
      list: () => Promise.resolve([...shared.checkpoints.values()].map(({ stored }) => stored).sort(byStep)),
      put: (lease, checkpointsDir, step) => this.#put(lease, checkpointsDir, step),
      get: (checkpointsDir, step) => this.#get(checkpointsDir, step),
      remove: async (lease, step) => {
        this.#check(lease);
        shared.checkpoints.delete(step);
      },
    };
  }

  readRun(): Promise<StoredRun | null> {
    return Promise.resolve(this.#shared.run);
  }

  async createRun(run: StoredRun, holder: Holder, signal?: AbortSignal): Promise<Lease> {
    if (this.#shared.run !== null) throw new CheckpointError('memory', `there is a run ${run.name} already`);
    this.#shared.run = run;
    return await this.acquire(holder, signal);
  }

  async restartRun(lease: Lease, run: StoredRun): Promise<Lease> {
    this.#check(lease);
    this.#shared.run = run;
    return lease;
  }

  leader(): Promise<Leader | null> {
    return readLeader(this.#register);
  }

  async acquire(holder: Holder, signal?: AbortSignal): Promise<Lease> {
    if (this.#shared.run === null) throw new CheckpointError('memory', 'there is no run of this name');
    const fence = async (epoch: number): Promise<number> => {
      if (epoch <= this.#shared.epoch)
        throw new LeaseLost(`another coordinator has taken over: epoch ${this.#shared.epoch} has begun`);
      this.#shared.epoch = epoch;
      return this.#shared.lastSequence;
    };
    const [register, times, clock] = [this.#register, this.#times, this.#clock];
    this.#lease = await acquireLease({ register, holder, times, clock, signal, fence });
    return this.#lease;
  }

  async append(lease: Lease, frames: readonly Uint8Array[], summary: RecordSummary): Promise<void> {
    this.#check(lease);
    if (summary.sequence !== this.#shared.lastSequence + 1)
      throw new RangeError('records are appended in order');
    this.#shared.records.push({ ...summary, frames: frames.map((frame) => Uint8Array.from(frame)) });
    this.#shared.lastSequence = summary.sequence;
    this.#shared.news.tell(summary.sequence);
  }

  async *records(fromSequence: number): AsyncGenerator<StoredRecord, void, void> {
    const last = this.#shared.lastSequence;
    for (let sequence = fromSequence; sequence <= last; sequence++) yield this.#record(sequence);
  }

  async *follow(fromSequence: number, signal: AbortSignal): AsyncGenerator<StoredRecord, void, void> {
    const news = this.#shared.news.told(signal);
    for (let next = fromSequence; ;) {
      while (next <= this.#shared.lastSequence && !signal.aborted) yield this.#record(next++);
      if ((await news.next()).done === true) return;
    }
  }

  async removeRecordsBefore(lease: Lease, sequence: number): Promise<void> {
    this.#check(lease);
    const first = Math.min(sequence, this.#shared.lastSequence);
    this.#shared.records = this.#shared.records.filter((record) => record.sequence >= first);
  }

  publish(event: StoreEvent): void {
    this.#shared.events.tell(event);
  }

  watch(signal: AbortSignal): AsyncGenerator<StoreEvent, void, void> {
    return this.#shared.events.told(signal);
  }

  async close(): Promise<void> {
    await this.#lease?.release();
  }

  get #register(): LeaseRegister {
    const shared = this.#shared;
    return {
      read: () => Promise.resolve(shared.entry),
      swap: async (entry, revision) => {
        if ((shared.entry?.revision ?? 0) !== revision) return null;
        shared.entry = { entry, revision: revision + 1 };
        return revision + 1;
      },
      isReachable: () => Promise.resolve(true),
    };
  }

  /** @throws LeaseLost, StoreUnavailable */
  #check(lease: Lease): void {
    const own = this.#lease;
    if (own === null || own !== lease) throw new LeaseLost('this is not the lease of this store');
    if (own.epoch < this.#shared.epoch)
      own.lose(new LeaseLost(`another coordinator has taken over: epoch ${this.#shared.epoch} has begun`));
    own.check();
  }

  #record(sequence: number): StoredRecord {
    const record = this.#shared.records.find((kept) => kept.sequence === sequence);
    if (record === undefined) throw new CheckpointError('memory', `record ${sequence} is not here any more`);
    return record;
  }

  async #put(lease: Lease, checkpointsDir: string, step: number): Promise<void> {
    this.#check(lease);
    const { path, files, ...stored } = await readCheckpointFiles(checkpointsDir, step);
    const contents = new Map<string, Uint8Array>();
    for (const file of files) contents.set(file, await readFile(join(path, file)));
    this.#check(lease);
    this.#shared.checkpoints.set(step, { stored, files: contents });
  }

  async #get(checkpointsDir: string, step: number): Promise<void> {
    const kept = this.#shared.checkpoints.get(step);
    if (kept === undefined) throw new CheckpointError('memory', `there is no checkpoint of step ${step}`);
    await receiveCheckpoint(checkpointsDir, step, async (folder) => {
      for (const [file, bytes] of kept.files) await writeSynced(await placeOf(folder, file), bytes);
    });
  }
}

function byStep(a: StoredCheckpoint, b: StoredCheckpoint): number {
  return a.step - b.step;
}
