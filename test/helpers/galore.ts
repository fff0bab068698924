/** Runs the `galore` command as a user would: real processes, real sockets, real files. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ExecutionContext } from 'ava';
import { stringify } from 'yaml';
import { inspectRun } from '../../src/coordinator/store/inspect.ts';
import { galoreHere } from './here.ts';
import { readSafetensors } from './safetensors.ts';

/** The root of the repository, from the compiled file dist/test/helpers/galore.js. */
export const ROOT = join(import.meta.dirname, '..', '..', '..');

/** A line of metrics.jsonl, as far as tests look at it. */
export interface Metric {
  readonly step: number;
  readonly loss: number;
  readonly tokens: number;
  readonly bytesUp: number;
  readonly bytesDown: number;
  readonly trainers: number;
  readonly members: {
    readonly assigned: readonly string[];
    readonly delivered: readonly string[];
    readonly late?: readonly string[];
    readonly weights?: readonly number[];
  };
  readonly waitSeconds: number;
  readonly stateHash?: { readonly step: number; readonly weightsSha256: string; readonly trainers: number };
  readonly meanRank: number;
  readonly payloadNumbers: number;
  readonly coordinatorResidentBytes: number;
  readonly sizes: Readonly<Record<string, { residentBytes: number; tensorCount: number }>>;
}

/** What `galore inspect --json` prints, as far as tests look at it. */
export interface Inspection {
  readonly step: number;
  readonly weightsSha256: string;
  readonly trainers: number;
  readonly meanRank: number | null;
  readonly payloadNumbers: number | null;
  readonly journal: { readonly records: number };
  readonly checkpoints: readonly { readonly feedbackBytes: Readonly<Record<string, number>> }[];
  readonly lastLoss: number;
  readonly bytesUp: number;
  readonly bytesDown: number;
}

