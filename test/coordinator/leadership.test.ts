/**
 * Several coordinators of one run, in this process, over a store in memory: who leads, and what happens to those who
 * do not any more. Serial: a lease is counted in real milliseconds.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { resolvedYaml } from '../../src/config/load.ts';
import { deferred } from '../../src/deferred.ts';
import type { RunningCoordinator } from '../../src/coordinator/api.ts';
import { startInStore } from '../../src/coordinator/leadership.ts';
import { MemoryStateStore, SharedMemory } from '../../src/coordinator/store/memory-store.ts';
import {
  StoreUnavailable,
  type Holder,
  type Lease,
  type StoredRun,
} from '../../src/coordinator/store/state-store.ts';
import { storeClock } from '../../src/coordinator/store/store-clock.ts';
import type { StoreClock } from '../../src/coordinator/store/lease-keeper.ts';
import { CLOSE_CODES } from '../../src/protocol/close-codes.ts';
import { SILENT_LOGGER } from '../../src/log.ts';
import { checkWhole, placeOf, undisturbed, type Place } from '../support/stand-in-run.ts';
import { StandInTrainer } from '../support/stand-in-trainer.ts';

const TIMES = { leaseMs: 400, giveUpMs: 60_000, cutOffMs: 60_000 };
const STEPS = { steps: 12, checkpoint: { every: 3, keep: 100 } };

/** The time of one coordinator: while it is stopped it renews nothing, as a process that is stopped. */
class StoppableClock implements StoreClock {
  #until = Promise.resolve();
  nowMs(): number {
    return performance.now();
  }
  async sleep(durationMs: number, signal?: AbortSignal): Promise<void> {
    await storeClock.sleep(durationMs, signal);
    await this.#until;
  }
  stop(): () => void {
    const { promise, resolve } = deferred<void>();
    this.#until = promise;
    return () => resolve();
  }
}

interface Seat {
  readonly place: Place;
  readonly clock: StoppableClock;
  readonly coordinator: RunningCoordinator;
  readonly said: string[];
  /** Resolves when it has said this. */
  readonly says: (what: RegExp) => Promise<void>;
}

const memoryStore = (shared: SharedMemory, clock: StoreClock): MemoryStateStore =>
  new MemoryStateStore(shared, TIMES, clock);

async function seat(
  t: ExecutionContext,
  shared: SharedMemory,
  isStandby = true,
  more = {},
  makeStore = memoryStore,
): Promise<Seat> {
  const place = placeOf(t, { ...STEPS, ...more });
  const clock = new StoppableClock();
  const said: string[] = [];
  const waiting: { what: RegExp; resolve: () => void }[] = [];
  const coordinator = await startInStore({
    ...{ config: place.config, mode: 'new', cacheDir: join(place.folder, 'cache'), logger: SILENT_LOGGER },
    isStandby,
    onReport: (report) => {
      const text =
        report.type === 'step' ? `step ${report.step}` : report.type === 'notice' ? report.text : '';
      said.push(text);
      for (const { what, resolve } of waiting) if (what.test(text)) resolve();
    },
    openStore: () => Promise.resolve(makeStore(shared, clock)),
  });
  coordinator.finished.catch(() => {});
  t.teardown(async () => {
    coordinator.stop();
    coordinator.stop();
    await coordinator.finished.catch(() => {});
  });
  const says = (what: RegExp): Promise<void> =>
    said.some((text) => what.test(text))
      ? Promise.resolve()
      : new Promise((resolve) => waiting.push({ what, resolve }));
  return { place, clock, coordinator, said, says };
}

function linesOf(path: string): readonly Readonly<Record<string, unknown>>[] {
  const lines = readFileSync(path, 'utf8').trimEnd().split('\n');
  return lines.map((line) => JSON.parse(line) as Record<string, unknown>);
}

/** Goes round the coordinators until one says that the run has ended. */
async function takePart(t: ExecutionContext, trainer: StandInTrainer, seats: readonly Seat[]): Promise<void> {
  for (let i = 0; ; i++) {
    const { url } = seats[i % seats.length]!.coordinator;
    const ended = await trainer.takePart(t, url).catch(() => null);
    if (ended?.code === CLOSE_CODES.RUN_FINISHED.code) return;
    await storeClock.sleep(10);
  }
}

