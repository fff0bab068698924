/**
 * One run over shaped links: a coordinator and trainers as processes of their own, each in a network namespace.
 * Whatever happens, processes, namespaces and files are gone at the end. SHELL.
 */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { resolvedYaml } from '../../config/load.ts';
import type { RunConfig } from '../../config/schema.ts';
import { deferred } from '../../deferred.ts';
import { OperatingError } from '../../errors.ts';
import { InterruptedError } from '../interrupts.ts';
import { launcherBy } from '../launch-process.ts';
import type { ChildProcessHandle } from '../local-trainers.ts';
import {
  readLogLine,
  type CommittedRecord,
  type StepMetrics,
  type TrainerStep,
  type WanRecords,
} from './measurement.ts';
import { runCommands, withNetwork } from './namespaces.ts';
import {
  inside,
  shapeCommands,
  starNetwork,
  unshapeCommands,
  type LinkRates,
  type StarNetwork,
} from './network.ts';
import type { LinkState, Turn } from './turns.ts';

export interface WanRequest {
  /** Of a run that listens on all addresses and has more steps than `turns`. */
  readonly config: RunConfig;
  readonly rates: LinkRates;
  readonly turns: readonly Turn[];
  /** CPU threads of each trainer. */
  readonly threads: number;
  /** Begins the names of the namespaces: this process's alone. */
  readonly name: string;
}

export interface WanListener {
  /** Aborted: the run ends at once. */
  readonly signal: AbortSignal;
  readonly onProgress: (text: string, share: number) => void;
  /** Something could not be removed. */
  readonly onNotice: (text: string) => void;
}

/** What the run was ended with. */
/** Lines of a process that are shown when it ends too early. */
const KEPT_LINES = 5;

/** @throws OperatingError, InterruptedError */
export async function runWan(request: WanRequest, listener: WanListener): Promise<WanRecords> {
  const network = starNetwork(request.name, request.config.coordinator.start_trainers);
  const scratch = await mkdtemp(join(tmpdir(), 'galore-wan-'));
  try {
    return await withNetwork(network, request.rates, listener.onNotice, () =>
      new WanRun(request, listener, network, scratch).toEnd(),
    );
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

class WanRun {
  readonly #request: WanRequest;
  readonly #listener: WanListener;
  readonly #network: StarNetwork;
  readonly #scratch: string;
  readonly #trainerSteps: TrainerStep[] = [];
  readonly #updates: CommittedRecord[] = [];
  readonly #reached = deferred<void>();
  readonly #processes: { readonly handle: ChildProcessHandle; readonly ended: Promise<void> }[] = [];
  readonly #lastStep: number;
  #isEnding = false;

  constructor(request: WanRequest, listener: WanListener, network: StarNetwork, scratch: string) {
    this.#request = request;
    this.#listener = listener;
    this.#network = network;
    this.#scratch = scratch;
    this.#lastStep = request.turns.at(-1)?.last ?? 0;
  }

  async toEnd(): Promise<WanRecords> {
    const { signal } = this.#listener;
    const interrupt = (): void =>
      this.#reached.reject(
        new InterruptedError('processes, namespaces and files of the measurement are removed'),
      );
    signal.addEventListener('abort', interrupt, { once: true });
    if (signal.aborted) interrupt();
    try {
      await Promise.all([this.#start(), this.#reached.promise]);
      const metrics = await readFile(join(this.#dir(), 'metrics.jsonl'), 'utf8');
      return {
        metrics: metrics
          .trim()
          .split('\n')
          .map((line) => JSON.parse(line) as StepMetrics),
        trainerSteps: this.#trainerSteps,
        updates: this.#updates,
      };
    } finally {
      signal.removeEventListener('abort', interrupt);
      this.#isEnding = true;
      for (const { handle } of this.#processes) handle.kill('SIGKILL');
      await Promise.all(this.#processes.map(({ ended }) => ended));
    }
  }

  async #start(): Promise<void> {
    const { config, threads } = this.#request;
    const file = join(this.#scratch, 'run.yaml');
    await writeFile(file, resolvedYaml({ ...config, dir: this.#dir() }));
    const logs = ['--log-json', '--log-level', 'debug'];
    this.#launch('coordinator', this.#network.hub, ['coordinator', file, ...logs]);
    this.#network.spokes.forEach(({ namespace, hubAddress }, index) => {
      const id = `trainer-${index + 1}`;
      const url = `ws://${hubAddress}:${config.coordinator.port}/`;
      const options = ['--device', 'cpu', '--precision', config.trainer.precision, '--quiet'];
      const args = ['trainer', url, '--id', id, '--threads', String(threads), ...options, ...logs];
      this.#launch(id, namespace, args);
    });
  }

  #dir(): string {
    return join(this.#scratch, 'run');
  }

  #launch(name: string, namespace: string, args: readonly string[]): void {
    const lines: string[] = [];
    const ended = deferred<void>();
    const handle = launcherBy(inside(namespace))(args, {
      onLine: (line) => {
        if (!isChatter(line)) lines.push(line);
        if (lines.length > KEPT_LINES) lines.shift();
        this.#read(line);
      },
      onExit: (_, how) => {
        ended.resolve();
        if (this.#isEnding) return;
        const text = `the ${name} of the measurement ended (${how}) before step ${this.#lastStep}`;
        this.#reached.reject(new OperatingError([`${text}:`, ...lines].join('\n')));
      },
    });
    this.#processes.push({ handle, ended: ended.promise });
  }

  #read(text: string): void {
    const line = readLogLine(text);
    if (line === null) return;
    if (line.type === 'trainerStep') this.#trainerSteps.push(line.line);
    else if (line.type === 'update') this.#updates.push(line.line);
    else this.#stepDone(line.step);
  }

  /** By the step after the last all have written down what they know of that. */
  #stepDone(step: number): void {
    const { turns } = this.#request;
    const position = turns.findIndex(({ last }) => last === step);
    const next = turns[position + 1];
    if (position >= 0 && next !== undefined) this.#setLinks(next.links);
    const links = turns.findLast(({ first }) => first <= step)?.links ?? 'unshaped';
    this.#listener.onProgress(`step ${step} of ${this.#lastStep}, links ${links}`, step / this.#lastStep);
    if (step > this.#lastStep) this.#reached.resolve();
  }

  #setLinks(links: LinkState): void {
    const commands =
      links === 'shaped' ? shapeCommands(this.#network, this.#request.rates) : unshapeCommands(this.#network);
    runCommands(commands).catch((error: unknown) => this.#reached.reject(error));
  }
}

/** What goes well is not what it ended of. */
function isChatter(line: string): boolean {
  return /^\{"level":"(debug|info)"/.test(line);
}
