/**
 * Series of real runs (`galore train`) of one small model, for comparing ways to train it. Each way is run
 * at its first learning rates with seed 0, and at further ones, by factors of two, until its best lies
 * between two others; then at its best with the other seeds. Finished runs are kept in OUT/runs.jsonl and not
 * repeated, so that a series can be stopped and gone on with.
 */
import { spawn } from 'node:child_process';
import { appendFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** A way to train. */
export interface Entry {
  readonly name: string;
  /** `field=value`, laid over the run file. */
  readonly settings: readonly string[];
  /** The first learning rates to try, ascending. */
  readonly rates: readonly number[];
}

export interface SeriesOptions {
  /** The run file, in bench/. */
  readonly file: string;
  readonly out: string;
  /** In `out`, a line a run; default: runs.jsonl. */
  readonly journal?: string;
  readonly seeds: readonly number[];
  /** Runs at once. */
  readonly parallel: number;
}

/** A point of a run's curve. */
export interface CurvePoint {
  readonly step: number;
  /** Of held-out text, nats per token. */
  readonly loss: number;
  /** What one trainer had sent and received by then. */
  readonly bytesUp: number;
  readonly bytesDown: number;
}

export interface Run {
  /** Name of the entry. */
  readonly method: string;
  readonly rate: number;
  readonly seed: number;
  /** Mean over all held-out sequences, nats per token; null: the run diverged or failed. */
  readonly loss: number | null;
  readonly seconds: number;
  /** Numbers in a trainer's contribution, mean over the steps. */
  readonly numbers: number;
  /** Bytes a trainer sent in a step, messages of the refreshes included, mean over the steps and trainers. */
  readonly bytesUp: number;
  /** As bytesUp, received; not in older lines. */
  readonly bytesDown?: number;
  readonly curve?: readonly CurvePoint[];
}

/** A way beyond this many rates is reported at the best of them though that is the lowest or highest. */
const MAX_RATES = 7;
const ROOT = fileURLToPath(new URL('../../', import.meta.url));

/** The runs of a series, kept in a folder. */
export class Series {
  readonly #options: SeriesOptions;
  readonly #journal: string;
  readonly #done: Run[];

  constructor(options: SeriesOptions) {
    this.#options = options;
    mkdirSync(options.out, { recursive: true });
    this.#journal = join(options.out, options.journal ?? 'runs.jsonl');
    this.#done = existsSync(this.#journal) ? readLines<Run>(this.#journal) : [];
  }

  /** Makes the runs that are missing; progress goes to standard error. */
  async complete(entries: readonly Entry[]): Promise<void> {
    for (let tasks = this.#ratesToTry(entries); tasks.length > 0; tasks = this.#ratesToTry(entries)) {
      await this.#runAll(tasks);
    }
    const [, ...others] = this.#options.seeds;
    const last = entries.flatMap((entry) => {
      const rate = this.bestRate(entry);
      return rate === null ? [] : others.map((seed) => ({ entry, rate, seed }));
    });
    await this.#runAll(last);
  }

  /** Of the ways that were run, in the order of their first runs. */
  names(): readonly string[] {
    return [...new Set(this.#done.map(({ method }) => method))];
  }

  /** The learning rates that an entry was run at with the first seed, ascending. */
  triedRates({ name }: Entry): readonly number[] {
    const runs = this.#done.filter(({ method, seed }) => method === name && seed === this.#options.seeds[0]);
    return runs.map(({ rate }) => rate).sort((a, b) => a - b);
  }

  /** That with the lowest loss; null: no run of the entry came to its end. */
  bestRate(entry: Entry): number | null {
    const [firstSeed = 0] = this.#options.seeds;
    const runs = this.triedRates(entry).flatMap((rate) => this.find(entry, rate, firstSeed) ?? []);
    const best = runs.filter(({ loss }) => loss !== null).sort((a, b) => a.loss! - b.loss!)[0];
    return best?.rate ?? null;
  }

  find({ name }: Entry, rate: number, seed: number): Run | undefined {
    return this.#done.find((run) => run.method === name && run.rate === rate && run.seed === seed);
  }

  /** The runs of an entry at its best rate, by seed. */
  best(entry: Entry): readonly Run[] {
    const rate = this.bestRate(entry);
    if (rate === null) return [];
    return this.#options.seeds.flatMap((seed) => this.find(entry, rate, seed) ?? []);
  }

  /** "0.001: 4.31, 0.002: failed": the losses at all rates with the first seed. */
  allRates(entry: Entry): string {
    const [firstSeed = 0] = this.#options.seeds;
    return this.triedRates(entry)
      .map((rate) => `${rate}: ${this.find(entry, rate, firstSeed)?.loss?.toFixed(4) ?? 'failed'}`)
      .join(', ');
  }

  /** The first rates; then, as long as the best one tried is the lowest or the highest, the next one beyond. */
  #ratesToTry(entries: readonly Entry[]): Task[] {
    return entries.flatMap((entry) => {
      const tried = this.triedRates(entry);
      const missing = entry.rates.filter((rate) => !tried.includes(rate));
      const best = this.bestRate(entry);
      if (missing.length === 0 && best !== null && tried.length < MAX_RATES) {
        if (best === tried[0]) missing.push(best / 2);
        if (best === tried.at(-1)) missing.push(best * 2);
      }
      return missing.map((rate) => ({ entry, rate, seed: this.#options.seeds[0]! }));
    });
  }

  async #runAll(tasks: readonly Task[]): Promise<void> {
    const waiting = tasks.filter(({ entry, rate, seed }) => this.find(entry, rate, seed) === undefined);
    const worker = async (): Promise<void> => {
      for (let task = waiting.shift(); task !== undefined; task = waiting.shift()) {
        const run = await train(this.#options, task);
        this.#done.push(run);
        appendFileSync(this.#journal, `${JSON.stringify(run)}\n`);
        process.stderr.write(
          `${run.method} lr ${run.rate} seed ${run.seed}: loss ${run.loss?.toFixed(4) ?? 'failed'} in ${run.seconds.toFixed(0)} s\n`,
        );
      }
    };
    await Promise.all(Array.from({ length: this.#options.parallel }, worker));
  }
}

interface Task {
  readonly entry: Entry;
  readonly rate: number;
  readonly seed: number;
}

/** A line of metrics.jsonl, as far as it is used. */
interface Metrics {
  readonly step: number;
  readonly payloadNumbers?: number;
  readonly bytesUp?: number;
  readonly bytesDown?: number;
  readonly trainers?: number;
}

async function train({ file, out }: SeriesOptions, { entry, rate, seed }: Task): Promise<Run> {
  const dir = join(out, `${entry.name.replaceAll(/[^a-z0-9]+/gi, '-')}-${rate}-${seed}`);
  rmSync(dir, { recursive: true, force: true });
  const settings = [...entry.settings, `optimizer.lr=${rate}`].flatMap((setting) => ['--set', setting]);
  const args = [join(ROOT, 'bin/galore.js'), 'train', join(ROOT, 'bench', file)];
  const startedMs = performance.now();
  const child = spawn(process.execPath, [...args, '--dir', dir, '--seed', String(seed), ...settings], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let text = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => (text += chunk));
  const code = await new Promise<number | null>((resolve) => child.on('close', resolve));
  const seconds = (performance.now() - startedMs) / 1000;
  writeFileSync(`${dir}.log`, text);
  const losses = [...text.matchAll(/evaluation at step \d+: loss ([\d.]+)/g)].map(([, loss]) => Number(loss));
  const steps = readLines<Metrics>(join(dir, 'metrics.jsonl'));
  const evaluations = readLines<{ step: number; loss: number }>(join(dir, 'evaluations.jsonl'));
  rmSync(dir, { recursive: true, force: true });
  return {
    method: entry.name,
    rate,
    seed,
    loss: code === 0 ? (losses.at(-1) ?? null) : null,
    seconds,
    numbers: mean(steps.flatMap(({ payloadNumbers }) => payloadNumbers ?? [])),
    bytesUp: mean(steps.map(({ bytesUp = 0, trainers = 1 }) => bytesUp / trainers)),
    bytesDown: mean(steps.map(({ bytesDown = 0, trainers = 1 }) => bytesDown / trainers)),
    curve: curveOf(steps, evaluations),
  };
}

function curveOf(
  steps: readonly Metrics[],
  evaluations: readonly { readonly step: number; readonly loss: number }[],
): CurvePoint[] {
  return evaluations.map(({ step, loss }) => {
    const before = steps.filter((line) => line.step <= step);
    const total = (bytes: (line: Metrics) => number | undefined): number =>
      before.reduce((sum, line) => sum + (bytes(line) ?? 0) / (line.trainers ?? 1), 0);
    return {
      step,
      loss,
      bytesUp: total(({ bytesUp }) => bytesUp),
      bytesDown: total(({ bytesDown }) => bytesDown),
    };
  });
}

function readLines<T>(path: string): T[] {
  if (!existsSync(path)) return [];
  const lines = readFileSync(path, 'utf8').split('\n');
  return lines.filter((line) => line !== '').map((line) => JSON.parse(line) as T);
}

export function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length);
}