test.serial(
  'a leader that is stopped hands the run over, and who stands by goes on with the same',
  async (t) => {
    const digest = await undisturbed(t, STEPS);
    const shared = new SharedMemory();
    const a = await seat(t, shared, false);
    const b = await seat(t, shared);
    t.false(a.coordinator.isStandby);
    t.true(b.coordinator.isStandby);
    await b.says(/standing by: .* ws:\/\/127\.0\.0\.1:\d+\/ leads it/);
    const trainer = new StandInTrainer(a.place.run);
    trainer.onRecord = (sequence) => {
      if (sequence === 7) a.coordinator.stop();
    };
    await takePart(t, trainer, [a, b]);
    const [first, second] = [await a.coordinator.finished, await b.coordinator.finished];
    t.like(first, { outcome: 'stopped' });
    t.like(second, { outcome: 'completed', step: 12, checkpointFailure: null });
    t.is(trainer.snapshots, 1); // it kept its state
    t.is(trainer.state.digest, digest);
    await checkWhole(t, b.place, 'b');
  },
);

test.serial('a leader that is held up past its lease commits nothing more, and stands by', async (t) => {
  const digest = await undisturbed(t, STEPS);
  const shared = new SharedMemory();
  const a = await seat(t, shared, false);
  const b = await seat(t, shared);
  await b.says(/standing by/);
  const trainer = new StandInTrainer(a.place.run);
  let goOn: (() => void) | null = null;
  const others = deferred<void>();
  trainer.onRecord = (sequence) => {
    if (sequence === 5) goOn ??= a.clock.stop();
  };
  // Of the step under way the old leader gets the contribution when another leads.
  trainer.waitsFor = () => (goOn === null ? null : others.promise);
  const took = takePart(t, trainer, [a, b]);
  await b.says(/leading the run from step \d+ on \(epoch 2\)/);
  others.resolve();
  goOn!();
  await a.says(/commits nothing more and stands by/);
  await took;
  t.like(await b.coordinator.finished, { outcome: 'completed', step: 12 });
  // The one that stood by again leads a run that is over, and ends like the other.
  t.like(await a.coordinator.finished, { outcome: 'completed', step: 12 });
  t.is(trainer.state.digest, digest);
  const told = [...a.said, ...b.said].filter((text) => /^step \d+$/.test(text));
  t.is(new Set(told).size, told.length, told.join());
  await checkWhole(t, b.place, 'b');
  await checkWhole(t, a.place, 'a');
});

test.serial(
  'of coordinators with one command the first begins the run, and the others stand by',
  async (t) => {
    const shared = new SharedMemory();
    const a = await seat(t, shared);
    const b = await seat(t, shared);
    t.false(a.coordinator.isStandby);
    t.true(b.coordinator.isStandby);
    await takePart(t, new StandInTrainer(a.place.run), [b, a]);
    t.is((await a.coordinator.finished).outcome, 'completed');
    t.is((await b.coordinator.finished).outcome, 'completed');
    t.deepEqual(
      readFileSync(join(a.place.config.dir, 'run-id.json')),
      readFileSync(join(b.place.config.dir, 'run-id.json')),
    );
  },
);

test.serial('what was told of a run is not lost with the machine of its leader', async (t) => {
  const shared = new SharedMemory();
  const path = placeOf(t).config.data.path;
  const more = {
    data: { path, validation_fraction: 0.2 },
    evaluation: { every: 2 },
    checkpoint: { every: 3, keep: 1 },
  };
  const a = await seat(t, shared, false, more);
  const b = await seat(t, shared, true, more);
  await b.says(/standing by/);
  const trainer = new StandInTrainer(a.place.run);
  trainer.onRecord = (sequence) => {
    if (sequence === 10) a.coordinator.stop(); // of step 9: no evaluation is under way
  };
  await takePart(t, trainer, [a, b]);
  await a.coordinator.finished;
  t.like(await b.coordinator.finished, { outcome: 'completed', step: 12 });
  // One more begins with nothing, when the run has ended; most of the records are deleted.
  const c = await seat(t, shared, false, more);
  t.like(await c.coordinator.finished, { outcome: 'completed', step: 12 });
  for (const { config } of [b.place, c.place]) {
    const evaluations = linesOf(join(config.dir, 'evaluations.jsonl'));
    t.deepEqual(
      evaluations.map(({ step, loss }) => [step, loss]),
      [2, 4, 6, 8, 10, 12].map((step) => [step, 1 / step]),
    );
    const metrics = linesOf(join(config.dir, 'metrics.jsonl'));
    t.deepEqual(
      metrics.map(({ step, restored }) => [step, restored]),
      Array.from({ length: 12 }, (_, i) => [i + 1, undefined]),
    );
  }
});

