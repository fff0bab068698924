/**
 * A lease as one entry of a register that swaps only what is still what it was. Who wants it waits until the entry has
 * not changed for the lease time by its own clock; clocks are never compared with each other. Who has it changes the
 * entry again and again. What still comes from the one before is refused by its epoch, so a wrong guess of ours costs
 * time, never a record.
 */
import { LeaseLost, StoreUnavailable, type Holder, type Leader, type Lease } from './state-store.ts';

/** Shares of the lease time: between two renewals, after one that failed, and before its end when the holder stops. */
const RENEWALS = 4;
const RETRIES = 16;
const MARGIN = 0.2;
/** How often a waiting one looks, in a lease time. */
const LOOKS = 8;

/** Time for a store. */
export interface StoreClock {
  /** Milliseconds that never go backwards. */
  nowMs(): number;
  /** Ends early, without an error, when `signal` is aborted. */
  sleep(durationMs: number, signal?: AbortSignal): Promise<void>;
}

/** What the register holds; `holderId` is empty after the lease was given back. */
export interface LeaseEntry extends Leader {
  /** Grows with every renewal. */
  readonly beat: number;
}

/** One entry. Both throw StoreUnavailable when they cannot tell. */
export interface LeaseRegister {
  read(): Promise<{ readonly entry: LeaseEntry; readonly revision: number } | null>;
  /** Writes if the revision is still this one (0: there is no entry). The new one; null: it was not. */
  swap(entry: LeaseEntry, revision: number): Promise<number | null>;
  /** Whether anybody answers there, be it without being able to read or write now. Never rejects. */
  isReachable(): Promise<boolean>;
}

/** How long things take. */
export interface LeaseTimes {
  readonly leaseMs: number;
  /** Without a renewal for this long the lease is given up. */
  readonly giveUpMs: number;
  /** The same while nobody answers: who is cut off is alone with it, who is answered may be as well off as any other. */
  readonly cutOffMs: number;
}

/** What is needed to get a lease. */
export interface LeaseRequest {
  readonly register: LeaseRegister;
  readonly holder: Holder;
  readonly times: LeaseTimes;
  readonly clock: StoreClock;
  readonly signal?: AbortSignal | undefined;
  /** Called before each look at the register; what it throws ends the waiting. */
  readonly beforeLook?: () => Promise<void>;
  /** Makes the store refuse lower epochs from now on. The last record committed. @throws LeaseLost for one too low */
  readonly fence: (epoch: number) => Promise<number>;
}

/** Who leads by the register; null: nobody. */
export async function readLeader(register: LeaseRegister): Promise<Leader | null> {
  const found = await register.read();
  if (found === null || found.entry.holderId === '') return null;
  const { holderId, address, epoch } = found.entry;
  return { holderId, address, epoch };
}

/** Waits for the lease. @throws the reason of the signal, or what the register, `beforeLook` or `fence` throw */
export async function acquireLease(request: LeaseRequest): Promise<KeptLease> {
  const { register, holder, times, clock, signal, beforeLook, fence } = request;
  let seen = null as { readonly revision: number; readonly sinceMs: number } | null;
  for (;;) {
    signal?.throwIfAborted();
    try {
      await beforeLook?.();
      const found = await register.read();
      const nowMs = clock.nowMs();
      if (found !== null && found.revision !== seen?.revision) {
        seen = { revision: found.revision, sinceMs: nowMs };
      }
      const isFree = found === null || found.entry.holderId === '';
      const isExpired = seen !== null && nowMs - seen.sinceMs >= times.leaseMs;
      if (isFree || isExpired) {
        const entry = { ...holder, epoch: (found?.entry.epoch ?? 0) + 1, beat: 0 };
        const revision = await register.swap(entry, found?.revision ?? 0);
        if (revision === null) continue;
        return await begin(request, entry, revision, fence);
      }
    } catch (error) {
      if (!(error instanceof StoreUnavailable || error instanceof LeaseLost)) throw error;
      // While nobody could write, an entry that does not change says nothing.
      seen = null;
    }
    await clock.sleep(times.leaseMs / LOOKS, signal);
  }
}

async function begin(
  { register, times, clock }: LeaseRequest,
  entry: LeaseEntry,
  revision: number,
  fence: (epoch: number) => Promise<number>,
): Promise<KeptLease> {
  const lease = new KeptLease(register, times, clock, entry, revision);
  try {
    lease.lastSequence = await fence(entry.epoch);
    return lease;
  } catch (error) {
    await lease.release();
    throw error;
  }
}

