/**
 * A coordinator of a run that is kept in a state store: it leads the run, or stands by until whoever leads it is gone.
 * One who loses the lease stands by again. coordinator.ts is one leadership; this goes from one to the next. SHELL.
 */
import { randomUUID } from 'node:crypto';
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseRunConfig, resolvedYaml } from '../config/load.ts';
import { override } from '../config/overrides.ts';
import { checkResumable } from '../config/resumable.ts';
import { deferred } from '../deferred.ts';
import { CheckpointError, OperatingError } from '../errors.ts';
import type { CoordinatorOptions, RunningCoordinator, RunSummary } from './api.ts';
import { serveRun } from './coordinator.ts';
import { Doorkeeper } from './doorkeeper.ts';
import { keepInStore } from './keeping.ts';
import { Mirror } from './mirror.ts';
import { openData, prepareRun, type PreparedRun } from './prepare-run.ts';
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
/** Between two words of a standby that gets on. */
const TELL_INTERVAL_MS = 1_000;

/**
 * Begins the run, or goes on with it, or stands by. Resolves once trainers can connect, be it to be sent elsewhere.
 * @throws ConfigError, CheckpointError, DataError, OperatingError as startCoordinator does; CheckpointError when
 * another run of this name is in the store
 */
export async function startInStore(
  options: CoordinatorOptions,
  store: StateStore,
): Promise<RunningCoordinator> {
  const leadership = new Leadership(options, store);
  try {
    return await leadership.start();
  } catch (error) {
    await store.close();
    throw error;
  }
}

/** The right to lead, and the run that is opened for it. */
interface Turn {
  readonly lease: Lease;
  readonly run: PreparedRun;
}

class Leadership {
  readonly #options: CoordinatorOptions;
  readonly #store: StateStore;
  /** Of this process: one holder, however often it leads. */
  readonly #holderId = `${hostname()}-${process.pid}-${randomUUID()}`;
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

  constructor(options: CoordinatorOptions, store: StateStore) {
    this.#options = options;
    this.#store = store;
    this.#port = options.config.coordinator.port;
  }