test.serial('a second run of one name is refused, and so is a standby with other settings', async (t) => {
  const shared = new SharedMemory();
  await seat(t, shared, false);
  await t.throwsAsync(() => seat(t, shared, false), { message: /is led by ws:.* now/ });
  const other = await seat(t, shared, true, { seed: 8 });
  const error = await t.throwsAsync(() => other.coordinator.finished);
  t.regex(error?.message ?? '', /seed is 8; it stays 7/);
});

test.serial('a store that does not answer for a moment does not keep a run from being begun', async (t) => {
  const shared = new SharedMemory();
  let faults = 2;
  class BusyStore extends MemoryStateStore {
    override async createRun(run: StoredRun, holder: Holder, signal?: AbortSignal): Promise<Lease> {
      if (faults === 0) return await super.createRun(run, holder, signal);
      faults -= 1;
      if (faults === 1) throw new StoreUnavailable('the servers choose a leader');
      // The lease is nobody's and cannot be had.
      return await new Promise((_, reject) => {
        signal!.addEventListener('abort', () => reject(signal!.reason as Error));
      });
    }
  }
  const { coordinator, said } = await seat(t, shared, true, {}, (memory, clock) => {
    return new BusyStore(memory, TIMES, clock);
  });
  t.is(faults, 0);
  t.false(coordinator.isStandby);
  t.true(said.includes('the servers choose a leader; trying again'));
  t.regex(said.join('\n'), /its lease was not to be had for 1 s; trying again/);
});

test.serial(
  'a run whose beginner is gone before its first checkpoint is begun anew by another',
  async (t) => {
    const shared = new SharedMemory();
    const clock = new StoppableClock();
    const ghost = new MemoryStateStore(shared, TIMES, clock);
    const { config } = placeOf(t, STEPS);
    const run = { runId: 'ghost', name: config.name, configYaml: resolvedYaml(config) };
    await ghost.createRun(run, { holderId: 'ghost', address: '' });
    const a = await seat(t, shared);
    const b = await seat(t, shared);
    await a.says(/is being begun/);
    await b.says(/is being begun/);
    clock.stop(); // and never goes on
    const trainer = new StandInTrainer(a.place.run);
    await takePart(t, trainer, [a, b]);
    const ends = [await a.coordinator.finished, await b.coordinator.finished];
    for (const end of ends) t.like(end, { outcome: 'completed', step: 12 });
    const ids = [a, b].map(({ place }) => readFileSync(join(place.config.dir, 'run-id.json'), 'utf8'));
    t.is(ids[0], ids[1]);
    t.false(ids[0]!.includes('ghost'));
  },
);

test.serial(
  'a directory in which a run was begun and never trained is free for the run of a store',
  async (t) => {
    const untrained = async (): Promise<{ dir: string }> => {
      const { place, coordinator } = await seat(t, new SharedMemory(), false);
      coordinator.stop();
      await coordinator.finished;
      return { dir: place.config.dir };
    };
    const shared = new SharedMemory();
    const a = await seat(t, shared, false, await untrained());
    const b = await seat(t, shared, true, await untrained());
    await b.says(/leads it/);
    await takePart(t, new StandInTrainer(a.place.run), [a]);
    t.is((await a.coordinator.finished).outcome, 'completed');
    t.is((await b.coordinator.finished).outcome, 'completed');
    await checkWhole(t, b.place, 'b');
    // One that is trained stays as it is.
    const { dir } = a.place.config;
    await t.throwsAsync(() => seat(t, new SharedMemory(), false, { dir }), {
      message: /holds run tiny, but/,
    });
    const other = new SharedMemory();
    await seat(t, other, false);
    const c = await seat(t, other, true, { dir });
    await t.throwsAsync(() => c.coordinator.finished, { message: /has the id/ });
  },
);

test.serial('a standby that is stopped ends in good order', async (t) => {
  const shared = new SharedMemory();
  await seat(t, shared, false);
  const b = await seat(t, shared);
  await b.says(/standing by/);
  b.coordinator.stop();
  t.is((await b.coordinator.finished).outcome, 'stopped');
});
