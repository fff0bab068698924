import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import test, { type ExecutionContext } from 'ava';
import { Command } from 'commander';
import { registerBenchMemoryCommand } from '../../src/cli/bench-memory.ts';
import type { MemoryMeasurement } from '../../src/trainer/measure-memory.ts';
import type { MeasuredModel } from '../../src/trainer/measured-model.ts';
import { world } from './fakes.ts';

const MEASUREMENT: MemoryMeasurement = {
  device: {
    kind: 'cpu',
    name: 'Abacus',
    threads: 8,
    precision: 'f32',
    isPrecisionNative: true,
    description: 'CPU Abacus, 8 threads, f32',
  },
  parameters: 1_000_000,
  weightBytes: 4_000_000,
  stateBytes: 1_500_000,
  basisBytes: 500_000,
  linear: {
    parameters: 500_000,
    weightBytes: 2_000_000,
    stateBytes: 1_010_000,
    basisBytes: 500_000,
    formulaBytes: 1_500_000,
  },
  gradientBytes: 4_000_000,
  peak: {
    'per-layer': { tensorBytes: 7_000_000, rssBytes: 300_000_000 },
    'after-backward': { tensorBytes: 11_000_000, rssBytes: 304_000_000 },
  },
};

function bench(t: ExecutionContext) {
  const w = world(t);
  const asked: MeasuredModel[] = [];
  const program = new Command().exitOverride();
  registerBenchMemoryCommand(
    program,
    w.context,
    (code) => t.is(code, 0),
    (request) => {
      asked.push(request);
      return Promise.resolve(MEASUREMENT);
    },
  );
  for (const command of program.commands) command.exitOverride().configureOutput({ writeErr: () => {} });
  return {
    ...w,
    asked,
    bench: (...args: string[]) => program.parseAsync(['memory', ...args], { from: 'user' }),
  };
}

test('the rows asked for are measured one after the other and printed as a table', async (t) => {
  const { asked, out, ...b } = bench(t);
  await b.bench('--method', 'galore', '--method', 'galore-8bit-all', '--rank', '64', '--threads', '3');
  t.deepEqual(
    asked.map(({ slots }) => slots.filter((slot) => slot.rank === 64).map(({ rule }) => rule)),
    [Array.from({ length: 56 }, () => 'adamw'), Array.from({ length: 58 }, () => 'adamw-8bit')],
  );
  t.like(asked[0], { sequences: 1, length: 16, precision: 'f32', threads: 3 });
  const lines = out.text.split('\n');
  t.is(lines[0], 'device:  CPU Abacus, 8 threads, f32');
  t.is(
    lines[4],
    'method           rank  weights  state  bases  gradient  peak/layer  peak/held  resident   saves  linear saves  of formula',
  );
  t.is(
    lines[6],
    'galore-8bit-all    64      4.0    1.5    0.5       4.0         7.0       11.0     300.0  75.0 %        62.3 %     100.7 %',
  );
});

test('without --method every row is measured that differs from galore', async (t) => {
  const { asked, out, ...b } = bench(t);
  await b.bench('--json', '--model', '9m', '--rank', '8');
  const { methods } = JSON.parse(out.text) as { methods: { name: string; rank: number | null }[] };
  t.is(asked.length, methods.length);
  t.true(methods.length > 14);
  const ranks = new Map(methods.map(({ name, rank }) => [name, rank]));
  t.is(ranks.get('full'), null);
  t.is(ranks.get('galore'), 8);
  t.is(ranks.get('apollo-mini'), 1);
});

test('a row that does not exist is bad usage', async (t) => {
  const error = await t.throwsAsync(bench(t).bench('--method', 'galor'));
  t.regex(error.message, /Allowed choices are full, full-8bit, /);
});

interface Row {
  readonly name: string;
  readonly weightBytes: number;
  readonly stateBytes: number;
  readonly basisBytes: number;
  readonly gradientBytes: number;
  readonly saving: number;
  readonly linear: { readonly saving: number; readonly deviation: number | null };
  readonly peakPerLayer: { readonly tensorBytes: number; readonly rssBytes: number };
  readonly peakAfterBackward: { readonly tensorBytes: number; readonly rssBytes: number };
}

test('bench memory counts what real steps of a small model allocate', async (t) => {
  const program = new URL('../../../bin/galore.js', import.meta.url).pathname;
  const size = ['--model', '9m', '--vocab', '500', '--seq', '2', '--recompute', '--threads', '1', '--json'];
  const names = ['full', 'galore', 'galore-8bit-all', 'q-galore'];
  const { stdout } = await promisify(execFile)(process.execPath, [
    ...[program, 'bench', 'memory', ...size],
    ...names.flatMap((name) => ['--method', name]),
  ]);
  const { methods } = JSON.parse(stdout) as { methods: readonly Row[] };
  t.deepEqual(methods.map(({ name }) => name), names); // prettier-ignore
  const [full, galore, all, quantised] = methods as [Row, Row, Row, Row];
  // 4 layers of 4 matrices of 128 x 128 and 3 of 352 x 128; embedding and head of 500 x 128; 9 norms.
  const linear = 4 * (4 * 128 * 128 + 3 * 352 * 128);
  const rest = 2 * 500 * 128 + 9 * 128;
  t.is(full.weightBytes, 4 * (linear + rest));
  t.is(full.stateBytes, 2 * full.weightBytes);
  t.is(full.saving, 0);
  // R: 128 x 32 or 352 x 32; bases 128 x 32.
  const low = 4 * (4 * 128 * 32 + 3 * 352 * 32);
  t.is(galore.stateBytes, 4 * 2 * (low + rest));
  t.is(galore.basisBytes, 4 * 4 * 7 * 128 * 32);
  t.is(galore.linear.deviation, 0, 'mr + 2nr');
  t.true(all.saving >= 0.75, `8-bit moments with projected embeddings save ${all.saving}`);
  t.is(quantised.weightBytes, linear + 8 * (linear / 256) + 4 * rest, 'a byte a number, 8 for 256');
  t.true(quantised.peakPerLayer.tensorBytes < galore.peakPerLayer.tensorBytes - 2 * linear);
  for (const { name, peakPerLayer, peakAfterBackward, gradientBytes, ...kept } of methods) {
    const standing = kept.weightBytes + kept.stateBytes + kept.basisBytes;
    const [layer, held] = [peakPerLayer.tensorBytes - standing, peakAfterBackward.tensorBytes - standing];
    t.log(name, layer / gradientBytes, held / gradientBytes);
    t.true(layer > 0 && held >= gradientBytes, `${name}: ${layer}, ${held}`);
    // The int8 weights of a layer are f32 while its gradients are made.
    const layerBytes = name === 'q-galore' ? linear : 0;
    // One gradient is there in either case, at most that of embedding or head, and a little of the model's.
    t.true(held - layer >= gradientBytes - 4 * 500 * 128 - 200_000 - layerBytes, `${name}: ${held - layer}`);
    t.true(peakPerLayer.rssBytes > standing && peakAfterBackward.rssBytes >= peakPerLayer.rssBytes);
  }
});