export class KeptLease implements Lease {
  readonly holderId: string;
  readonly epoch: number;
  lastSequence = 0;
  readonly #register: LeaseRegister;
  readonly #times: LeaseTimes;
  readonly #clock: StoreClock;
  readonly #lost = new AbortController();
  readonly #ending = new AbortController();
  /** Ends when no renewal is on its way. */
  #renewing: Promise<void> = Promise.resolve();
  #keeping: Promise<void>;
  #entry: LeaseEntry;
  #revision: number;
  /** When the last renewal that was acknowledged was asked for. */
  #renewedMs: number;

  constructor(
    register: LeaseRegister,
    times: LeaseTimes,
    clock: StoreClock,
    entry: LeaseEntry,
    revision: number,
  ) {
    this.holderId = entry.holderId;
    this.epoch = entry.epoch;
    this.#register = register;
    this.#times = times;
    this.#clock = clock;
    this.#entry = entry;
    this.#revision = revision;
    this.#renewedMs = clock.nowMs();
    this.#keeping = this.#keep();
  }

  get address(): string {
    return this.#entry.address;
  }

  get isCurrent(): boolean {
    const age = this.#clock.nowMs() - this.#renewedMs;
    return (
      !this.#lost.signal.aborted && !this.#ending.signal.aborted && age < this.#times.leaseMs * (1 - MARGIN)
    );
  }

  get lost(): AbortSignal {
    return this.#lost.signal;
  }

  /** Marks it as lost. */
  lose(error: LeaseLost): void {
    if (!this.#lost.signal.aborted) this.#lost.abort(error);
    this.#ending.abort();
  }

  /** @throws LeaseLost, or StoreUnavailable while it is not current */
  check(): void {
    if (this.#lost.signal.aborted) throw this.#lost.signal.reason as LeaseLost;
    if (this.#ending.signal.aborted) throw new LeaseLost('the lease was given back');
    if (this.isCurrent) return;
    throw new StoreUnavailable('the lease could not be renewed in time; another coordinator may lead');
  }

  async setAddress(address: string): Promise<void> {
    this.#entry = { ...this.#entry, address };
    await this.#renew();
  }

  async release(): Promise<void> {
    if (this.#ending.signal.aborted) return await this.#keeping;
    this.#ending.abort();
    await this.#keeping;
    await this.#renewing;
    const entry = { ...this.#entry, holderId: '', address: '', beat: this.#entry.beat + 1 };
    // Whoever waits finds out by himself otherwise.
    await this.#register.swap(entry, this.#revision).catch(() => null);
  }

  /** Never rejects. */
  async #keep(): Promise<void> {
    const { leaseMs, giveUpMs, cutOffMs } = this.#times;
    for (let isRenewed = true; ;) {
      await this.#clock.sleep(leaseMs / (isRenewed ? RENEWALS : RETRIES), this.#ending.signal);
      if (this.#ending.signal.aborted) return;
      isRenewed = await this.#renew().then(
        () => true,
        () => false,
      );
      const silentMs = this.#clock.nowMs() - this.#renewedMs;
      if (silentMs < cutOffMs || this.#ending.signal.aborted) continue;
      if (silentMs < giveUpMs && (await this.#register.isReachable())) continue;
      this.lose(new LeaseLost(`the lease could not be renewed for ${Math.round(silentMs / 1000)} s`));
    }
  }

  /** One after the other. */
  #renew(): Promise<void> {
    const renewed = this.#renewing.then(() => this.#renewNow());
    this.#renewing = renewed.catch(() => {});
    return renewed;
  }

  async #renewNow(): Promise<void> {
    if (this.#lost.signal.aborted) return;
    const askedMs = this.#clock.nowMs();
    const entry = { ...this.#entry, beat: this.#entry.beat + 1 };
    let revision = await this.#register.swap(entry, this.#revision);
    if (revision === null) {
      const found = await this.#register.read();
      const isOurs = found?.entry.holderId === this.holderId && found.entry.epoch === this.epoch;
      if (found === null || !isOurs) {
        const { address = '', epoch = 0, holderId = '' } = found?.entry ?? {};
        const who = holderId === '' ? 'nobody' : `${address || holderId} (epoch ${epoch})`;
        return this.lose(new LeaseLost(`another coordinator has taken over: ${who} leads now`));
      }
      // A renewal of ours was not acknowledged, but it was written.
      revision = found.revision;
    }
    this.#entry = { ...entry, address: this.#entry.address };
    this.#revision = revision;
    this.#renewedMs = askedMs;
  }
}
