/** A context for commands whose streams, signals, clock and work belong to the test. */
import { EventEmitter } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ExecutionContext } from 'ava';
import type { CliContext, Services, StopSignal } from '../../src/cli/context.ts';
import type { OutputStream } from '../../src/cli/display.ts';
import type { ChildProcessEvents } from '../../src/cli/local-trainers.ts';
import { runCli } from '../../src/cli/program.ts';
import type {
  CoordinatorOptions,
  RunningCoordinator,
  RunSummary,
  StepReport,
} from '../../src/coordinator/api.ts';
import { deferred, type Deferred } from '../../src/deferred.ts';

/** A stream that remembers. */
export class FakeStream implements OutputStream {
  text = '';
  readonly isTTY: boolean;
  readonly columns: number | undefined;
  constructor(isTTY = false, columns?: number) {
    this.isTTY = isTTY;
    this.columns = columns;
  }
  write(text: string): boolean {
    this.text += text;
    return true;
  }
}

/** A process that was "started". */
export interface FakeProcess {
  readonly args: readonly string[];
  readonly signals: string[];
  readonly events: ChildProcessEvents;
  readonly environment: Readonly<Record<string, string>>;
}

/** Timers that fire when told to. */
export class FakeTimers {
  readonly pending: { readonly delayMs: number; readonly callback: () => void }[] = [];
  readonly after = (delayMs: number, callback: () => void): (() => void) => {
    const timer = { delayMs, callback };
    this.pending.push(timer);
    return () => this.#remove(timer);
  };
  /** Fires the timer that is due first and returns its delay. */
  fireNext(): number | undefined {
    const next = this.pending.toSorted((a, b) => a.delayMs - b.delayMs)[0];
    if (next === undefined) return undefined;
    this.#remove(next);
    next.callback();
    return next.delayMs;
  }
  #remove(timer: (typeof this.pending)[number]): void {
    const at = this.pending.indexOf(timer);
    if (at >= 0) this.pending.splice(at, 1);
  }
}

/** A coordinator that does what the test says. */
export class FakeCoordinator {
  readonly started: Deferred<CoordinatorOptions> = deferred();
  readonly finished: Deferred<RunSummary> = deferred();
  stops = 0;
  /** Held back until it is set: the coordinator "opens the run". */
  readonly opened: Deferred<void> = deferred();

  readonly start = async (options: CoordinatorOptions): Promise<RunningCoordinator> => {
    this.started.resolve(options);
    await this.opened.promise;
    return {
      url: 'ws://127.0.0.1:29400/',
      localUrl: 'ws://127.0.0.1:29401/',
      localToken: 'galore_local',
      asksForTokens: false,
      finished: this.finished.promise,
      stop: () => {
        this.stops += 1;
      },
    };
  };
}

export interface World {
  readonly context: CliContext;
  readonly dir: string;
  readonly out: FakeStream;
  readonly err: FakeStream;
  readonly signals: EventEmitter;
  readonly timers: FakeTimers;
  readonly processes: FakeProcess[];
  readonly exits: number[];
  readonly coordinator: FakeCoordinator;
  readonly parent: { gone: () => void };
  run(...args: readonly string[]): Promise<number>;
  signal(name: StopSignal): void;
}

export interface WorldOptions {
  readonly services?: Partial<Services>;
  readonly out?: FakeStream;
  readonly hasParent?: boolean;
  /** The coordinator opens the run only when the test says so. */
  readonly isOpeningHeld?: boolean;
  readonly token?: string;
}

