/**
 * A coordinator for `galore bench coordinator`, in a process of its own that tells what each step cost it. Called as
 * a program it is that process: the same code as `galore coordinator` runs. When its parent is gone it removes the
 * folder of the run and leaves. SHELL.
 */
import { fork, type ChildProcess } from 'node:child_process';
import { rmSync } from 'node:fs';
import { argv } from 'node:process';
import { fileURLToPath } from 'node:url';
import { OperatingError } from '../errors.ts';
import { keepYoungGenerationSmall } from '../heap.ts';

/** What the process is told when it starts. */
export interface BenchCoordinatorRequest {
  /** A run file, as JSON. */
  readonly document: string;
  /** The folder of everything it writes. */
  readonly folder: string;
}

/** What the process has used since it started, and when it said so. */
export interface ProcessUsage {
  /** Of a clock of its own. */
  readonly nowMs: number;
  readonly cpuSeconds: number;
  /** The most so far. */
  readonly rssBytes: number;
}

type FromProcess =
  | { readonly type: 'listening'; readonly url: string }
  | { readonly type: 'step'; readonly step: number; readonly usage: ProcessUsage }
  | { readonly type: 'usage'; readonly usage: ProcessUsage }
  | { readonly type: 'failed'; readonly text: string };

const PROGRAM = fileURLToPath(import.meta.url);

/** The process, seen from its parent. */
export class BenchCoordinator {
  readonly #child: ChildProcess;
  readonly #onStep: (step: number, usage: ProcessUsage) => void;
  readonly #waiting: { type: FromProcess['type']; resolve: (message: FromProcess) => void }[] = [];
  /** Rejects when the process ends, which it does not on its own. */
  readonly failed: Promise<never>;
  readonly #ended: Promise<void>;

  /** @param onStep called when a step is announced */
  constructor(request: BenchCoordinatorRequest, onStep: (step: number, usage: ProcessUsage) => void) {
    this.#onStep = onStep;
    // A group of its own: Ctrl-C is its parent's to hear.
    this.#child = fork(PROGRAM, [JSON.stringify(request)], { detached: true });
    let said = '';
    this.#ended = new Promise((resolve) => this.#child.once('close', () => resolve()));
    this.failed = new Promise((_resolve, reject) => {
      const fail = (how: string): void =>
        reject(
          new OperatingError(`the coordinator of the benchmark ${said === '' ? how : `failed: ${said}`}`),
        );
      this.#child.on('message', (message: FromProcess) => {
        if (message.type === 'failed') said = message.text;
        else this.#take(message);
      });
      this.#child.once('error', (error) => fail(`could not be started: ${error.message}`));
      this.#child.once('close', (code, signal) => fail(`ended with ${signal ?? `exit code ${code}`}`));
    });
    this.failed.catch(() => {});
  }

  /** Where trainers connect, once it listens. */
  async listening(): Promise<string> {
    const message = await this.#next('listening');
    return message.type === 'listening' ? message.url : '';
  }

  async usage(): Promise<ProcessUsage> {
    const answer = this.#next('usage');
    this.#child.send('usage');
    return ((await answer) as Extract<FromProcess, { type: 'usage' }>).usage;
  }

  /** Ends it at once: nothing of the run is kept. */
  async close(): Promise<void> {
    this.#child.kill('SIGKILL');
    await this.#ended;
  }

  #next(type: FromProcess['type']): Promise<FromProcess> {
    const came = new Promise<FromProcess>((resolve) => this.#waiting.push({ type, resolve }));
    return Promise.race([came, this.failed]);
  }

  #take(message: FromProcess): void {
    if (message.type === 'step') return this.#onStep(message.step, message.usage);
    const index = this.#waiting.findIndex(({ type }) => type === message.type);
    if (index >= 0) this.#waiting.splice(index, 1)[0]!.resolve(message);
  }
}

function usageNow(): ProcessUsage {
  const { user, system } = process.cpuUsage();
  const { maxRSS } = process.resourceUsage(); // KiB
  return { nowMs: performance.now(), cpuSeconds: (user + system) / 1e6, rssBytes: maxRSS * 1024 };
}

function tell(message: FromProcess): void {
  process.send?.(message);
}

async function serve({ document, folder }: BenchCoordinatorRequest): Promise<void> {
  process.once('disconnect', () => {
    rmSync(folder, { recursive: true, force: true });
    process.exit();
  });
  process.on('message', () => tell({ type: 'usage', usage: usageNow() }));
  const { parseRunConfig } = await import('../config/load.ts');
  const { startCoordinator } = await import('./coordinator.ts');
  const { SILENT_LOGGER } = await import('../log.ts');
  const config = parseRunConfig(document, 'the benchmark', { workingDir: folder, homeDir: folder });
  const coordinator = await startCoordinator({
    config,
    mode: 'new',
    cacheDir: folder,
    logger: SILENT_LOGGER,
    onReport: (report) => {
      if (report.type === 'step') tell({ type: 'step', step: report.step, usage: usageNow() });
    },
  });
  tell({ type: 'listening', url: coordinator.url });
  await coordinator.finished;
}

if (argv[1] === PROGRAM) {
  keepYoungGenerationSmall(); // as bin/galore.js does
  serve(JSON.parse(argv[2] ?? '{}') as BenchCoordinatorRequest).catch((error: unknown) => {
    tell({ type: 'failed', text: error instanceof Error ? error.message : String(error) });
    process.exitCode = 1;
    process.disconnect();
  });
}
