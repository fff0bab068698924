/** When a lease that cannot be renewed is given up, in virtual time. */
import test, { type ExecutionContext } from 'ava';
import {
  acquireLease,
  type KeptLease,
  type LeaseEntry,
  type LeaseRegister,
  type StoreClock,
} from '../../../src/coordinator/store/lease-keeper.ts';
import { LeaseLost, StoreUnavailable } from '../../../src/coordinator/store/state-store.ts';

const TIMES = { leaseMs: 3_000, cutOffMs: 4_500, giveUpMs: 18_000 };
const HOLDER = { holderId: 'a', address: '' };

/** Time that passes when the test says so. */
class VirtualClock implements StoreClock {
  #nowMs = 0;
  readonly #sleepers = new Set<{ readonly atMs: number; readonly wake: () => void }>();

  nowMs(): number {
    return this.#nowMs;
  }

  sleep(durationMs: number): Promise<void> {
    return new Promise((resolve) => {
      const sleeper = { atMs: this.#nowMs + durationMs, wake: () => resolve() };
      this.#sleepers.add(sleeper);
    });
  }

  /** Goes on to the given time, from one sleeper to the next. */
  async goTo(timeMs: number): Promise<void> {
    for (;;) {
      const due = [...this.#sleepers].filter(({ atMs }) => atMs <= timeMs);
      const next = due.sort((a, b) => a.atMs - b.atMs)[0];
      if (next === undefined) break;
      this.#sleepers.delete(next);
      this.#nowMs = next.atMs;
      next.wake();
      // All that follows from it has happened when a macrotask gets its turn.
      await new Promise((resolve) => setImmediate(resolve));
    }
    this.#nowMs = timeMs;
  }
}

/** A register that cannot write while it `isChoosing`, and of which nothing comes back while it `isAway`. */
class FaultyRegister implements LeaseRegister {
  isChoosing = false;
  isAway = false;
  #held: { entry: LeaseEntry; revision: number } | null = null;

  async read(): Promise<{ entry: LeaseEntry; revision: number } | null> {
    this.#check();
    return this.#held;
  }

  async swap(entry: LeaseEntry, revision: number): Promise<number | null> {
    this.#check();
    if ((this.#held?.revision ?? 0) !== revision) return null;
    this.#held = { entry, revision: revision + 1 };
    return revision + 1;
  }

  isReachable(): Promise<boolean> {
    return Promise.resolve(!this.isAway);
  }

  #check(): void {
    if (this.isAway || this.isChoosing) throw new StoreUnavailable('no leader, or no line');
  }
}

async function leaseOf(
  t: ExecutionContext,
): Promise<{ lease: KeptLease; clock: VirtualClock; register: FaultyRegister }> {
  const [clock, register] = [new VirtualClock(), new FaultyRegister()];
  const fence = (): Promise<number> => Promise.resolve(0);
  const lease = await acquireLease({ register, clock, fence, holder: HOLDER, times: TIMES });
  await clock.goTo(10_000);
  t.true(lease.isCurrent);
  return { lease, clock, register };
}

test('cut off from its store: given up after cutOffMs', async (t) => {
  const { lease, clock, register } = await leaseOf(t);
  register.isAway = true;
  await clock.goTo(10_000 + TIMES.cutOffMs - 1_000);
  t.false(lease.isCurrent);
  t.false(lease.lost.aborted);
  await clock.goTo(10_000 + TIMES.cutOffMs + 1_000);
  t.true(lease.lost.reason instanceof LeaseLost);
});

test('a store that answers but chooses its leader: kept, and current again with the next renewal', async (t) => {
  const { lease, clock, register } = await leaseOf(t);
  register.isChoosing = true;
  await clock.goTo(20_000);
  t.false(lease.isCurrent);
  t.false(lease.lost.aborted);
  register.isChoosing = false;
  await clock.goTo(21_000);
  t.true(lease.isCurrent);
  t.is(lease.epoch, 1);
});

test('a store that answers and never comes back: given up after giveUpMs', async (t) => {
  const { lease, clock, register } = await leaseOf(t);
  register.isChoosing = true;
  await clock.goTo(10_000 + TIMES.giveUpMs + 1_000);
  t.true(lease.lost.reason instanceof LeaseLost);
});
