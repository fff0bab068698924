/**
 * Measures the engine in a process of its own, started by check.ts: TensorFlow reads its settings once, and
 * a library that fails natively ends the process it is in. Arguments: precision, threads, the ReadyDevice as JSON. Prints one JSON line.
 */
import { loadEngine } from './load.ts';
import type { Device, Precision } from './device.ts';
import type { ReadyDevice } from './ready-device.ts';

const SIDE = 1024;
const FLOP_PER_PRODUCT = 2 * SIDE ** 3;
const MEASURED_MS = 300;

export interface Measurement {
  readonly device: Device;
  /** Of the fastest product, so that other programs on the machine count little. */
  readonly gflops: number;
  /** The largest error of the product against whole numbers that both precisions hold exactly. */
  readonly largestError: number;
  readonly versions: { readonly tensorflow: string; readonly tfjs: string; readonly node: string };
}

async function measure(precision: Precision, threads: number, ready: ReadyDevice): Promise<Measurement> {
  const { tf, device } = await loadEngine({ precision, threads, device: ready });
  const a = tf.fill([SIDE, SIDE], 3);
  const b = tf.fill([SIDE, SIDE], 2);
  const product = tf.matMul(a, b); // each element is 6 * SIDE
  const largestError = product
    .sub(6 * SIDE)
    .abs()
    .max()
    .dataSync()[0];
  const endMs = performance.now() + MEASURED_MS;
  let shortestMs = Infinity;
  while (performance.now() < endMs) {
    const startMs = performance.now();
    const c = tf.matMul(a, b);
    c.slice([0, 0], [1, 1]).dataSync(); // waits for the result, which a GPU computes in its own time
    shortestMs = Math.min(shortestMs, performance.now() - startMs);
    c.dispose();
  }
  const backend = tf.backend() as unknown as { readonly binding: { readonly TF_Version: string } };
  return {
    device,
    gflops: FLOP_PER_PRODUCT / (shortestMs * 1e6),
    largestError: largestError ?? Number.NaN,
    versions: {
      tensorflow: backend.binding.TF_Version,
      tfjs: tf.version['tfjs-node'],
      node: process.versions.node,
    },
  };
}

const [precision, threads, ready = '{}'] = process.argv.slice(2);
try {
  const measurement = await measure(
    precision === 'bf16' ? 'bf16' : 'f32',
    Number(threads),
    JSON.parse(ready) as ReadyDevice,
  );
  process.stdout.write(`${JSON.stringify(measurement)}\n`);
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
