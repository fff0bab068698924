/**
 * A run as its directory shows it: for a run that has ended, and beside a coordinator that is at work. Only reads, takes
 * no lock. What is not in files (who is connected, what is waited for) is not known here. SHELL.
 */
import { open } from 'node:fs/promises';
import type { RunConfig } from '../config/schema.ts';
import { readFully } from '../files/positional.ts';
import { systemErrorCode } from '../files/system-error.ts';
import type { RunNow } from '../view/events.ts';
import { RunHistory, type Line } from '../view/run-history.ts';
import type { ViewSource } from '../view/status-page.ts';
import { factsOf } from './coordinator-page.ts';
import { listCheckpointSteps } from './store/checkpoint.ts';
import { readLockOwner, type Liveness } from './store/directory-lock.ts';
import type { RunDirectoryPaths } from './store/run-directory.ts';

const PIECE_BYTES = 1024 * 1024;
const NEWLINE = 0x0a;

export class DirectoryView implements ViewSource {
  readonly #run: RunDirectoryPaths;
  readonly #config: RunConfig;
  readonly #metrics: GrowingLines;
  readonly #evaluations: GrowingLines;
  #history = new RunHistory();
  #liveness: Liveness | null = null;
  #checkpointStep: number | null = null;

  constructor(run: RunDirectoryPaths, config: RunConfig) {
    this.#run = run;
    this.#config = config;
    this.#metrics = new GrowingLines(run.metricsPath);
    this.#evaluations = new GrowingLines(run.evaluationsPath);
  }

  get facts() {
    return factsOf(this.#config, this.#run.runId, 'files');
  }

  get history(): RunHistory {
    return this.#history;
  }

  /** Reads what has come since the last time. @throws if the files cannot be read */
  async refresh(): Promise<void> {
    const steps = await this.#metrics.read();
    const evaluations = await this.#evaluations.read();
    if (steps.isAnew || evaluations.isAnew) {
      // Resuming cuts off what was not committed: such a file is read from its beginning.
      this.#history = new RunHistory();
      this.#metrics.rewind();
      this.#evaluations.rewind();
      return await this.refresh();
    }
    for (const line of steps.lines) this.#history.addStep(line);
    for (const line of evaluations.lines) this.#history.addEvaluation(line);
    const lock = await readLockOwner(this.#run.path);
    this.#liveness = lock === null ? null : lock.liveness;
    this.#checkpointStep = (await listCheckpointSteps(this.#run.checkpointsDir)).at(-1) ?? null;
  }

  whyNotReady(): null {
    return null;
  }

  metrics(): null {
    return null;
  }

  now(): Omit<RunNow, 'viewers'> {
    const { newest, secondsPerStep } = this.#history;
    const { steps: totalSteps } = this.#config;
    const step = Math.max(newest?.step ?? 0, this.#checkpointStep ?? 0);
    const isAtWork = this.#liveness === 'alive' || this.#liveness === 'unknown';
    const isDone = step >= totalSteps && !isAtWork;
    const activity = isDone
      ? `all ${step} steps are done`
      : isAtWork
        ? 'a coordinator is at work in this directory; what it waits for is on its own page'
        : `no coordinator is at work: the run stands at step ${step}; it goes on with galore resume`;
    return {
      state: isDone ? 'completed' : isAtWork ? 'running' : 'interrupted',
      activity,
      step,
      secondsPerStep,
      etaSeconds: isAtWork && secondsPerStep !== null ? secondsPerStep * (totalSteps - step) : null,
      trainers: (newest?.members ?? []).map((trainerId) => ({
        trainerId,
        state: 'seen',
        reason: newest!.late.includes(trainerId) ? 'was late' : null,
        reasonStep: newest!.late.includes(trainerId) ? newest!.step : null,
        ...{
          trainers: null,
          sequences: null,
          answerSeconds: null,
          residentBytes: null,
          lateSteps: 0,
          outliers: 0,
        },
      })),
      checkpoint: {
        step: this.#checkpointStep,
        activity: isAtWork ? 'not told by files' : 'none is being made',
      },
    };
  }
}

/** The lines of a file that grows. */
class GrowingLines {
  readonly #path: string;
  #position = 0;
  #rest = Buffer.alloc(0);

  constructor(path: string) {
    this.#path = path;
  }

  rewind(): void {
    this.#position = 0;
    this.#rest = Buffer.alloc(0);
  }

  /** Whole lines since the last time. `isAnew`: the file has become shorter, so what was read of it is void. */
  async read(): Promise<{ readonly lines: readonly Line[]; readonly isAnew: boolean }> {
    const handle = await open(this.#path, 'r').catch((error: unknown) => {
      if (systemErrorCode(error) === 'ENOENT') return null;
      throw error;
    });
    if (handle === null) return { lines: [], isAnew: this.#position > 0 };
    try {
      const { size } = await handle.stat();
      if (size < this.#position) return { lines: [], isAnew: true };
      const lines: Line[] = [];
      const piece = Buffer.alloc(Math.min(PIECE_BYTES, Math.max(size - this.#position, 1)));
      for (;;) {
        const done = await readFully(handle, piece, this.#position);
        this.#position += done;
        this.#take(Buffer.concat([this.#rest, piece.subarray(0, done)]), lines);
        if (done < piece.length || this.#position >= size) return { lines, isAnew: false };
      }
    } finally {
      await handle.close();
    }
  }

  #take(bytes: Buffer, lines: Line[]): void {
    let from = 0;
    for (let at = bytes.indexOf(NEWLINE); at !== -1; at = bytes.indexOf(NEWLINE, from)) {
      const line = parse(bytes.toString('utf8', from, at));
      if (line !== null) lines.push(line);
      from = at + 1;
    }
    this.#rest = Buffer.from(bytes.subarray(from));
  }
}

function parse(text: string): Line | null {
  try {
    const value = JSON.parse(text) as Line | null;
    return typeof value?.step === 'number' ? value : null;
  } catch {
    return null;
  }
}
