import test from 'ava';
import { EngineError } from '../../../src/errors.ts';
import { checkEngine } from '../../../src/trainer/engine/check.ts';
import { tfjsPackageDir } from '../../../src/trainer/engine/tfjs-package.ts';
import type { Gpu } from '../../../src/trainer/engine/gpus.ts';
import { loadEngine } from '../../../src/trainer/engine/load.ts';
import { placeOf } from '../../../src/trainer/engine/place.ts';

const GPU: Gpu = {
  number: 0,
  uuid: 'GPU-1',
  name: 'NVIDIA A',
  memoryBytes: 8 * 2 ** 30,
  computeCapability: '8.6',
  driverVersion: '550.54',
};

// The engine that the set-up has installed: nothing here is made up.

test.serial('the number of threads has to be a whole number of at least 1', async (t) => {
  for (const threads of [0, -1, 1.5, Number.NaN]) {
    await t.throwsAsync(loadEngine({ precision: 'f32', threads }), {
      instanceOf: EngineError,
      message: `threads is ${threads} and has to be a whole number of at least 1`,
    });
  }
});

test.serial('a loaded engine multiplies matrices and says what it computes on', async (t) => {
  const { tf, device } = await loadEngine({ precision: 'f32', threads: 1 });
  const product = tf.tidy(() => tf.matMul(tf.tensor2d([1, 2, 3, 4], [2, 2]), tf.eye(2)));
  t.deepEqual([...product.dataSync()], [1, 2, 3, 4]);
  product.dispose();
  t.is(tf.memory().numTensors, 0);
  t.is(device.threads, 1);
  t.is(device.precision, 'f32');
  t.regex(device.description, /^[CG]PU .+, 1 thread, f32$/);
});

test.serial('the same settings give the same engine, and others are refused', async (t) => {
  const options = { precision: 'f32', threads: 1 } as const;
  t.is(await loadEngine(options), await loadEngine({ ...options }));
  await t.throwsAsync(loadEngine({ ...options, threads: 2 }), {
    instanceOf: EngineError,
    message: /runs with precision f32 and threads 1;/,
  });
  const device = { name: 'cpu', folder: placeOf(tfjsPackageDir()), gpu: null } as const;
  await t.throwsAsync(loadEngine({ ...options, device }), {
    instanceOf: EngineError,
    message: /runs on what it found, and cpu was asked for;/,
  });
});

test.serial(
  'a check reports device, versions and speeds, and fails on a GPU that the library does not find',
  async (t) => {
    const device = { name: 'cpu', folder: placeOf(tfjsPackageDir()), gpu: null } as const;
    const report = await checkEngine(device, 1);
    t.regex(report.versions.tensorflow, /^2\.\d+\.\d+$/);
    t.is(report.versions.node, process.versions.node);
    t.deepEqual(
      report.speeds.map(({ precision }) => precision),
      ['f32', 'bf16'],
    );
    for (const { gflops } of report.speeds) t.true(gflops > 0.1, `${gflops} GFLOP/s`);
    t.true(report.device.length > 0);
    t.like(report, { kind: 'cpu', flavour: 'cpu', gpu: null });
    t.is(report.speeds[1]?.isNative, report.bf16 !== null);
    await t.throwsAsync(checkEngine({ ...device, name: 'gpu:0', gpu: GPU }, 1), {
      instanceOf: EngineError,
      message: /TensorFlow cannot compute on gpu:0 \(NVIDIA A, driver 550\.54\); .*--device cpu/,
    });
  },
);
