/** A coordinator for programs: `galore coordinator` and `galore resume` without the command line. SHELL. */
import { resolve } from 'node:path';
import type { z } from 'zod';
import { readEnvironment } from '../config/environment.ts';
import { loadRunConfig, parseRunConfig } from '../config/load.ts';
import { override } from '../config/overrides.ts';
import { checkResumable } from '../config/resumable.ts';
import type { RunConfig, runConfigSchema } from '../config/schema.ts';
import type { RunningCoordinator, RunReport, RunSummary } from '../coordinator/api.ts';
import { SILENT_LOGGER, type Logger } from '../log.ts';
import { Backlog } from './backlog.ts';

/** The fields of a run file; docs/configuration.md has every one. */
export type RunFields = z.input<typeof runConfigSchema>;

/** What every start of a coordinator takes. */
export interface CoordinatorSettings {
  /** Laid over the configuration, by dotted path: `{ 'optimizer.lr': 0.003, dir: 'runs/second' }`. */
  readonly set?: Readonly<Record<string, unknown>>;
  /** Write a checkpoint and end after this step, as if asked to stop. */
  readonly stopAtStep?: number;
  /** Where tokenised data are kept. Default: GALORE_CACHE_DIR, else the user's cache folder. */
  readonly cacheDir?: string;
  /** Default: nothing is logged. `createLogger` makes one. */
  readonly logger?: Logger;
}

/** The configuration of a new run. */
export interface NewRunSettings extends CoordinatorSettings {
  /** The path of a YAML file, or its fields. Relative paths in it are relative to the working directory. */
  readonly config: string | RunFields;
}

/** A run that is being carried out; an iteration gives what happens in it, from its start to its end. */
export class Coordinator implements AsyncIterable<RunReport> {
  /** Where trainers connect, such as `ws://127.0.0.1:29400/`. */
  readonly url: string;
  /** Where trainers of this machine connect, with `localToken`, whatever others need. */
  readonly localUrl: string;
  /** A secret: whoever has it may train. */
  readonly localToken: string;
  /** All fields, with defaults and presets put in. */
  readonly config: RunConfig;
  /** Settles when everything is on disk and closed; rejects as `start` does if the run cannot go on. */
  readonly finished: Promise<RunSummary>;
  readonly #running: RunningCoordinator;
  readonly #reports: Backlog<RunReport>;

  private constructor(config: RunConfig, running: RunningCoordinator, reports: Backlog<RunReport>) {
    this.config = config;
    this.url = running.url;
    this.localUrl = running.localUrl;
    this.localToken = running.localToken;
    this.finished = running.finished;
    this.#running = running;
    this.#reports = reports;
    running.finished.then(
      () => reports.end(),
      (error: unknown) => reports.fail(error),
    );
  }

  /**
   * Begins a new run in `dir` (default: runs/NAME), and listens.
   * @throws ConfigError with every fault; DataError, CheckpointError (there is a run already), OperatingError
   */
  static async start({ config, ...settings }: NewRunSettings): Promise<Coordinator> {
    const options = loadOptions(settings);
    const resolved =
      typeof config === 'string'
        ? loadRunConfig(config, options)
        : parseRunConfig(JSON.stringify(config), 'the configuration', options);
    return Coordinator.#open(resolved, 'new', settings);
  }

  /**
   * Goes on with the run in the directory, as far as it was committed.
   * @throws ConfigError if there is none, or `set` changes what a run cannot change; otherwise as `start`
   */
  static async resume(dir: string, settings: CoordinatorSettings = {}): Promise<Coordinator> {
    const place = { dir: resolve(dir) };
    const file = resolve(dir, 'run.yaml');
    const saved = loadRunConfig(file, loadOptions({ set: place }));
    const config = loadRunConfig(file, loadOptions({ set: { ...settings.set, ...place } }));
    checkResumable(saved, config);
    return Coordinator.#open(config, 'resume', settings);
  }

  static async #open(
    config: RunConfig,
    mode: 'new' | 'resume',
    { stopAtStep, cacheDir, logger }: CoordinatorSettings,
  ): Promise<Coordinator> {
    const reports = new Backlog<RunReport>();
    const { services } = await import('../cli/services.ts');
    const running = await services.startCoordinator({
      config,
      mode,
      cacheDir: cacheDir ?? readEnvironment().cacheDir,
      logger: logger ?? SILENT_LOGGER,
      onReport: (report) => reports.add(report),
      ...(stopAtStep === undefined ? {} : { stopAtStep }),
    });
    return new Coordinator(config, running, reports);
  }

  /** What happens, from the start of this object on; ends with the run, and throws what `finished` rejects with. */
  [Symbol.asyncIterator](): AsyncGenerator<RunReport, void, undefined> {
    return this.#reports[Symbol.asyncIterator]();
  }

  /** Ends the run after the step that is under way, with a checkpoint; called again, at once. Every committed step is kept. */
  stop(): Promise<RunSummary> {
    this.#running.stop();
    return this.finished;
  }
}

/** A coordinator starts no processes, whatever the configuration says about trainers of this machine. */
function loadOptions({ set = {} }: Pick<CoordinatorSettings, 'set'>): Parameters<typeof loadRunConfig>[1] {
  const overrides = Object.entries({ ...set, 'coordinator.local_trainers': 0 }).map(([path, value]) =>
    override(path, value, `set ${path}`),
  );
  return { overrides, workingDir: process.cwd(), homeDir: readEnvironment().homeDir };
}
