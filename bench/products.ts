/**
 * How exactly and how fast a device multiplies matrices: `node dist/bench/products.js [device] [f32|bf16] [side]`.
 * Prints one JSON line. The error tells the arithmetic: below 1e-6 for f32, some 1e-4 for TF32, some 1e-3 for bf16.
 */
import { availableParallelism } from 'node:os';
import { ensureEngine } from '../src/cli/engine.ts';
import { isDeviceWish } from '../src/device-name.ts';
import { derive, randomNormal } from '../src/random.ts';
import { loadEngine } from '../src/trainer/engine/load.ts';

const CHECKED_SIDE = 192;
const MEASURED_MS = 500;

const [wish = 'auto', precision = 'f32', side = '2048'] = process.argv.slice(2);
if (!isDeviceWish(wish)) throw new Error(`the device is ${wish}`);
const [ready] = await ensureEngine(wish);
const { tf, device } = await loadEngine({
  precision: precision === 'bf16' ? 'bf16' : 'f32',
  threads: availableParallelism(),
  device: ready,
});

/** Root of the mean squared error of a product, as a share of that of the product itself, computed in f64. */
function productError(): number {
  const n = CHECKED_SIDE;
  const [a, b] = ['a', 'b'].map((name) => {
    const key = derive(1, name);
    return Float32Array.from({ length: n * n }, (_, index) => randomNormal(key, index));
  }) as [Float32Array, Float32Array];
  const product = tf.tidy(() => tf.matMul(tf.tensor2d(a, [n, n]), tf.tensor2d(b, [n, n])).dataSync());
  let [error, norm] = [0, 0];
  for (let i = 0; i < n; i += 1) {
    for (let j = 0; j < n; j += 1) {
      let exact = 0;
      for (let k = 0; k < n; k += 1) exact += (a[i * n + k] ?? 0) * (b[k * n + j] ?? 0);
      error += ((product[i * n + j] ?? Number.NaN) - exact) ** 2;
      norm += exact ** 2;
    }
  }
  return Math.sqrt(error / norm);
}

/** Of the fastest product of two square matrices. */
function gigaflops(n: number): number {
  const [a, b] = [tf.randomNormal([n, n]), tf.randomNormal([n, n])];
  const endMs = performance.now() + MEASURED_MS;
  let shortestMs = Infinity;
  while (performance.now() < endMs) {
    const startMs = performance.now();
    tf.tidy(() => tf.matMul(a, b).slice([0, 0], [1, 1]).dataSync()); // waits for the GPU
    shortestMs = Math.min(shortestMs, performance.now() - startMs);
  }
  return (2 * n ** 3) / (shortestMs * 1e6);
}

const error = productError();
const { kind, isPrecisionNative, description } = device;
const report = { kind, precision, isPrecisionNative, error, gflops: gigaflops(Number(side)), description };
console.log(JSON.stringify(report));
