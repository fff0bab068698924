/**
 * Where a run is kept so that a coordinator can go on with it: who leads, the records, the checkpoints. One contract,
 * three implementations: the run directory (file-store.ts), NATS JetStream (nats/), memory for tests
 * (memory-store.ts); test/contract/state-store.ts says what all of them do. See docs/state.md, "State
 * store".
 *
 * A run directory is there in any case, and everything that reads records and checkpoints reads them from it. With a
 * store elsewhere that store decides what is committed, and the directory is a mirror of it (mirror.ts): what it has
 * is always the beginning of what the store has.
 */
import { OperatingError } from '../../errors.ts';
import type { RecordSummary } from './journal.ts';

/** What a store keeps of a run besides records and checkpoints. */
export interface StoredRun {
  readonly runId: string;
  readonly name: string;
  /** run.yaml, resolved. Holds no secrets. */
  readonly configYaml: string;
}

/** Who wants to lead a run. */
export interface Holder {
  /** Of this process, never used again: a coordinator that is started anew is another holder. */
  readonly holderId: string;
  /** Where trainers reach it, such as `wss://10.0.0.7:29400`; empty: not told. */
  readonly address: string;
}

/** Who leads a run. */
export interface Leader extends Holder {
  /** Counts the leaders of a run: 1, 2, … */
  readonly epoch: number;
}

/**
 * The right to commit, of one coordinator at a time. Two may believe that they have it (one was stopped and goes on);
 * the store refuses everything of the one with the lower epoch.
 */
export interface Lease extends Leader {
  /** The last record that was committed before; 0: none. */
  readonly lastSequence: number;
  /**
   * False from the moment when the store might have given the lease to another: it was not renewed for too long. It may
   * become true again (nobody took it meanwhile). While it is false nothing is committed: `append` rejects with
   * StoreUnavailable.
   */
  readonly isCurrent: boolean;
  /** Aborted, with a LeaseLost as the reason, when another leads or the store could not be reached for too long. */
  readonly lost: AbortSignal;
  /** Tells where trainers reach the holder, once that is known. */
  setAddress(address: string): Promise<void>;
  /** Gives it back: another may have it at once. Never rejects; a second time does nothing. */
  release(): Promise<void>;
}

/** A committed record as it was appended: the encoded frames, its Commit last. */
export interface StoredRecord extends RecordSummary {
  readonly frames: readonly Uint8Array[];
}

/** A whole checkpoint in a store. */
export interface StoredCheckpoint {
  readonly step: number;
  /** The last record included, and its digest in hexadecimal. */
  readonly sequence: number;
  readonly digest: string;
  readonly weightsSha256: string;
}

/** Something that happened in a run, for those who watch it. Numbers as in metrics.jsonl and evaluations.jsonl. */
export interface StoreEvent {
  readonly type: 'step' | 'evaluation' | 'checkpoint' | 'leader' | 'finished';
  readonly step: number;
  readonly [field: string]: unknown;
}

/** The checkpoints of a run. */
export interface CheckpointStore {
  /** Those that are whole, ascending by step. */
  list(): Promise<readonly StoredCheckpoint[]>;
  /**
   * Keeps the checkpoint of `step` that is in `checkpointsDir`, whole and proved. A crash on the way leaves none.
   * @throws LeaseLost, StoreFull, StoreUnavailable
   */
  put(lease: Lease, checkpointsDir: string, step: number): Promise<void>;
  /**
   * Makes the checkpoint of `step` exist in `checkpointsDir`, unless it does already. Its manifest is not compared with
   * the files: whoever opens it does that.
   * @throws CheckpointError when the store has none of it
   */
  get(checkpointsDir: string, step: number): Promise<void>;
  /** Deletes it, so that a crash leaves no half of it. Does nothing when there is none. */
  remove(lease: Lease, step: number): Promise<void>;
}

/** One run in a store; the name of the run was given when it was opened. */
export interface StateStore {
  /** For messages: `runs/a` or `nats://10.0.0.5:4222`. Never holds a secret. */
  readonly where: string;
  /** Null: there is no run of this name. */
  readRun(): Promise<StoredRun | null>;
  /**
   * Begins a run, and leads it from its first moment on. Of several that do so at once one succeeds.
   * @throws CheckpointError when there is a run of this name; the reason of `signal`
   */
  createRun(run: StoredRun, holder: Holder, signal?: AbortSignal): Promise<Lease>;
  /**
   * Begins another in the place of a run that has neither a checkpoint nor a record, because its start was cut off. The
   * lease to go on with.
   * @throws LeaseLost, StoreUnavailable
   */
  restartRun(lease: Lease, run: StoredRun): Promise<Lease>;
  /** Who leads, or led last; null: nobody, or the lease was given back. */
  leader(): Promise<Leader | null>;
  /**
   * Waits until nobody else leads, then leads: what earlier leaders still send is refused from then on.
   * @throws the reason of `signal`; CheckpointError when there is no run of this name
   */
  acquire(holder: Holder, signal?: AbortSignal): Promise<Lease>;
  /**
   * Appends one record. When this resolves it is committed: it survives what the store survives, and every later
   * leader has it. When it rejects with StoreFull or StoreUnavailable the same record can be appended again; whether
   * it was stored in the meantime is found out, so it is never there twice.
   * @throws LeaseLost: it is not committed by us, and nothing will be; StoreFull; StoreUnavailable
   */
  append(lease: Lease, frames: readonly Uint8Array[], summary: RecordSummary): Promise<void>;
  /**
   * The records from `fromSequence` to the last one at the time of the call. Half of a record, of a leader that died, is
   * left out.
   * @throws CheckpointError when records from there on are not here any more, or are damaged
   */
  records(fromSequence: number): AsyncGenerator<StoredRecord, void, void>;
  /** The same, and then those to come, until `signal` is aborted: then it ends. */
  follow(fromSequence: number, signal: AbortSignal): AsyncGenerator<StoredRecord, void, void>;
  /** Deletes records before `sequence` as far as that is convenient; never the last one. */
  removeRecordsBefore(lease: Lease, sequence: number): Promise<void>;
  readonly checkpoints: CheckpointStore;
  /** Tells those who watch; nothing is kept, and nobody is waited for. Never throws. */
  publish(event: StoreEvent): void;
  /** What is published from now on, until `signal` is aborted: then it ends. */
  watch(signal: AbortSignal): AsyncGenerator<StoreEvent, void, void>;
  /** Closes it, and gives back a lease that is held. */
  close(): Promise<void>;
}

/** Another coordinator leads, or it must be taken for granted: this one is to end without committing anything more. */
export class LeaseLost extends OperatingError {}

/** The store cannot be reached, or takes nothing for now. The same can be tried again. */
export class StoreUnavailable extends OperatingError {}

/** The store has no room. The same can be tried again when there is some. */
export class StoreFull extends OperatingError {}
