import test from 'ava';
import type { StepMeasurement, StepMeasurementRequest } from '../../src/trainer/measure-step.ts';
import { world } from './fakes.ts';

const MEASUREMENT: StepMeasurement = {
  device: {
    kind: 'cpu',
    name: 'Abacus',
    threads: 8,
    precision: 'bf16',
    isPrecisionNative: true,
    description: 'CPU Abacus, 8 threads, bf16 (AMX)',
  },
  parameters: 58_073_600,
  tokensPerStep: 512,
  tokensPerSecond: 1024,
  secondsPerStep: 0.5,
  shortestSeconds: 0.4,
  longestSeconds: 0.75,
  cpuSecondsPerStep: 0.9,
  loss: 10.4,
  matmulGflops: 300,
  peakGflops: 500,
  fractionOfPeak: 0.6,
  rssBytes: 1.7e9,
  weightBytes: 232e6,
  optimizerBytes: 327e6,
};

function measuring(t: Parameters<typeof world>[0]) {
  const requests: StepMeasurementRequest[] = [];
  const measureStep = (request: StepMeasurementRequest): Promise<StepMeasurement> => {
    requests.push(request);
    return Promise.resolve(MEASUREMENT);
  };
  return { ...world(t, { services: { measureStep } }), requests };
}

test('bench step measures the 60m model unless told otherwise, and prints what a person reads', async (t) => {
  const { run, out, requests } = measuring(t);
  t.is(await run('bench', 'step'), 0);
  const { onProgress: _, model, slots, hyper, ...request } = requests[0]!;
  t.like(model, { hiddenSize: 512, intermediateSize: 1376, numHiddenLayers: 8, vocabSize: 32_000 });
  t.deepEqual(request, {
    options: { recompute: false, lossChunk: 0 },
    sequences: 2,
    length: 256,
    device: { name: 'cpu', folder: '/engine', gpu: null },
    precision: 'f32',
    threads: 8,
    steps: 7,
    seed: 0,
  });
  t.like(hyper, { semantics: 'torch', scale: 0.25 });
  t.is(slots.filter((slot) => slot.rank === 128).length, 56);
  t.is(
    out.text,
    [
      'device:    CPU Abacus, 8 threads, bf16 (AMX)',
      'model:     60m, 58.1M parameters, galore of rank 128',
      'batch:     2 sequences of 256 tokens',
      'speed:     1024 tokens/s, 0.500 s a step (0.400 to 0.750 in 7 steps)',
      'products:  300 GFLOP/s, 60 % of the 500 GFLOP/s measured at best',
      'memory:    1.7 GB at most; weights 232 MB, optimizer state and bases 327 MB',
      '',
    ].join('\n'),
  );
});

test('bench step --json prints one object with the settings and the numbers', async (t) => {
  const { run, out, requests } = measuring(t);
  const flags = ['--model', '9m', '--vocab', '100', '--batch', '16', '--seq', '128', '--method', 'full'];
  const more = ['--precision', 'bf16', '--recompute', '--loss-chunk', '64', '--threads', '3', '--steps', '2'];
  t.is(await run('bench', 'step', ...flags, ...more, '--json'), 0);
  t.like(requests[0], {
    options: { recompute: true, lossChunk: 64 },
    sequences: 16,
    length: 128,
    precision: 'bf16',
    threads: 3,
    steps: 2,
  });
  t.true(requests[0]!.slots.every(({ policy, rank }) => policy === 'dense' && rank === undefined));
  const { device, ...numbers } = MEASUREMENT;
  t.deepEqual(JSON.parse(out.text), {
    model: '9m',
    vocab: 100,
    batch: 16,
    seq: 128,
    method: 'full',
    rank: null,
    precision: 'bf16',
    recompute: true,
    lossChunk: 64,
    threads: 8,
    steps: 2,
    device: device.description,
    isPrecisionNative: true,
    ...numbers,
  });
});

test('a size or a precision that does not exist is bad usage', async (t) => {
  const { run, err } = measuring(t);
  t.is(await run('bench', 'step', '--model', '61m'), 2);
  t.regex(err.text, /Allowed choices are 9m, 20m, /);
  t.is(await run('bench', 'step', '--precision', 'f16'), 2);
  t.is(await run('bench', 'step', '--steps', '0'), 2);
  t.is(await run('bench', 'step', '--set', 'local_steps.count=4'), 2);
  t.regex(err.text, /local_steps\.count is 4; a benchmark measures one synchronous step: leave it out/);
});

for (const precision of ['f32', 'bf16'] as const) {
  test.serial(`bench step times real steps of a small model in ${precision}`, async (t) => {
    const { promisify } = await import('node:util');
    const { execFile } = await import('node:child_process');
    const program = new URL('../../../bin/galore.js', import.meta.url);
    const size = ['--model', '9m', '--vocab', '50', '--batch', '2', '--seq', '8', '--steps', '1'];
    const { stdout } = await promisify(execFile)(process.execPath, [
      ...[program.pathname, 'bench', 'step', ...size],
      ...['--precision', precision, '--threads', '1', '--json'],
    ]);
    const result = JSON.parse(stdout) as Record<string, number>;
    t.is(result['tokensPerStep'], 16);
    t.true(Math.abs(result['tokensPerSecond']! * result['secondsPerStep']! - 16) < 1e-9);
    t.true(result['matmulGflops']! > 0 && result['fractionOfPeak']! < 1);
    t.true(Math.abs(result['loss']! - Math.log(50)) < 1, `${result['loss']}`);
    // Two moments of 4 matrices of 128 x 128 by a rank of 32, three of 352 x 128, in each of 4 layers, and
    // of embedding, head and norms; the bases are 128 x 32.
    const moments = 4 * (4 * 128 * 32 + 3 * 352 * 32) + 2 * 50 * 128 + 9 * 128;
    t.is(result['optimizerBytes'], 4 * (2 * moments + 4 * 7 * 128 * 32));
  });
}
