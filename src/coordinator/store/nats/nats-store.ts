/**
 * A run in NATS JetStream. Records are a stream of their own, written with the sequence that is expected to be the
 * last: of two leaders only one can append. The lease, the run and the list of checkpoints are entries of a key-value
 * bucket, the checkpoints' files messages of a second stream. SHELL. See docs/state.md, "State store".
 */
import type { Msg } from '@nats-io/transport-node';
import { jetstream, type JetStreamClient } from '@nats-io/jetstream';
import { Kvm, type KV } from '@nats-io/kv';
import { CheckpointError, OperatingError } from '../../../errors.ts';
import type { RecordSummary } from '../journal.ts';
import {
  acquireLease,
  readLeader,
  type KeptLease,
  type LeaseEntry,
  type LeaseRegister,
  type LeaseRequest,
  type LeaseTimes,
  type StoreClock,
} from '../lease-keeper.ts';
import {
  LeaseLost,
  type Holder,
  type Leader,
  type Lease,
  type StateStore,
  type StoredRecord,
  type StoredRun,
  type StoreEvent,
} from '../state-store.ts';
import { NatsCheckpoints } from './nats-checkpoints.ts';
import { answersWithin, API_TIMEOUT_MS, type NatsLink } from './nats-connection.ts';
import { explainingNats, isStreamNotFound, isTooFewServers, isWrongSequence } from './nats-errors.ts';
import { RecordStream } from './record-stream.ts';

const RUN_KEY = 'run';
const LEASE_KEY = 'lease';
/** Replicas in a cluster that has as many servers. */
const CLUSTER_REPLICAS = 3;
/** Longest answer to a renewal, as a share of the lease time. */
const RENEWAL_SHARE = 0.4;

/** What a run keeps in NATS, by name. */
export interface NatsNames {
  /** Of everything that is made for the run. */
  readonly description: string;
  readonly stream: string;
  readonly checkpointStream: string;
  readonly bucket: string;
  readonly journalSubject: string;
  /** Two tokens follow. */
  readonly checkpointSubject: string;
  readonly eventSubject: string;
}

/** Names of streams and buckets have neither dots nor more than one meaning of "_". */
export function natsNames(runName: string): NatsNames {
  const token = runName.replace(/[_.]/g, (sign) => (sign === '_' ? '__' : '_d'));
  return {
    description: `galore-swarm run ${runName}`,
    stream: `galore-journal-${token}`,
    checkpointStream: `galore-checkpoints-${token}`,
    bucket: `galore-${token}`,
    journalSubject: `galore.journal.${token}`,
    checkpointSubject: `galore.checkpoints.${token}`,
    eventSubject: `galore.events.${token}`,
  };
}

/** How a run is kept. */
export interface NatsStoreOptions {
  readonly runName: string;
  /** Servers that have a copy; undefined: 3 in a cluster of as many, else 1. */
  readonly replicas?: number | undefined;
  readonly times: LeaseTimes;
  readonly clock: StoreClock;
}

export class NatsStateStore implements StateStore {
  readonly where: string;
  readonly checkpoints: NatsCheckpoints;
  readonly #link: NatsLink;
  readonly #options: NatsStoreOptions;
  readonly #names: NatsNames;
  readonly #client: JetStreamClient;
  /** For the lease: an answer that comes late is none. */
  readonly #quickClient: JetStreamClient;
  readonly #quickMs: number;
  readonly #records: RecordStream;
  #lease: KeptLease | null = null;
  #bucket: Promise<KV> | null = null;
  #leaseBucket: Promise<KV> | null = null;

  /** The connections are closed with the store. */
  constructor(link: NatsLink, options: NatsStoreOptions) {
    this.where = link.where;
    this.#link = link;
    this.#options = options;
    this.#names = natsNames(options.runName);
    this.#client = jetstream(link.connection, { timeout: API_TIMEOUT_MS });
    this.#quickMs = Math.max(100, Math.round(options.times.leaseMs * RENEWAL_SHARE));
    this.#quickClient = jetstream(link.connection, { timeout: this.#quickMs });
    this.#records = new RecordStream(link, this.#client, this.#names);
    this.checkpoints = new NatsCheckpoints({
      link,
      names: this.#names,
      kv: () => this.#openBucket(),
      check: (lease) => this.#check(lease),
    });
  }

