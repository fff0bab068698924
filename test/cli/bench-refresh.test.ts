import test, { type ExecutionContext } from 'ava';
import { Command } from 'commander';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { registerBenchRefreshCommand } from '../../src/cli/bench-refresh.ts';
import { ConfigError } from '../../src/errors.ts';
import type { RefreshBench } from '../../src/trainer/bench-refresh.ts';
import type { RefreshMeasurement } from '../../src/trainer/measure-refresh.ts';
import { world, type World } from './fakes.ts';

const MEASUREMENT: RefreshMeasurement = {
  name: 'synthetic',
  rows: 6,
  cols: 8,
  rank: 2,
  svdMs: 580.25,
  bestShare: 0.9,
  cold: { ms: 40, ratio: 14.506, capturedShare: 0.9967 },
  warm: { ms: 29, ratio: 20.009, capturedShare: 0.9924 },
  exact: { ms: 290, ratio: 2.0009, capturedShare: 1 },
  earlierCapturedShare: 0.5127,
};

interface Bench extends World {
  readonly asked: RefreshBench[];
  readonly codes: number[];
  bench(...args: string[]): Promise<unknown>;
}

function bench(t: ExecutionContext, measurement = MEASUREMENT): Bench {
  const w = world(t);
  const asked: RefreshBench[] = [];
  const codes: number[] = [];
  const program = new Command().exitOverride().configureOutput({ writeErr: () => {} });
  const run = async (question: RefreshBench): Promise<readonly RefreshMeasurement[]> => {
    asked.push(question);
    return [measurement];
  };
  registerBenchRefreshCommand(program, w.context, (code) => void codes.push(code), run);
  for (const command of program.commands) command.exitOverride().configureOutput({ writeErr: () => {} });
  return {
    ...w,
    asked,
    codes,
    bench: (...args) => program.parseAsync(['refresh', ...args], { from: 'user' }),
  };
}

test('without arguments a matrix of the 350m model is measured with the defaults of a run', async (t) => {
  const { asked, codes, out, ...b } = bench(t);
  await b.bench();
  t.deepEqual(asked, [
    {
      kind: 'synthetic',
      threads: 8,
      question: { rank: 256, oversample: 8, powerIterations: 1, repeats: 5 },
      rows: 1024,
      cols: 2736,
      device: { name: 'cpu', folder: '/engine', gpu: null },
    },
  ]);
  t.deepEqual(codes, [0]);
  t.regex(
    out.text,
    /6 x 8, rank 2: the best basis has 90\.00 % of the energy, the one before 51\.27 % of that/,
  );
  t.regex(out.text, /full SVD +580\.3 ms +\(TensorFlow's Svd/);
  t.regex(out.text, /warm +29\.0 ms +20\.0 times as fast +captured 99\.24 %/);
});

test('--json prints what was asked and measured as one object', async (t) => {
  const { out, ...b } = bench(t);
  await b.bench('--rows', '6', '--cols', '8', '--rank', '2', '--threads', '2', '--repeats', '3', '--json');
  t.deepEqual(JSON.parse(out.text), {
    threads: 2,
    oversample: 8,
    powerIterations: 1,
    repeats: 3,
    measurements: [MEASUREMENT],
  });
});

test('without power iterations there is no warm start to tell of', async (t) => {
  const { out, asked, ...b } = bench(t, { ...MEASUREMENT, warm: null });
  await b.bench('--power-iterations', '0', '--oversample', '32');
  t.like(asked[0]?.question, { powerIterations: 0, oversample: 32 });
  t.notRegex(out.text, /warm/);
});

test('--checkpoint takes gradients of a model, with text that belongs to it or is given', async (t) => {
  const { asked, dir, ...b } = bench(t);
  mkdirSync(join(dir, 'model'));
  writeFileSync(join(dir, 'model/config.json'), '{}');
  await b.bench('--checkpoint', 'model', '--data', 'speeches', '--layer', '3');
  t.like(asked[0], { kind: 'checkpoint' });
  t.like((asked[0] as { request: object }).request, {
    folder: { path: join(dir, 'model'), step: null, config: null },
    dataPath: join(dir, 'speeches'),
    layer: 3,
    cacheDir: '/cache',
  });
  await t.throwsAsync(b.bench('--checkpoint', 'model'), {
    instanceOf: ConfigError,
    message: /give --data PATH/,
  });
});

test('options that do not go together or are no numbers are refused before anything is loaded', async (t) => {
  const { asked, ...b } = bench(t);
  await t.throwsAsync(b.bench('--data', 'speeches'), { message: /--checkpoint DIR, which was not given/ });
  await t.throwsAsync(b.bench('--checkpoint', 'model', '--rows', '5'), { message: /cannot be used with/ });
  await t.throwsAsync(b.bench('--rank', '0'), { message: /whole number from 1/ });
  await t.throwsAsync(b.bench('--power-iterations', '4'), { message: /whole number from 0 to 3/ });
  t.deepEqual(asked, []);
});
