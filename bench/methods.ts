/**
 * Compares the methods on one small model: `node dist/bench/methods.js OUT [method…]`. Every run is a
 * real `galore train` of bench/methods.yaml. Each method is run at three learning rates with seed 0, and at
 * further ones, by factors of two, until its best lies between two others; then at its best with two more
 * seeds. Finished runs are kept in OUT/runs.jsonl and not repeated (those in
 * bench/results/methods are a beginning); the table goes to standard output.
 */
import { spawn } from 'node:child_process';
import { appendFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

interface Method {
  readonly name: string;
  readonly settings: readonly string[];
  /** The first learning rates to try, ascending. */
  readonly rates: readonly number[];
}

const METHODS: readonly Method[] = [
  { name: 'full AdamW', settings: ['method.name=full'], rates: [0.0005, 0.001, 0.002] },
  { name: 'galore, keep', settings: ['method.moments=keep'], rates: [0.005, 0.01, 0.02] },
  { name: 'galore, transport', settings: ['method.moments=transport'], rates: [0.005, 0.01, 0.02] },
  { name: 'adarankgrad', settings: ['method.name=adarankgrad'], rates: [0.005, 0.01, 0.02] },
  { name: 'galore, 8-bit', settings: ['optimizer.name=adamw-8bit'], rates: [0.005, 0.01, 0.02] },
  { name: 'fira', settings: ['method.name=fira'], rates: [0.005, 0.01, 0.02] },
  {
    name: 'apollo-mini',
    settings: ['method.name=apollo-mini', 'method.rank=1'],
    rates: [0.0025, 0.005, 0.01],
  },
  { name: 'sumo', settings: ['method.name=sumo'], rates: [0.0025, 0.005, 0.01] },
  {
    name: 'two-sided',
    settings: ['method.name=two-sided', 'method.rank=112'],
    rates: [0.005, 0.01, 0.02],
  },
];
const SEEDS = [0, 1, 2];
/** A method whose best rate is still the lowest or the highest of so many is reported as it is. */
const MAX_RATES = 7;
/** Runs at once, each on one thread. */
const PARALLEL = 2;

interface Run {
  readonly method: string;
  readonly rate: number;
  readonly seed: number;
  /** Mean over all held-out sequences, nats per token; null: the run diverged or failed. */
  readonly loss: number | null;
  readonly seconds: number;
  /** Numbers in a trainer's contribution, mean over the steps. */
  readonly numbers: number;
  /** Bytes a trainer sent in a step, messages of the refreshes included, mean over the steps. */
  readonly bytesUp: number;
}

const [out, ...only] = process.argv.slice(2);
if (out === undefined) throw new Error('usage: node dist/bench/methods.js OUT [method…]');
mkdirSync(out, { recursive: true });
const journal = join(out, 'runs.jsonl');
const done: Run[] = existsSync(journal)
  ? readFileSync(journal, 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as Run)
  : [];
const methods = METHODS.filter(({ name }) => only.length === 0 || only.includes(name));

for (let tasks = methods.flatMap(ratesToTry); tasks.length > 0; tasks = methods.flatMap(ratesToTry)) {
  await runAll(tasks);
}
await runAll(
  methods.flatMap((method) => {
    const rate = bestRate(method);
    return rate === null ? [] : SEEDS.slice(1).map((seed) => ({ method, rate, seed }));
  }),
);
process.stdout.write(table());

interface Task {
  readonly method: Method;
  readonly rate: number;
  readonly seed: number;
}

/** The first rates; then, as long as the best one tried is the lowest or the highest, the next one beyond. */
function ratesToTry(method: Method): Task[] {
  const tried = triedRates(method);
  const missing = method.rates.filter((rate) => !tried.includes(rate));
  const best = bestRate(method);
  if (missing.length === 0 && best !== null && tried.length < MAX_RATES) {
    if (best === tried[0]) missing.push(best / 2);
    if (best === tried.at(-1)) missing.push(best * 2);
  }
  return missing.map((rate) => ({ method, rate, seed: SEEDS[0]! }));
}

/** The learning rates that `method` was run at with the first seed, ascending. */
function triedRates(method: Method): number[] {
  const runs = done.filter(({ method: name, seed }) => name === method.name && seed === SEEDS[0]);
  return runs.map(({ rate }) => rate).sort((a, b) => a - b);
}

async function runAll(tasks: readonly Task[]): Promise<void> {
  const waiting = tasks.filter(({ method, rate, seed }) => find(method, rate, seed) === undefined);
  const worker = async (): Promise<void> => {
    for (let task = waiting.shift(); task !== undefined; task = waiting.shift()) {
      const run = await train(task);
      done.push(run);
      appendFileSync(journal, `${JSON.stringify(run)}\n`);
      process.stderr.write(
        `${run.method} lr ${run.rate} seed ${run.seed}: loss ${run.loss?.toFixed(4) ?? 'failed'} in ${run.seconds.toFixed(0)} s\n`,
      );
    }
  };
  await Promise.all(Array.from({ length: PARALLEL }, worker));
}

async function train({ method, rate, seed }: Task): Promise<Run> {
  const dir = join(out!, `${method.name.replaceAll(/[^a-z0-9]+/gi, '-')}-${rate}-${seed}`);
  rmSync(dir, { recursive: true, force: true });
  const settings = [...method.settings, `optimizer.lr=${rate}`].flatMap((setting) => ['--set', setting]);
  const root = fileURLToPath(new URL('../../', import.meta.url));
  const args = [join(root, 'bin/galore.js'), 'train', join(root, 'bench/methods.yaml')];
  const startedMs = performance.now();
  const child = spawn(process.execPath, [...args, '--dir', dir, '--seed', String(seed), ...settings], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let text = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => (text += chunk));
  const code = await new Promise<number | null>((resolve) => child.on('close', resolve));
  const seconds = (performance.now() - startedMs) / 1000;
  writeFileSync(`${dir}.log`, text);
  const loss = /evaluation at step \d+: loss ([\d.]+)/.exec(text)?.[1];
  const metrics = existsSync(join(dir, 'metrics.jsonl'))
    ? readFileSync(join(dir, 'metrics.jsonl'), 'utf8').trim().split('\n')
    : [];
  const steps = metrics.map((line) => JSON.parse(line) as { payloadNumbers?: number; bytesUp?: number });
  rmSync(dir, { recursive: true, force: true });
  return {
    method: method.name,
    rate,
    seed,
    loss: code === 0 && loss !== undefined ? Number(loss) : null,
    seconds,
    numbers: mean(steps.flatMap(({ payloadNumbers }) => payloadNumbers ?? [])),
    bytesUp: mean(steps.flatMap(({ bytesUp }) => bytesUp ?? [])),
  };
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length);
}