  async readRun(): Promise<StoredRun | null> {
    return await this.#explaining('read the run', async () => {
      try {
        const entry = await (await this.#openBucket()).get(RUN_KEY);
        if (entry === null || entry.operation !== 'PUT') return null;
        return entry.json<StoredRun>();
      } catch (error) {
        if (!isStreamNotFound(error)) throw error;
        this.#forget();
        return null;
      }
    });
  }

  async createRun(run: StoredRun, holder: Holder, signal?: AbortSignal): Promise<Lease> {
    const replicas = await this.#explaining('begin the run', () => this.#makeBucket());
    const refuseExisting = async (): Promise<void> => {
      if ((await this.readRun()) !== null) throw this.#exists(run.name);
    };
    // Whoever sees the run finds it led. One that is killed before the last line leaves nothing that hinders.
    const fence = async (epoch: number): Promise<number> => {
      await refuseExisting();
      return await this.#explaining('begin the run', async () => {
        await this.checkpoints.create(replicas);
        await this.#records.create(replicas);
        const last = await this.#records.beginEpoch(epoch);
        const kv = await this.#openBucket();
        await kv.create(RUN_KEY, JSON.stringify(run)).catch((error: unknown) => {
          throw isWrongSequence(error) ? this.#exists(run.name) : error;
        });
        return last;
      });
    };
    return await this.#keepLease({ holder, signal, beforeLook: refuseExisting, fence });
  }

  async restartRun(lease: Lease, run: StoredRun): Promise<Lease> {
    await this.#explaining('begin the run anew', async () => {
      const kv = await this.#openBucket();
      const found = await kv.get(RUN_KEY);
      this.#check(lease);
      try {
        await kv.update(RUN_KEY, JSON.stringify(run), found?.revision ?? 0);
      } catch (error) {
        throw isWrongSequence(error) ? new LeaseLost('another coordinator has begun the run anew') : error;
      }
    });
    return lease;
  }

  async leader(): Promise<Leader | null> {
    return await readLeader(await this.#register());
  }

  async acquire(holder: Holder, signal?: AbortSignal): Promise<Lease> {
    const run = await this.readRun();
    if (run === null)
      throw new CheckpointError(this.where, `${this.where} has no run ${this.#options.runName}`);
    await this.#explaining('open the run', () => this.#records.checkOwner());
    const fence = (epoch: number): Promise<number> =>
      this.#explaining('begin an epoch', () => this.#records.beginEpoch(epoch));
    return await this.#keepLease({ holder, signal, fence });
  }

  async append(lease: Lease, frames: readonly Uint8Array[], summary: RecordSummary): Promise<void> {
    const own = this.#check(lease);
    try {
      await this.#explaining(`append record ${summary.sequence}`, () =>
        this.#records.append(() => own.check(), own.epoch, frames, summary),
      );
    } catch (error) {
      if (error instanceof LeaseLost) own.lose(error);
      throw error;
    }
  }

  async *records(fromSequence: number): AsyncGenerator<StoredRecord, void, void> {
    yield* this.#records.read(fromSequence, null);
  }

  async *follow(fromSequence: number, signal: AbortSignal): AsyncGenerator<StoredRecord, void, void> {
    yield* this.#records.read(fromSequence, signal);
  }

  async removeRecordsBefore(lease: Lease, sequence: number): Promise<void> {
    this.#check(lease);
    await this.#explaining('delete old records', () => this.#records.removeBefore(sequence));
  }

  publish(event: StoreEvent): void {
    try {
      this.#link.connection.publish(this.#names.eventSubject, JSON.stringify(event));
    } catch {
      // Closed: those who watch see that by themselves.
    }
  }

  watch(signal: AbortSignal): AsyncGenerator<StoreEvent, void, void> {
    // At once, not when the first event is asked for.
    const subscription = this.#link.connection.subscribe(this.#names.eventSubject);
    const stop = (): void => subscription.unsubscribe();
    if (signal.aborted) stop();
    signal.addEventListener('abort', stop, { once: true });
    const read = async function* (): AsyncGenerator<StoreEvent, void, void> {
      try {
        for await (const message of subscription) {
          const event = parseEvent(message);
          if (event !== null) yield event;
        }
      } finally {
        signal.removeEventListener('abort', stop);
        stop();
      }
    };
    return read();
  }

  async close(): Promise<void> {
    await this.#lease?.release();
    await this.checkpoints.close();
    await this.#link.connection.close();
  }

  async #keepLease(
    request: Pick<LeaseRequest, 'holder' | 'signal' | 'beforeLook' | 'fence'>,
  ): Promise<KeptLease> {
    const { times, clock } = this.#options;
    this.#lease = await acquireLease({ ...request, register: await this.#register(), times, clock });
    return this.#lease;
  }

  /** @throws LeaseLost, StoreUnavailable */
  #check(lease: Lease): KeptLease {
    if (this.#lease === null || this.#lease !== lease)
      throw new LeaseLost('this is not the lease of this store');
    this.#lease.check();
    return this.#lease;
  }

  #exists(name: string): CheckpointError {
    return new CheckpointError(
      this.where,
      `${this.where} has a run ${name} already; give this one another name, or go on with that one`,
    );
  }

  /** The number of replicas that it has. */
  async #makeBucket(): Promise<number> {
    const { replicas } = this.#options;
    const kvm = new Kvm(this.#client);
    const make = async (count: number): Promise<number> => {
      const { bucket, description } = this.#names;
      const options = { replicas: count, history: 1, allow_direct: false, description };
      const { replicas: had } = await (await kvm.create(bucket, options)).status();
      return had;
    };
    const isCluster = this.#link.connection.info?.cluster !== undefined;
    if (replicas === undefined && !isCluster) return await make(1);
    try {
      return await make(replicas ?? CLUSTER_REPLICAS);
    } catch (error) {
      if (!isTooFewServers(error)) throw error;
      if (replicas === undefined) return await make(1);
      const told = `state.replicas is ${replicas}, but NATS at ${this.where} has not as many servers`;
      throw new OperatingError(`${told}: ${(error as Error).message}`, { cause: error });
    }
  }

  #openBucket(): Promise<KV> {
    this.#bucket ??= new Kvm(this.#client).open(this.#names.bucket, { allow_direct: false });
    return this.#bucket;
  }

  #forget(): void {
    this.#bucket = null;
    this.#leaseBucket = null;
  }

  async #register(): Promise<LeaseRegister> {
    this.#leaseBucket ??= new Kvm(this.#quickClient).open(this.#names.bucket, { allow_direct: false });
    const kv = await this.#leaseBucket;
    return {
      read: () =>
        this.#explaining('read the lease', async () => {
          const found = await kv.get(LEASE_KEY);
          return found === null ? null : { entry: found.json<LeaseEntry>(), revision: found.revision };
        }),
      swap: (entry, revision) =>
        this.#explaining('renew the lease', async () => {
          try {
            const text = JSON.stringify(entry);
            if (revision === 0) return await kv.create(LEASE_KEY, text);
            return await kv.update(LEASE_KEY, text, revision);
          } catch (error) {
            if (isWrongSequence(error)) return null;
            throw error;
          }
        }),
      isReachable: () => answersWithin(this.#link.connection, this.#quickMs),
    };
  }

  async #explaining<T>(action: string, work: () => Promise<T>): Promise<T> {
    return await explainingNats(this.where, action, work);
  }
}

/** Null: it is not one of ours. */
function parseEvent(message: Msg): StoreEvent | null {
  try {
    const event = message.json<Partial<StoreEvent> | null>();
    return typeof event?.type === 'string' && typeof event.step === 'number' ? (event as StoreEvent) : null;
  } catch {
    return null;
  }
}
