/**
 * A refresh against the full decomposition by PyTorch (GaLore's own refresh) and by TensorFlow, in turns in the same
 * minute:
 *
 *     PYTHON=path/to/python node dist/bench/peers/compare-refresh.js [--threads 1] [--rounds 7] [--rank 256]
 *         [--oversample 8] [--power-iterations 1] [--rows 1024] [--cols 2736] [--gradient FILE --earlier FILE]
 *
 * The environment of PYTHON must have torch. The files hold rows x cols little-endian f32 numbers; without them the
 * gradients are those of `galore bench refresh`. Prints the median and the fastest of the rounds, by processor time
 * (all threads together) and by the clock, both ratios, and the captured energy. The engine must have been installed.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { loadEngine } from '../../src/trainer/engine/load.ts';
import type { GradientPair } from '../../src/trainer/measure-refresh.ts';

const PEER = fileURLToPath(new URL('../../../bench/peers/torch_svd.py', import.meta.url));

const { values: flags } = parseArgs({
  options: {
    threads: { type: 'string', default: '1' },
    rounds: { type: 'string', default: '7' },
    rank: { type: 'string', default: '256' },
    oversample: { type: 'string', default: '8' },
    'power-iterations': { type: 'string', default: '1' },
    rows: { type: 'string', default: '1024' },
    cols: { type: 'string', default: '2736' },
    gradient: { type: 'string' },
    earlier: { type: 'string' },
  },
});
const [threads, rounds, rows, cols] = [flags.threads, flags.rounds, flags.rows, flags.cols].map(Number) as [
  number,
  number,
  number,
  number,
];
const python = process.env['PYTHON'];
if (python === undefined) throw new Error('PYTHON is not set: give the path of a Python that has torch');

/** Milliseconds of one run. */
interface Time {
  readonly ms: number;
  readonly cpuMs: number;
}

const { tf } = await loadEngine({ precision: 'f32', threads });
const { capturedEnergy, refreshWays, syntheticGradients } =
  await import('../../src/trainer/measure-refresh.ts');
const pair = await gradients();
const { slot, svd, cold, warm, exact } = refreshWays(pair, {
  rank: Number(flags.rank),
  oversample: Number(flags.oversample),
  powerIterations: Number(flags['power-iterations']),
});
const ways = { "TensorFlow's Svd": svd, exact, cold, warm };

const scratch = await mkdtemp(join(tmpdir(), 'galore-peers-'));
try {
  const file = join(scratch, 'gradient.f32');
  await writeFile(file, new Uint8Array(pair.gradient.dataSync().slice().buffer));
  report(await timesInTurn(file));
} finally {
  await rm(scratch, { recursive: true, force: true });
}

async function gradients(): Promise<GradientPair> {
  const { gradient, earlier } = flags;
  if (gradient === undefined || earlier === undefined) return syntheticGradients(rows, cols);
  return { name: gradient, gradient: await matrixOf(gradient), earlier: await matrixOf(earlier) };
}

async function matrixOf(path: string): Promise<GradientPair['gradient']> {
  const bytes = await readFile(path);
  return tf.tensor2d(new Float32Array(Uint8Array.from(bytes).buffer), [rows, cols]);
}

async function timesInTurn(file: string): Promise<ReadonlyMap<string, readonly Time[]>> {
  const peer = spawn(python!, [PEER, file, ...[rows, cols, threads].map(String)], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  try {
    const lines = createInterface({ input: peer.stdout })[Symbol.asyncIterator]();
    const version = String(JSON.parse(String((await lines.next()).value)));
    const times = new Map<string, Time[]>([
      [`PyTorch ${version}'s linalg.svd`, []],
      ...Object.keys(ways).map((name): [string, Time[]] => [name, []]),
    ]);
    const [theirs] = times.values() as Iterator<Time[]> & Iterable<Time[]>;
    for (const way of Object.values(ways)) way();
    for (let round = 0; round < rounds; round++) {
      peer.stdin.write('one\n');
      theirs!.push(JSON.parse(String((await lines.next()).value)) as Time);
      for (const [name, way] of Object.entries(ways)) times.get(name)!.push(timeOf(way));
    }
    return times;
  } finally {
    peer.stdin.end();
    if (peer.exitCode === null) await once(peer, 'exit');
  }
}

function timeOf(way: () => Float32Array): Time {
  const [start, cpuStart] = [performance.now(), process.cpuUsage()];
  way();
  const { user, system } = process.cpuUsage(cpuStart);
  return { ms: performance.now() - start, cpuMs: (user + system) / 1e3 };
}

function report(times: ReadonlyMap<string, readonly Time[]>): void {
  console.log(`${pair.name}, ${rows} x ${cols}, rank ${slot.rank}, threads ${threads}, rounds ${rounds}`);
  const [torch, tensorflow] = [...times.values()] as [readonly Time[], readonly Time[]];
  const best = svd()
    .slice(0, slot.rank)
    .reduce((sum, value) => sum + value * value, 0);
  for (const [name, list] of times) {
    const way = { exact, cold, warm }[name];
    const share =
      way === undefined ? '' : `, captured ${(capturedEnergy(pair.gradient, slot, way()) / best).toFixed(4)}`;
    console.log(`${name}${share}`);
    for (const kind of ['cpuMs', 'ms'] as const) {
      const of = (all: readonly Time[]): readonly [number, number] => {
        const sorted = all.map((time) => time[kind]).toSorted((a, b) => a - b);
        return [sorted[sorted.length >> 1]!, sorted[0]!];
      };
      const [median, fastest] = of(list);
      const ratios = [torch, tensorflow].map((all) => of(all).map((value, i) => value / of(list)[i]!));
      const [byTorch, byTensorflow] = ratios.map((pairOf) =>
        pairOf.map((ratio) => ratio.toFixed(1)).join(', '),
      );
      console.log(
        `  ${kind === 'ms' ? 'clock    ' : 'processor'} median ${median.toFixed(1)} ms, fastest ${fastest.toFixed(1)} ms; ` +
          `PyTorch over it ${byTorch}, TensorFlow over it ${byTensorflow}`,
      );
    }
  }
}