function find(method: Method, rate: number, seed: number): Run | undefined {
  return done.find((run) => run.method === method.name && run.rate === rate && run.seed === seed);
}

function bestRate(method: Method): number | null {
  const runs = triedRates(method).flatMap((rate) => find(method, rate, SEEDS[0]!) ?? []);
  const best = runs.filter(({ loss }) => loss !== null).sort((a, b) => a.loss! - b.loss!)[0];
  return best?.rate ?? null;
}

function table(): string {
  const rows = methods.map((method) => {
    const rate = bestRate(method);
    if (rate === null) return `| ${method.name} | - | - | - | - | - | - |\n`;
    const losses = SEEDS.flatMap((seed) => find(method, rate, seed)?.loss ?? []);
    const spread = `${Math.min(...losses).toFixed(4)} to ${Math.max(...losses).toFixed(4)}`;
    const others = triedRates(method)
      .map((other) => `${other}: ${find(method, other, SEEDS[0]!)?.loss?.toFixed(4) ?? 'failed'}`)
      .join(', ');
    const { numbers, bytesUp } = find(method, rate, SEEDS[0]!)!;
    const sent = `${(numbers / 1e6).toFixed(2)} | ${(bytesUp / 1e6).toFixed(2)}`;
    return `| ${method.name} | ${rate} | ${mean(losses).toFixed(4)} | ${spread} | ${sent} | ${others} |\n`;
  });
  return (
    '| method | lr | loss, mean of 3 seeds | spread | numbers a step, millions | MB up a step | all rates, seed 0 |\n' +
    '|---|---|---|---|---|---|---|\n' +
    rows.join('')
  );
}
