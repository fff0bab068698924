/** A trainer for programs: `galore trainer` without the command line. One a process, on its main thread. SHELL. */
import { mkdir } from 'node:fs/promises';
import { availableParallelism, hostname } from 'node:os';
import { readEnvironment } from '../config/environment.ts';
import type { DeviceWish } from '../device-name.ts';
import { TrainerError } from '../errors.ts';
import { readPemFiles } from '../files/pem.ts';
import { SILENT_LOGGER, type Logger } from '../log.ts';
import { Backlog } from './backlog.ts';

/** How a trainer takes part in a run. */
export interface TrainerSettings {
  /** Where the coordinator listens: ws://HOST:PORT or wss://HOST. */
  readonly url: string;
  /** Its name in the run, of letters, digits, `.`, `_` and `-`. Default: host name and process number. */
  readonly id?: string;
  /** The run it wants. Default: whatever run the coordinator has. */
  readonly run?: string;
  /** Join token, where one is asked for. */
  readonly token?: string;
  /** Paths of PEM files for wss://: `ca` to trust in place of the system's authorities, `cert` and `key` to show. */
  readonly tls?: { readonly ca?: string; readonly cert?: string; readonly key?: string };
  /** `auto` (default), `cpu` or `gpu:N`. */
  readonly device?: DeviceWish;
  /** Default: f32. */
  readonly precision?: 'f32' | 'bf16';
  /** Default: all cores. */
  readonly threads?: number;
  /** Where it keeps what is its own from step to step, so that it can be started again. Default: nowhere. */
  readonly stateDir?: string;
  /** Where the tensor engine is. Default: GALORE_CACHE_DIR, else the user's cache folder. */
  readonly cacheDir?: string;
  /** Told what is downloaded and compiled where the engine is not installed yet. */
  readonly onEngine?: (text: string, share: number | undefined) => void;
  /** Default: nothing is logged. `createLogger` makes one. */
  readonly logger?: Logger;
}

/** A trainer at work; an iteration gives what it does, in words. */
export class Trainer implements AsyncIterable<string> {
  readonly id: string;
  /** Resolves to why it ended when the run did, or it was stopped. @throws TrainerError if it was refused or lost */
  readonly finished: Promise<string>;
  readonly #leaving: AbortController;
  readonly #activities: Backlog<string>;

  private constructor(
    id: string,
    finished: Promise<string>,
    leaving: AbortController,
    activities: Backlog<string>,
  ) {
    this.id = id;
    this.finished = finished;
    this.#leaving = leaving;
    this.#activities = activities;
    finished.then(
      () => activities.end(),
      (error: unknown) => activities.fail(error),
    );
  }

  /**
   * Installs the engine if it is not there (minutes, once per user), and begins to connect; it connects again by itself.
   * @throws EngineError, and of the certificates DataError
   */
  static async start(settings: TrainerSettings): Promise<Trainer> {
    const { cacheDir: usual, visibleGpus } = readEnvironment();
    const { url, id = `${hostname()}-${process.pid}`, device: wish = 'auto', onEngine } = settings;
    const cacheDir = settings.cacheDir ?? usual;
    const { readyDevices } = await import('../trainer/engine/ready-device.ts');
    const [device] = await readyDevices({
      ...{ wish, count: 1, cacheDir, visibleGpus },
      onNotice: (text) => onEngine?.(text, undefined),
      onProgress: ({ message, share }) => onEngine?.(message, share),
    });
    const leaving = new AbortController();
    const activities = new Backlog<string>();
    const { runTrainer } = await import('../trainer/trainer.ts');
    if (settings.tls !== undefined) await readPemFiles(settings.tls);
    if (settings.stateDir !== undefined) await mkdir(settings.stateDir, { recursive: true });
    const ended = runTrainer({
      url,
      trainerId: id,
      runName: settings.run ?? '',
      token: settings.token ?? '',
      tls: settings.tls,
      device,
      precision: settings.precision ?? 'f32',
      threads: settings.threads ?? availableParallelism(),
      stateDir: settings.stateDir,
      logger: settings.logger ?? SILENT_LOGGER,
      signal: leaving.signal,
      onActivity: (text) => activities.add(text),
    });
    const finished = ended.then(({ code, reason }) => {
      if (code !== 0) throw new TrainerError(reason);
      return reason;
    });
    return new Trainer(id, finished, leaving, activities);
  }

  /** What it does, in words, such as `step 7: computing`; ends with it, and throws what `finished` rejects with. */
  [Symbol.asyncIterator](): AsyncGenerator<string, void, undefined> {
    return this.#activities[Symbol.asyncIterator]();
  }

  /** Leaves the run in good order. */
  stop(): Promise<string> {
    this.#leaving.abort();
    return this.finished;
  }
}