  async start(): Promise<RunningCoordinator> {
    const doorkeeper = await this.#openDoorkeeper();
    const begun = await this.#begin();
    const first = begun === null ? null : await this.#lead(begun, doorkeeper);
    if (first === null) await this.#openDoor(doorkeeper);
    const url = first?.url ?? this.#door!.url;
    const { localToken, asksForTokens } = doorkeeper;
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
      await this.#door?.close();
      await this.#store.close();
    }
  }

  /** A run that is not in the store is begun: data and model are looked at before anything is told to the store. */
  async #begin(): Promise<Turn | null> {
    const { config, mode, isStandby = false } = this.#options;
    const stored = await this.#store.readRun();
    if (stored !== null && (mode === 'resume' || isStandby)) return null;
    if (stored !== null) {
      const text = `there is a run ${stored.name} in ${this.#store.where} already; take part in leading it with --standby, or choose another name`;
      throw new CheckpointError(this.#store.where, text);
    }
    const run = await prepareRun(this.#options);
    try {
      const { runId } = run;
      await this.#store.createRun({ runId, name: config.name, configYaml: resolvedYaml(config) });
    } catch (error) {
      await run.close();
      await run.undo();
      // Another was quicker.
      if (isStandby && error instanceof CheckpointError) return null;
      throw error;
    }
    const lease = await this.#store.acquire(this.#holder(), this.#stopping.signal);
    await this.#store.checkpoints.put(lease, run.checkpointsDir, run.newestCheckpoint.step);
    return { lease, run };
  }

  /** Null: it was stopped before. */
  async #waitToLead(): Promise<RunningCoordinator | null> {
    const doorkeeper = await this.#openDoorkeeper();
    if (this.#door === null) await this.#openDoor(doorkeeper);
    try {
      const turn = await this.#standBy();
      await this.#closeDoor();
      return await this.#lead(turn, doorkeeper);
    } catch (error) {
      if (this.#stopping.signal.aborted && this.#running === null) return null;
      throw error;
    }
  }

  /** Mirrors the run until the lease is ours. @throws the reason of stopping */
  async #standBy(): Promise<Turn> {
    const { config } = this.#options;
    const { signal } = this.#stopping;
    const stored = await this.#untilThere(() => this.#store.readRun(), 'to be begun');
    this.#checkSameRun(stored);
    await this.#warmData();
    const mirror = await Mirror.open(this.#store, stored, config.dir, (text) => this.#notice(text));
    let isOpen = true;
    let lease: Lease | null = null;
    try {
      const caughtUp = (): Promise<boolean | null> =>
        mirror.catchUp((text) => this.#notice(text)).then((hasState) => hasState || null);
      await this.#untilThere(caughtUp, 'to have its first checkpoint');
      await this.#tellLeader(mirror);
      lease = await this.#acquireWhileMirroring(mirror);
      await this.#retrying(() => mirror.catchUp());
      if (mirror.sequence !== lease.lastSequence) {
        const has = `${this.#store.where} has records up to ${lease.lastSequence}, and gave them up to ${mirror.sequence}`;
        throw new CheckpointError(config.dir, has);
      }
      isOpen = false;
      await mirror.close();
      signal.throwIfAborted();
      return { lease, run: await this.#openRun() };
    } catch (error) {
      await lease?.release();
      if (isOpen) await mirror.close();
      throw error;
    }
  }

  async #acquireWhileMirroring(mirror: Mirror): Promise<Lease> {
    const following = new AbortController();
    const followed = this.#follow(mirror, following.signal);
    const failed = new AbortController();
    followed.catch((error: unknown) => failed.abort(error));
    const signal = AbortSignal.any([this.#stopping.signal, failed.signal]);
    try {
      return await this.#retrying(() => this.#store.acquire(this.#holder(), signal));
    } finally {
      following.abort();
      await followed.catch(() => {});
    }
  }

  /** Until aborted; a store that cannot be reached is waited for. */
  async #follow(mirror: Mirror, signal: AbortSignal): Promise<void> {
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
      void this.#tellLeader(mirror);
    };
    while (!signal.aborted) {
      await this.#retrying(() => mirror.follow(signal, onStep), signal);
      if (!signal.aborted) await sleep(RETRY_MS);
    }
  }

  async #openRun(): Promise<PreparedRun> {
    return await prepareRun({ ...this.#options, config: this.#config(), mode: 'resume' });
  }

  async #lead({ lease, run }: Turn, doorkeeper: Doorkeeper): Promise<RunningCoordinator> {
    const options = { ...this.#options, config: this.#config() };
    const keeping = keepInStore(this.#store, lease, run);
    const released = {
      ...run,
      keeping,
      close: () => run.close().finally(() => lease.release()),
      undo: () => Promise.resolve(), // the store has it
    };
    const running = await serveRun(released, doorkeeper, options);
    this.#running = running;
    this.#port = Number(new URL(running.url).port || this.#port);
    await keeping.tell(this.#advertised(running.url)).catch(() => {}); // a renewal tells it, too
    const { step } = run.start;
    this.#step = step;
    this.#notice(
      `leading the run from step ${step} on (epoch ${lease.epoch}); trainers join at ${running.url}`,
    );
    this.#store.publish({ type: 'leader', step, epoch: lease.epoch, address: lease.address });
    if (this.#stopping.signal.aborted) running.stop();
    return running;
  }

  #config() {
    const { config } = this.#options;
    return { ...config, coordinator: { ...config.coordinator, port: this.#port } };
  }

  #holder() {
    return { holderId: this.#holderId, address: '' };
  }

  #openDoorkeeper(): Promise<Doorkeeper> {
    const { config, logger } = this.#options;
    return Doorkeeper.open(config, logger);
  }

  async #openDoor({ certificates: tls }: Doorkeeper): Promise<void> {
    const { coordinator } = this.#config();
    const leaderUrl = (): string | null => this.#leaderUrl;
    this.#door = await StandbyDoor.open({ coordinator, tls, leaderUrl, logger: this.#options.logger });
    this.#port = this.#door.port;
  }

  async #closeDoor(): Promise<void> {
    await this.#door?.close();
    this.#door = null;
  }

  /** A standby with other settings would lead another run. @throws ConfigError */
  #checkSameRun({ configYaml }: StoredRun): void {
    const { config } = this.#options;
    const overrides = [override('dir', config.dir, '')];
    const saved = parseRunConfig(configYaml, `the run in ${this.#store.where}`, {
      ...{ workingDir: '/', homeDir: '/', overrides },
    });
    checkResumable(saved, config);
  }

  /** What has to be read before the first step is in the cache when it matters. */
  async #warmData(): Promise<void> {
    const { dataset } = await openData(this.#options);
    await dataset?.close();
  }

  async #tellLeader(mirror: Mirror): Promise<void> {
    const leader = await this.#store.leader().catch(() => null);
    this.#leaderUrl = leader === null || leader.address === '' ? null : leader.address;
    const who = leader === null ? 'nobody leads it' : `${leader.address || leader.holderId} leads it`;
    this.#notice(
      `standing by: the run in ${this.#store.where} is mirrored up to step ${mirror.step}; ${who}`,
      who,
    );
  }

  /** Asks again while there is nothing. @throws the reason of stopping */
  async #untilThere<T>(ask: () => Promise<T | null>, forWhat: string): Promise<T> {
    for (;;) {
      const found = await this.#retrying(ask);
      if (found !== null) return found;
      this.#notice(`waiting for the run in ${this.#store.where} ${forWhat}`);
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

  /** Where others find this coordinator. */
  #advertised(url: string): string {
    const place = new URL(url);
    if (['0.0.0.0', '[::]'].includes(place.hostname)) place.hostname = hostname();
    return place.href;
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
