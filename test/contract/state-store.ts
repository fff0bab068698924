/** What every state store does. Each test opens stores on one run, as coordinators on several machines would. */
import type { ExecutionContext, TestFn } from 'ava';
import { join } from 'node:path';
import { CheckpointError } from '../../src/errors.ts';
import { openCheckpoint } from '../../src/coordinator/store/checkpoint.ts';
import { storeClock } from '../../src/coordinator/store/store-clock.ts';
import type { StoreClock } from '../../src/coordinator/store/lease-keeper.ts';
import { LeaseLost, type StateStore, type StoredRecord } from '../../src/coordinator/store/state-store.ts';
import { expectedState, readState, writeCheckpoint } from '../coordinator/store/checkpoints.ts';
import { makeRecord, makeRecords, type TestRecord } from '../coordinator/store/records.ts';
import { temporaryDir } from '../temporary-dir.ts';

export const RUN = { runId: 'run-1', name: 'demo.a_b', configYaml: 'name: demo.a_b\n' };
export const LEASE_MS = 600;

/** A clock that can be stopped, as the process of a coordinator can. */
export class StoppableClock implements StoreClock {
  #waiting: (() => void)[] | null = null;

  nowMs(): number {
    return storeClock.nowMs();
  }

  async sleep(durationMs: number, signal?: AbortSignal): Promise<void> {
    await storeClock.sleep(durationMs, signal);
    if (this.#waiting === null || signal?.aborted) return;
    await new Promise<void>((resolve) => {
      this.#waiting?.push(resolve);
      signal?.addEventListener('abort', () => resolve(), { once: true });
    });
  }

  stop(): void {
    this.#waiting ??= [];
  }

  goOn(): void {
    const waiting = this.#waiting ?? [];
    this.#waiting = null;
    for (const resolve of waiting) resolve();
  }
}

/** Opens one more store on the run of this test. */
export type OpenStore = (clock?: StoreClock) => Promise<StateStore>;

const HOLDER = { holderId: 'a', address: '' };

export interface StoreKind {
  readonly name: string;
  /** Null: it cannot be tried here, and why was told. */
  readonly prepare: (t: ExecutionContext) => Promise<OpenStore | null>;
  /** Whether a leader that is stopped loses the lease. */
  readonly canExpire: boolean;
}

export function testStateStoreContract(test: TestFn, { name, prepare, canExpire }: StoreKind): void {
  const check = (title: string, body: (t: ExecutionContext, open: OpenStore) => Promise<void>): void => {
    test(`${name}: ${title}`, async (t) => {
      const open = await prepare(t);
      if (open !== null) await body(t, open);
    });
  };
  const begin = async (open: OpenStore, clock?: StoreClock) => {
    const store = await open(clock);
    const lease = await store.createRun(RUN, { holderId: 'first', address: 'ws://a' });
    return { store, lease };
  };

  check('a run is there once it was begun, and can be begun once', async (t, open) => {
    const [store, other] = [await open(), await open()];
    t.is(await store.readRun(), null);
    await t.throwsAsync(store.acquire(HOLDER), { instanceOf: CheckpointError });
    const lease = await store.createRun(RUN, HOLDER);
    t.deepEqual(await other.readRun(), RUN);
    t.is((await other.leader())?.epoch, lease.epoch);
    t.true(lease.isCurrent);
    await t.throwsAsync(other.createRun({ ...RUN, runId: 'run-2' }, HOLDER), {
      instanceOf: CheckpointError,
      message: /already/,
    });
  });

  check('of several that begin a run at once one succeeds', async (t, open) => {
    const stores = [await open(), await open(), await open()];
    const runs = stores.map((_, i) => ({ ...RUN, runId: `run-${i + 1}` }));
    const ends = await Promise.allSettled(stores.map((store, i) => store.createRun(runs[i]!, HOLDER)));
    const begun = runs.filter((_, i) => ends[i]!.status === 'fulfilled');
    t.is(begun.length, 1);
    t.deepEqual(await stores[0]!.readRun(), begun[0]);
    const leases = ends.flatMap((end) => (end.status === 'fulfilled' ? [end.value] : []));
    t.deepEqual(
      leases.map(({ isCurrent, lastSequence }) => ({ isCurrent, lastSequence })),
      [{ isCurrent: true, lastSequence: 0 }],
    );
  });

  check(
    'records are read as they were appended, by whoever asks, and go on after the last one',
    async (t, open) => {
      const { store, lease } = await begin(open);
      t.is(lease.lastSequence, 0);
      const records = makeRecords(4, { partBytes: [5, 40_000, 3] });
      for (const { frames, summary } of records.slice(0, 3)) await store.append(lease, frames, summary);
      const other = await open();
      t.deepEqual(await all(other.records(1)), records.slice(0, 3).map(stored));
      t.deepEqual(await all(other.records(3)), [stored(records[2]!)]);
      t.deepEqual(await all(other.records(4)), []);
      await lease.release();
      const next = await other.acquire({ holderId: 'second', address: '' });
      t.is(next.lastSequence, 3);
      await other.append(next, records[3]!.frames, records[3]!.summary);
      t.deepEqual(await all(other.records(2)), records.slice(1).map(stored));
    },
  );

  check('a follower gets what is there and then what comes', async (t, open) => {
    const { store, lease } = await begin(open);
    const records = makeRecords(4);
    await store.append(lease, records[0]!.frames, records[0]!.summary);
    await store.append(lease, records[1]!.frames, records[1]!.summary);
    const ending = new AbortController();
    const follower = (await open()).follow(2, ending.signal);
    t.deepEqual((await follower.next()).value, stored(records[1]!));
    const third = follower.next();
    await store.append(lease, records[2]!.frames, records[2]!.summary);
    t.deepEqual((await third).value, stored(records[2]!));
    const fourth = follower.next();
    ending.abort();
    t.true((await fourth).done);
  });

  check('one leads at a time; whoever waits leads when the lease is given back', async (t, open) => {
    const { store, lease } = await begin(open);
    const other = await open();
    const leader = await other.leader();
    t.is(leader?.epoch, lease.epoch);
    const giveUp = new AbortController();
    const vain = other.acquire({ holderId: 'second', address: '' }, giveUp.signal);
    giveUp.abort(new Error('enough'));
    await t.throwsAsync(vain, { message: 'enough' });
    const waiting = other.acquire({ holderId: 'second', address: 'ws://b' });
    const [record] = makeRecords(1);
    await store.append(lease, record!.frames, record!.summary);
    t.true(lease.isCurrent);
    await lease.release();
    const second = await waiting;
    t.is(second.lastSequence, 1);
    t.is((await other.leader())?.address, 'ws://b');
    await t.throwsAsync(store.append(lease, record!.frames, record!.summary), { instanceOf: LeaseLost });
    await second.release();
    t.is(await other.leader(), null);
  });

  check('old records can be deleted, and are not read any more', async (t, open) => {
    const { store, lease } = await begin(open);
    for (const { frames, summary } of makeRecords(5)) await store.append(lease, frames, summary);
    await store.removeRecordsBefore(lease, 4);
    t.deepEqual((await all(store.records(4))).length, 2);
    await store.removeRecordsBefore(lease, 99);
    t.is((await all(store.records(5))).length, 1, 'the last one stays');
  });

  check('checkpoints come out as they went in, and can be deleted', async (t, open) => {
    const { store, lease } = await begin(open);
    const [from, to] = [join(temporaryDir(t), 'checkpoints'), join(temporaryDir(t), 'checkpoints')];
    const written = await writeCheckpoint(from, 3);
    await writeCheckpoint(from, 10);
    t.deepEqual(await store.checkpoints.list(), []);
    await store.checkpoints.put(lease, from, 10);
    await store.checkpoints.put(lease, from, 3);
    await store.checkpoints.put(lease, from, 3);
    const other = await open();
    const { weightsSha256 } = written;
    const digest = 'ab'.repeat(32);
    t.deepEqual((await other.checkpoints.list())[0], { step: 3, sequence: 6, digest, weightsSha256 });
    t.deepEqual((await other.checkpoints.list()).map(({ step }) => step), [3, 10]); // prettier-ignore
    await other.checkpoints.get(to, 3);
    const checkpoint = await openCheckpoint(to, 3);
    t.deepEqual(await readState(checkpoint), expectedState(3));
    await checkpoint.close();
    await store.checkpoints.remove(lease, 3);
    await store.checkpoints.remove(lease, 3);
    t.deepEqual((await other.checkpoints.list()).map(({ step }) => step), [10]); // prettier-ignore
    await t.throwsAsync(other.checkpoints.get(to, 4), { instanceOf: CheckpointError });
    await other.checkpoints.get(to, 10);
  });

  check('a run that was never trained can be begun anew by whoever leads it', async (t, open) => {
    const { store, lease } = await begin(open);
    const again = await store.restartRun(lease, { ...RUN, runId: 'run-2' });
    t.is((await store.readRun())?.runId, 'run-2');
    t.true(again.isCurrent);
    t.is(again.lastSequence, 0);
    t.deepEqual(await all(store.records(1)), []);
  });

  check('those who watch are told', async (t, open) => {
    const { store } = await begin(open);
    const ending = new AbortController();
    const watching = store.watch(ending.signal);
    const first = watching.next();
    store.publish({ type: 'step', step: 1, loss: 2.5 });
    t.deepEqual((await first).value, { type: 'step', step: 1, loss: 2.5 });
    ending.abort();
    t.true((await watching.next()).done);
  });

  if (!canExpire) return;

  check('a leader that was stopped past its lease commits nothing any more', async (t, open) => {
    const clock = new StoppableClock();
    const { store, lease } = await begin(open, clock);
    const records = makeRecords(2);
    await store.append(lease, records[0]!.frames, records[0]!.summary);
    clock.stop();
    const other = await open();
    const second = await other.acquire({ holderId: 'second', address: 'ws://b' });
    t.is(second.epoch, lease.epoch + 1);
    t.is(second.lastSequence, 1);
    const { frames, summary } = records[1]!;
    const otherRecord = makeRecord(2, { previousDigest: records[0]!.summary.digest, partBytes: [9] });
    await t.throwsAsync(store.append(lease, frames, summary));
    await other.append(second, otherRecord.frames, otherRecord.summary);
    clock.goOn();
    await aborted(lease.lost);
    t.true(lease.lost.reason instanceof LeaseLost);
    t.regex((lease.lost.reason as Error).message, /another coordinator has taken over/);
    await t.throwsAsync(store.append(lease, frames, summary), { instanceOf: LeaseLost });
    t.deepEqual(await all(other.records(1)), [stored(records[0]!), stored(otherRecord)]);
  });
}

export async function all<T>(source: AsyncIterable<T>): Promise<readonly T[]> {
  const found: T[] = [];
  for await (const one of source) found.push(one);
  return found;
}

/** As a store gives it back; Buffers are Uint8Arrays to none of this. */
export function stored({ frames, summary }: TestRecord): StoredRecord {
  const { sequence, step, kind, digest } = summary;
  return {
    sequence,
    step,
    kind,
    digest: new Uint8Array(digest),
    frames: frames.map((f) => new Uint8Array(f)),
  };
}

async function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
}