/** A temporary folder that goes with the test. */
export function temporaryFolder(t: ExecutionContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'galore-test-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** A running command. */
export class Galore {
  readonly child: ChildProcess;
  readonly exited: Promise<number | null>;
  #output = '';
  readonly #waiting: {
    pattern: RegExp;
    resolve: (match: RegExpExecArray) => void;
    reject: (error: Error) => void;
  }[] = [];

  /** @param program another one that takes the same arguments */
  constructor(
    t: ExecutionContext,
    args: readonly string[],
    {
      program = 'bin/galore.js',
      environment = {},
    }: { program?: string; environment?: NodeJS.ProcessEnv } = {},
  ) {
    this.child = spawn(process.execPath, [join(ROOT, program), ...args], {
      cwd: ROOT,
      // As for the trainers it starts (launch-process.ts): a coordinator cannot set it for itself.
      env: { MALLOC_ARENA_MAX: '2', ...process.env, ...environment },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    for (const stream of [this.child.stdout!, this.child.stderr!]) {
      stream.setEncoding('utf8').on('data', (text: string) => this.#take(text));
    }
    this.exited = once(this.child, 'close').then(([code]) => {
      const error = new Error(`galore ${args[0]} ended before that:\n${this.#output}`);
      for (const { reject } of this.#waiting.splice(0)) reject(error);
      return code as number | null;
    });
    t.teardown(async () => {
      if (this.child.exitCode === null && this.child.signalCode === null) this.child.kill('SIGKILL');
      await this.exited;
    });
  }

  /** Everything printed so far, on both streams. */
  get output(): string {
    return this.#output;
  }

  /** Resolves when what is printed matches. */
  printed(pattern: RegExp): Promise<RegExpExecArray> {
    const match = pattern.exec(this.#output);
    if (match !== null) return Promise.resolve(match);
    return new Promise((resolve, reject) => this.#waiting.push({ pattern, resolve, reject }));
  }

  #take(text: string): void {
    this.#output += text;
    for (const waiting of [...this.#waiting]) {
      const match = waiting.pattern.exec(this.#output);
      if (match === null) continue;
      this.#waiting.splice(this.#waiting.indexOf(waiting), 1);
      waiting.resolve(match);
    }
  }
}

/** Runs a command to its end. */
export async function galore(
  t: ExecutionContext,
  ...args: readonly string[]
): Promise<{ code: number | null; output: string }> {
  const command = new Galore(t, args);
  const code = await command.exited;
  return { code, output: command.output };
}

/** A run: its configuration written to a file of its own, and what it left on disk. */
export class TestRun {
  readonly folder: string;
  readonly configPath: string;
  readonly dir: string;
  readonly #t: ExecutionContext;

  constructor(t: ExecutionContext, config: Readonly<Record<string, unknown>>) {
    this.#t = t;
    this.folder = temporaryFolder(t);
    this.dir = join(this.folder, 'run');
    this.configPath = join(this.folder, 'run.yaml');
    writeFileSync(this.configPath, stringify(config));
  }

  /** Arguments of `galore train` for this run. */
  trainArgs(trainers: number, ...more: readonly string[]): readonly string[] {
    return ['train', this.configPath, '--dir', this.dir, '--trainers', String(trainers), ...more];
  }

  /** Trains to the end; fails the test if the command does. */
  async train(trainers: number, ...more: readonly string[]): Promise<this> {
    const { code, output } = await galore(this.#t, ...this.trainArgs(trainers, ...more));
    this.#t.is(code, 0, output);
    return this;
  }

  /** As `train`, with the coordinator and the first trainer in the process of the test (here.ts). */
  async trainHere(trainers: number, ...more: readonly string[]): Promise<this> {
    const { code, output } = await galoreHere(...this.trainArgs(trainers, ...more));
    this.#t.is(code, 0, output);
    return this;
  }

  /** `galore resume`, all of it as processes or as `trainHere` trains. Resolves to what was printed. */
  async resume(where: 'process' | 'here' = 'process'): Promise<string> {
    const args = ['resume', this.dir];
    const { code, output } = await (where === 'here' ? galoreHere(...args) : galore(this.#t, ...args));
    this.#t.is(code, 0, output);
    return output;
  }

  get metrics(): readonly Metric[] {
    return readLines(join(this.dir, 'metrics.jsonl')) as Metric[];
  }

  get evaluations(): readonly { step: number; loss: number; perplexity: number }[] {
    return readLines(join(this.dir, 'evaluations.jsonl')) as {
      step: number;
      loss: number;
      perplexity: number;
    }[];
  }

  /** What `galore inspect DIR --json` prints. */
  async inspect(): Promise<Inspection> {
    const inspection = await inspectRun(this.dir);
    const faults = [inspection.journal.fault, ...inspection.checkpoints.map(({ fault }) => fault)];
    this.#t.true(
      faults.every((fault) => fault === null),
      faults.join('\n'),
    );
    return JSON.parse(JSON.stringify(inspection)) as Inspection;
  }

  checkpoint(step: number): string {
    return join(this.dir, 'checkpoints', `step-${String(step).padStart(6, '0')}`);
  }

  weights(step: number): ReadonlyMap<string, Float32Array> {
    const tensors = readSafetensors(join(this.checkpoint(step), 'model.safetensors'));
    return new Map([...tensors].map(([name, { values }]) => [name, values]));
  }
}

/** |a - b|_F / |b|_F over all tensors together. */
export function relativeDifference(
  a: ReadonlyMap<string, Float32Array>,
  b: ReadonlyMap<string, Float32Array>,
): number {
  let difference = 0;
  let norm = 0;
  for (const [name, values] of b) {
    const others = a.get(name);
    if (others?.length !== values.length) throw new Error(`${name} differs in size`);
    values.forEach((value, i) => {
      difference += (value - others[i]!) ** 2;
      norm += value ** 2;
    });
  }
  return Math.sqrt(difference / norm);
}

/** A text that every test may train on: the corpus of the training-curve vectors. */
export const TEST_TEXT = join(ROOT, 'test', 'vectors', 'training-curve', 'tokens.bin');

/** A tiny byte-level Llama that trains in seconds. */
export function tinyConfig(
  folderText: string,
  more: Readonly<Record<string, unknown>> = {},
): Record<string, unknown> {
  return {
    name: 'tiny',
    model: { hidden_size: 32, intermediate_size: 88, num_hidden_layers: 2, num_attention_heads: 2 },
    data: { path: folderText, format: 'text' },
    tokenizer: { type: 'byte' },
    seq_len: 32,
    batch_size: 12,
    method: { name: 'galore', rank: 8, update_proj_gap: 1000 },
    optimizer: { lr: 0.005 },
    wire: { codec: 'f32' },
    coordinator: { port: 0 },
    trainer: { micro_batch: 4, threads: 1 },
    evaluation: { every: 0, sequences: 16 },
    checkpoint: { every: 0 },
    steps: 50,
    seed: 7,
    ...more,
  };
}

function readLines(path: string): unknown[] {
  if (!existsSync(path)) return [];
  return readFileSync(path, 'utf8')
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line) as unknown);
}
