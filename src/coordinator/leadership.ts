/**
 * A coordinator of a run that is kept in a state store: it leads the run, or stands by until whoever leads it is gone.
 * One who loses the lease stands by again. coordinator.ts is one leadership; this goes from one to the next. SHELL.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { deferred } from '../deferred.ts';
import { GaloreError, OperatingError } from '../errors.ts';
import type { Authority, CoordinatorOptions, RunningCoordinator, RunSummary } from './api.ts';
import { startCoordinator } from './coordinator.ts';
import { Doorkeeper } from './doorkeeper.ts';
import { Mirror } from './store/mirror.ts';
import { checkSameRun, openStateStore, thisHolder } from './open-authority.ts';
import { openData } from './prepare-run.ts';
import { storeClock } from './store/store-clock.ts';
import { StandbyDoor } from './standby-door.ts';
import {
  LeaseLost,
  StoreUnavailable,
  type Lease,
  type StateStore,
  type StoredRun,
} from './store/state-store.ts';

/** Before something is asked of a store again that could not be reached, or that has not what is waited for. */
const RETRY_MS = 500;
/** How often a run is begun or gone on with at the start, while the store does not answer. */
const BEGIN_TRIES = 10;
/** Between two words of a standby that gets on, and two looks at who leads. */
const TELL_INTERVAL_MS = 1_000;

/**
 * Begins the run, or goes on with it, or stands by. Resolves once trainers can connect, be it to be sent elsewhere.
 * @throws as startCoordinator
 */
export async function startInStore(options: CoordinatorOptions): Promise<RunningCoordinator> {
  return await new Leadership(options).start();
}

async function hasCheckpoint({ checkpoints }: StateStore): Promise<boolean> {
  return (await checkpoints.list()).length > 0;
}

class Leadership {
  readonly #options: CoordinatorOptions;
  readonly #stopping = new AbortController();
  readonly #finished = deferred<RunSummary>();
  /** Bound once; from then on the same. */
  #port: number;
  #door: StandbyDoor | null = null;
  #running: RunningCoordinator | null = null;
  #leaderUrl: string | null = null;
  #lastNotice = '';
  /** Of the mirror, or where it led to. */
  #step = 0;

  constructor(options: CoordinatorOptions) {
    this.#options = options;
    this.#port = options.config.coordinator.port;
  }

