/**
 * `npm run fuzz`: fuzzes for a time, or gives one input again.
 *
 *   npm run fuzz -- --seconds 60 --seed 1          every target, so long in all
 *   npm run fuzz -- --only journal --seconds 600   one of them
 *   npm run fuzz -- --only journal --input FILE    an input that was found
 *
 * Each target runs in a worker thread that is watched: what hangs is found, too.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { fuzz, tryInput, type FuzzResult } from './fuzz.ts';
import { TARGETS } from './targets.ts';

/** An input on which nothing happens for so long hangs. */
const HANG_MS = 20_000;
const MAX_SHARED_BYTES = 1 << 20;

interface Job {
  readonly name: string;
  readonly seed: number;
  readonly untilMs: number;
  /** The input under way: its number, its length, and its bytes. */
  readonly shared: SharedArrayBuffer;
}

async function work({ name, seed, untilMs, shared }: Job): Promise<void> {
  const target = TARGETS[name]!();
  const numbers = new Int32Array(shared, 0, 2);
  const bytes = new Uint8Array(shared, 8);
  const result = await fuzz(target, {
    seed,
    goesOn: () => Date.now() < untilMs,
    onInput(input) {
      bytes.set(input.subarray(0, bytes.length));
      numbers[1] = Math.min(input.length, bytes.length);
      Atomics.add(numbers, 0, 1);
    },
  });
  await target.close?.();
  parentPort!.postMessage(result);
}

/** Runs one target in a thread; one that hangs is a failure, too. */
async function runTarget(name: string, seed: number, seconds: number): Promise<FuzzResult> {
  const shared = new SharedArrayBuffer(8 + MAX_SHARED_BYTES);
  const numbers = new Int32Array(shared, 0, 2);
  const job: Job = { name, seed, untilMs: Date.now() + 1000 * seconds, shared };
  const worker = new Worker(new URL(import.meta.url), { workerData: job, argv: process.argv.slice(2) });
  return await new Promise((resolve, reject) => {
    let seen = -1;
    // oxlint-disable-next-line no-restricted-globals -- a program, not a test: what hangs tells nobody
    const watch = setInterval(() => {
      const count = Atomics.load(numbers, 0);
      if (count !== seen) return void (seen = count);
      const input = Uint8Array.from(new Uint8Array(shared, 8, numbers[1]));
      finish({
        inputs: count,
        outcomes: new Map(),
        failure: { input, index: count - 1, reason: 'it hangs' },
      });
    }, HANG_MS);
    const finish = (result: FuzzResult): void => {
      clearInterval(watch);
      void worker.terminate().then(() => resolve(result));
    };
    worker.once('message', finish);
    worker.once('error', (error) => {
      clearInterval(watch);
      reject(error);
    });
  });
}

function report(name: string, { inputs, outcomes }: FuzzResult): void {
  const parts = [...outcomes].sort(([, a], [, b]) => b - a).map(([outcome, count]) => `${outcome} ${count}`);
  console.log(`${name.padEnd(12)} ${String(inputs).padStart(8)} inputs: ${parts.join(', ')}`);
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      seconds: { type: 'string', default: '60' },
      seed: { type: 'string', default: '1' },
      only: { type: 'string' },
      input: { type: 'string' },
    },
  });
  const names = values.only === undefined ? Object.keys(TARGETS) : [values.only];
  const [seconds, seed] = [Number(values.seconds), Number(values.seed)];
  const unknown = names.find((name) => !(name in TARGETS));
  if (unknown !== undefined || !(seconds > 0) || !Number.isInteger(seed)) {
    console.log(`fuzz: --only ${Object.keys(TARGETS).join(' | ')}; --seconds above 0; --seed a whole number`);
    return 2;
  }
  if (values.input !== undefined) {
    const { outcome, fault } = await tryInput(TARGETS[names[0]!]!(), readFileSync(values.input));
    console.log(fault ?? outcome);
    return fault === null ? 0 : 1;
  }
  let failures = 0;
  for (const name of names) {
    const result = await runTarget(name, seed, seconds / names.length);
    report(name, result);
    const { failure } = result;
    if (failure === null) continue;
    failures++;
    const path = join(tmpdir(), `galore-fuzz-${name}-${seed}-${failure.index}.bin`);
    writeFileSync(path, failure.input);
    console.log(`${name}: input ${failure.index}: ${failure.reason}`);
    console.log(`again with: npm run fuzz -- --only ${name} --input ${path}`);
  }
  return failures === 0 ? 0 : 1;
}

if (isMainThread) process.exitCode = await main();
else await work(workerData as Job);