/** A fresh folder with `run.yaml` in it, and a context whose coordinator opens at once. */
export function world(t: ExecutionContext, options: WorldOptions = {}): World {
  const dir = mkdtempSync(join(tmpdir(), 'galore-cli-'));
  t.teardown(() => rmSync(dir, { recursive: true, force: true }));
  writeFileSync(join(dir, 'run.yaml'), RUN_YAML);
  const out = options.out ?? new FakeStream();
  const err = new FakeStream(out.isTTY, out.columns);
  const signals = new EventEmitter();
  const timers = new FakeTimers();
  const processes: FakeProcess[] = [];
  const exits: number[] = [];
  const coordinator = new FakeCoordinator();
  if (!options.isOpeningHeld) coordinator.opened.resolve();
  const parent = { gone: (): void => {} };
  const context: CliContext = {
    stdout: out,
    stderr: err,
    environment: {
      cacheDir: '/cache',
      homeDir: '/home/ann',
      mayColour: false,
      mayRedraw: true,
      token: options.token ?? '',
      nats: { token: '', user: '', password: '', credsPath: '' },
      visibleGpus: null,
    },
    signals,
    services: {
      ensureEngine: (wish = 'auto', count = 1) => {
        const name = wish === 'auto' ? 'cpu' : wish;
        return Promise.resolve(Array.from({ length: count }, () => ({ name, folder: '/engine', gpu: null })));
      },
      startCoordinator: coordinator.start,
      startGateway: () => Promise.reject(new Error('no gateway is started here')),
      runTrainer: () => Promise.resolve({ code: 0, reason: 'the run has ended' }),
      evaluateModel: () => Promise.resolve({ loss: 2, perplexity: Math.exp(2), tokens: 100, sequences: 4 }),
      continueText: () => Promise.resolve({ tokens: 0, end: 'limit' }),
      predictClasses: () => Promise.resolve(),
      exportModel: () => Promise.resolve({ files: [], parameters: 0, hasTokenizer: true }),
      exportAdapter: () => Promise.reject(new Error('no adapter is exported here')),
      openMadeWeights: () => Promise.reject(new Error('no weights are made here')),
      measureStep: () => Promise.reject(new Error('nothing is measured here')),
      follow: () => Promise.reject(new Error('nothing is followed here')),
      ...options.services,
    },
    workingDir: dir,
    hostName: 'Böx 7',
    processId: 42,
    cores: 8,
    commandName: 'galore',
    launchProcess: (args, events, environment = {}) => {
      const process: FakeProcess = { args, events, environment, signals: [] };
      processes.push(process);
      return { kill: (signal) => void process.signals.push(signal) };
    },
    onParentGone: options.hasParent ? (callback) => void (parent.gone = callback) : null,
    after: timers.after,
    exitNow: (code) => void exits.push(code),
  };
  return {
    context,
    dir,
    out,
    err,
    signals,
    timers,
    processes,
    exits,
    coordinator,
    parent,
    run: (...args) => runCli(args, context),
    signal: (name) => void signals.emit(name),
  };
}

export const RUN_YAML = 'name: tiny\nmodel: 9m\ndata: {path: corpus.txt}\nsteps: 60\n';

/** Puts a run directory in place, as a coordinator would have written it. */
export function writeRunDirectory(dir: string, runYaml: string): void {
  mkdirSync(join(dir, 'checkpoints'), { recursive: true });
  writeFileSync(join(dir, 'run.yaml'), runYaml);
}

export const STEP: StepReport = {
  type: 'step',
  step: 12,
  totalSteps: 60,
  loss: 5.1234,
  tokens: 2048,
  seconds: 2.5,
  tokensPerSecond: 812.4,
  bytesUp: 1_234_567,
  bytesDown: 1_198_000,
  assigned: 2,
  trainers: 2,
  learningRate: 0.01,
  validation: { loss: Math.log(210.4), accuracy: null },
  etaSeconds: 80,
};

export function summary(dir: string, changes: Partial<RunSummary> = {}): RunSummary {
  return {
    outcome: 'completed',
    step: 60,
    totalSteps: 60,
    dir,
    lastLoss: 4.5,
    validation: { loss: Math.log(95.21), accuracy: null },
    checkpointPath: join(dir, 'checkpoints/step-000060'),
    weightsSha256: 'ab12',
    checkpointFailure: null,
    ...changes,
  };
}

/** Lets everything that is ready run. */
export function settle(): Promise<void> {
  return new Promise((resolve) => void setImmediate(resolve));
}