  async start(): Promise<RunningCoordinator> {
    const first = await this.#leadAtOnce();
    if (first === null) await this.#openDoor();
    const { localToken = '', asksForTokens = false } = first ?? {};
    const url = first?.url ?? this.#door!.url;
    this.#carryOn(first).then(
      (summary) => this.#finished.resolve(summary),
      (error: unknown) => this.#finished.reject(error),
    );
    return {
      url,
      localUrl: first?.localUrl ?? url,
      ...{ localToken, asksForTokens, isStandby: first === null },
      finished: this.#finished.promise,
      stop: () => {
        this.#stopping.abort(new OperatingError('asked to stop'));
        this.#running?.stop();
      },
    };
  }

  /** To the end of the run, from one leadership to the next. */
  async #carryOn(first: RunningCoordinator | null): Promise<RunSummary> {
    try {
      for (let running = first; ; running = null) {
        running ??= await this.#waitToLead();
        if (running === null) return this.#stoppedSummary();
        try {
          return await running.finished;
        } catch (error) {
          if (!(error instanceof LeaseLost) || this.#options.config.coordinator.local_trainers > 0)
            throw error;
          this.#running = null;
          this.#notice(`${error.message}; this coordinator commits nothing more and stands by`);
          if (this.#stopping.signal.aborted) return this.#stoppedSummary();
        }
      }
    } finally {
      await this.#closeDoor();
    }
  }

  /** A standby leads at once only a run that nobody has begun. Null: it stands by. */
  async #leadAtOnce(): Promise<RunningCoordinator | null> {
    const { isStandby = false } = this.#options;
    for (let attempt = 1; ; attempt++) {
      try {
        if (isStandby && (await this.#isBegun())) return null;
        return await this.#lead(null);
      } catch (error) {
        if (error instanceof StoreUnavailable && attempt < BEGIN_TRIES) {
          this.#notice(`${error.message}; trying again`);
          await sleep(RETRY_MS);
          continue;
        }
        // Another was quicker.
        if (isStandby && error instanceof GaloreError && (await this.#isBegun())) return null;
        throw error;
      }
    }
  }

  async #isBegun(): Promise<boolean> {
    const store = await openStateStore(this.#options);
    try {
      return (await store.readRun()) !== null;
    } finally {
      await store.close();
    }
  }

  /** Null: it was stopped before. */
  async #waitToLead(): Promise<RunningCoordinator | null> {
    if (this.#door === null) await this.#openDoor();
    try {
      const turn = await this.#standBy();
      await this.#closeDoor();
      return await this.#lead(turn);
    } catch (error) {
      if (this.#stopping.signal.aborted && this.#running === null) return null;
      // What passes while the run is being opened costs the lease, not the process.
      if (!(error instanceof StoreUnavailable || error instanceof LeaseLost)) throw error;
      this.#notice(`${error.message}; standing by`);
      await sleep(RETRY_MS);
      return await this.#waitToLead();
    }
  }

  /** Mirrors the run until the lease is ours. @throws the reason of stopping */
  async #standBy(): Promise<Authority> {
    const store = await openStateStore(this.#options);
    try {
      for (;;) {
        const stored = await this.#untilThere(store, () => store.readRun());
        checkSameRun(stored, this.#options.config, store.where);
        await this.#warmData();
        const isBegun = await this.#retrying(() => hasCheckpoint(store));
        const lease = isBegun
          ? await this.#mirrorUntilOurs(store, stored)
          : await this.#acquireUnlessBegun(store, stored);
        if (lease !== null) return { store, lease };
      }
    } catch (error) {
      await store.close();
      throw error;
    }
  }

  async #mirrorUntilOurs(store: StateStore, stored: StoredRun): Promise<Lease> {
    const { dir } = this.#options.config;
    const mirror = await Mirror.open(store, stored, dir, (text) => this.#notice(text));
    try {
      await this.#retrying(() => mirror.catchUp({ onProgress: (text) => this.#notice(text) }));
      this.#step = mirror.step;
      await this.#tellLeader(store);
      const lease = await this.#acquireWhileMirroring(store, mirror);
      await this.#retrying(() => mirror.catchUp());
      return lease;
    } finally {
      await mirror.close();
    }
  }

  /**
   * Of a run that somebody is about to begin: the lease, if he is gone before there is a checkpoint. Null: there is one,
   * or another has begun the run anew.
   */
  async #acquireUnlessBegun(store: StateStore, { runId }: StoredRun): Promise<Lease | null> {
    this.#notice(`standing by: the run in ${store.where} is being begun`);
    const [ended, isBegun] = [new AbortController(), new AbortController()];
    const watched = this.#retrying(async () => {
      while (!ended.signal.aborted) {
        const isSame = (await store.readRun())?.runId === runId;
        if (!isSame || (await hasCheckpoint(store))) return isBegun.abort();
        await storeClock.sleep(RETRY_MS, ended.signal);
      }
    }, ended.signal);
    const failed = new AbortController();
    watched.catch((error: unknown) => failed.abort(error));
    const signal = AbortSignal.any([this.#stopping.signal, failed.signal, isBegun.signal]);
    try {
      return await this.#retrying(() => store.acquire(thisHolder(), signal), signal);
    } catch (error) {
      if (!isBegun.signal.aborted || this.#stopping.signal.aborted) throw error;
      return null;
    } finally {
      ended.abort();
      await watched.catch(() => {});
    }
  }

  async #acquireWhileMirroring(store: StateStore, mirror: Mirror): Promise<Lease> {
    const following = new AbortController();
    const followed = this.#follow(store, mirror, following.signal);
    const told = this.#keepTelling(store, following.signal);
    const failed = new AbortController();
    followed.catch((error: unknown) => failed.abort(error));
    const signal = AbortSignal.any([this.#stopping.signal, failed.signal]);
    try {
      return await this.#retrying(() => store.acquire(thisHolder(), signal));
    } finally {
      following.abort();
      await followed.catch(() => {});
      await told;
    }
  }

  /** Until aborted; a store that cannot be reached is waited for. */
  async #follow(store: StateStore, mirror: Mirror, signal: AbortSignal): Promise<void> {
    let toldMs = performance.now();
    const onStep = (step: number): void => {
      this.#step = step;
      if (performance.now() - toldMs < TELL_INTERVAL_MS) return;
      toldMs = performance.now();
      this.#options.onReport({
        type: 'progress',
        text: `standing by at step ${step}`,
        share: step / this.#options.config.steps,
      });
    };
    while (!signal.aborted) {
      await this.#retrying(() => mirror.follow(signal, onStep), signal);
      if (!signal.aborted) await sleep(RETRY_MS);
    }
  }

  /** With the lease of a run whose directory is up to date, or else of a run that is to be begun or gone on with. */
  async #lead(authority: Authority | null): Promise<RunningCoordinator> {
    const running = await startCoordinator({
      ...this.#options,
      config: this.#config(),
      ...(authority === null ? {} : { authority, mode: 'resume' }),
    });
    this.#running = running;
    this.#port = Number(new URL(running.url).port || this.#port);
    if (this.#stopping.signal.aborted) running.stop();
    return running;
  }

  #config() {
    const { config } = this.#options;
    return { ...config, coordinator: { ...config.coordinator, port: this.#port } };
  }

  async #openDoor(): Promise<void> {
    const { logger } = this.#options;
    const config = this.#config();
    const { certificates: tls } = await Doorkeeper.open(config, logger);
    const leaderUrl = (): string | null => this.#leaderUrl;
    this.#door = await StandbyDoor.open({ coordinator: config.coordinator, tls, leaderUrl, logger });
    this.#port = this.#door.port;
  }

  async #closeDoor(): Promise<void> {
    await this.#door?.close();
    this.#door = null;
  }

  /** What has to be read before the first step is in the cache when it matters. */
  async #warmData(): Promise<void> {
    const { dataset } = await openData(this.#options);
    await dataset?.close();
  }

  /** Trainers that ask here are sent to whoever leads now, also before his first step. Never rejects. */
  async #keepTelling(store: StateStore, signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await this.#tellLeader(store);
      await storeClock.sleep(TELL_INTERVAL_MS, signal);
    }
  }

  async #tellLeader(store: StateStore): Promise<void> {
    const leader = await store.leader().catch(() => undefined);
    if (leader === undefined) return; // what was true is the best that is known
    this.#leaderUrl = leader === null || leader.address === '' ? null : leader.address;
    const who = leader === null ? 'nobody leads it' : `${leader.address || leader.holderId} leads it`;
    this.#notice(`standing by: the run in ${store.where} is mirrored up to step ${this.#step}; ${who}`, who);
  }

  /** Asks again while there is nothing. @throws the reason of stopping */
  async #untilThere<T>({ where }: StateStore, ask: () => Promise<T | null>): Promise<T> {
    for (;;) {
      const found = await this.#retrying(ask);
      if (found !== null) return found;
      this.#notice(`waiting for the run in ${where} to be begun`);
      await sleep(RETRY_MS, undefined, { signal: this.#stopping.signal });
    }
  }

  /** While the store cannot be reached. */
  async #retrying<T>(work: () => Promise<T>, signal: AbortSignal = this.#stopping.signal): Promise<T> {
    for (;;) {
      try {
        return await work();
      } catch (error) {
        if (!(error instanceof StoreUnavailable) || signal.aborted) throw error;
        this.#notice(`${error.message}; trying again`);
        await sleep(RETRY_MS);
      }
    }
  }

  #stoppedSummary(): RunSummary {
    const { config } = this.#options;
    return {
      ...{ outcome: 'stopped', step: this.#step, totalSteps: config.steps, dir: config.dir },
      ...{
        lastLoss: NaN,
        validation: null,
        checkpointPath: null,
        weightsSha256: null,
        checkpointFailure: null,
      },
    };
  }

  /** Once, until it changes. */
  #notice(text: string, key = text): void {
    if (key === this.#lastNotice) return;
    this.#lastNotice = key;
    this.#options.onReport({ type: 'notice', text });
  }
}
