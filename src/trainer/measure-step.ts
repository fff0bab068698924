/** Measures whole training steps of a model with random weights on random tokens, in this process. SHELL. */
import { setImmediate } from 'node:timers/promises';
import { factorOf, product } from '../galore/product.ts';
import { sizeOf } from '../galore/slot.ts';
import { derive } from '../random.ts';
import type { Device } from './engine/device.ts';
import { loadEngine, type Engine } from './engine/load.ts';
import { LocalStep } from './local-step.ts';
import { randomBatch, randomWeights, type MeasuredModel } from './measured-model.ts';
import { LlamaModel } from './model/llama.ts';
import { WeightStore } from './model/weights.ts';
import { stepFlops } from './step-flops.ts';

/** What is to be measured. */
export interface StepMeasurementRequest extends MeasuredModel {
  /** Steps that are timed, after `WARM_UP_STEPS` that are not. */
  readonly steps: number;
  readonly onProgress: (text: string, share: number) => void;
}

/** What came of it. Times are of the median step; `fractionOfPeak` is matmulGflops / peakGflops. */
export interface StepMeasurement {
  readonly device: Device;
  readonly parameters: number;
  readonly tokensPerStep: number;
  readonly tokensPerSecond: number;
  readonly secondsPerStep: number;
  readonly shortestSeconds: number;
  readonly longestSeconds: number;
  /** Of all threads together, the median over the steps: what other programs on the machine hardly change. */
  readonly cpuSecondsPerStep: number;
  /** Mean loss of the last batch, nats per token: a sign that the numbers are sound. */
  readonly loss: number;
  /** Matrix products of a step (step-flops.ts) by the seconds of a whole step. */
  readonly matmulGflops: number;
  /** Of the fastest large matrix product in the same process and precision. */
  readonly peakGflops: number;
  readonly fractionOfPeak: number;
  /** Resident memory at its highest. */
  readonly rssBytes: number;
  readonly weightBytes: number;
  /** Moments and bases. */
  readonly optimizerBytes: number;
}

/** Measures. @throws EngineError, TensorShapeError */
export type MeasureStep = (request: StepMeasurementRequest) => Promise<StepMeasurement>;

const WARM_UP_STEPS = 2;
/** Rows, inner dimension and columns of the products that are to show the machine's best. */
const PEAK_PRODUCTS = [
  [1024, 8192, 1024],
  [2048, 2048, 2048],
] as const;

export const measureStep: MeasureStep = async (request) => {
  const { model: config, sequences, length, seed, onProgress } = request;
  const engine = await loadEngine({
    precision: request.precision,
    threads: request.threads,
    device: request.device,
  });
  const { slots, hyper } = request;
  const weights = WeightStore.fromArrays(randomWeights(slots, config, seed));
  const local = new LocalStep(new LlamaModel(config, weights, request.options), slots, hyper);
  try {
    let peakGflops = 0;
    const seconds: number[] = [];
    const cpuSeconds: number[] = [];
    let loss = Number.NaN;
    for (let step = 0; step < WARM_UP_STEPS + request.steps; step++) {
      onProgress(step < WARM_UP_STEPS ? 'warming up' : 'measuring', step / (WARM_UP_STEPS + request.steps));
      await setImmediate(); // the engine blocks: let signals in
      const batch = randomBatch(config, sequences, length, derive(seed, 'batch', step));
      peakGflops = Math.max(peakGflops, measurePeak(engine)); // every time, since others may use the machine too
      const startMs = performance.now();
      const cpuBefore = process.cpuUsage();
      loss = local.run(batch);
      if (step < WARM_UP_STEPS) continue;
      seconds.push((performance.now() - startMs) / 1000);
      const { user, system } = process.cpuUsage(cpuBefore);
      cpuSeconds.push((user + system) / 1e6);
    }
    const { median, shortest, longest } = spread(seconds);
    const matmulGflops = stepFlops(config, slots, sequences, length) / median / 1e9;
    const parameters = slots.reduce((sum, { shape }) => sum + sizeOf(shape), 0);
    const { stateBytes, basisBytes } = local.bytesOf(slots);
    return {
      device: engine.device,
      parameters,
      tokensPerStep: sequences * length,
      tokensPerSecond: (sequences * length) / median,
      secondsPerStep: median,
      shortestSeconds: shortest,
      longestSeconds: longest,
      cpuSecondsPerStep: spread(cpuSeconds).median,
      loss,
      matmulGflops,
      peakGflops,
      fractionOfPeak: matmulGflops / peakGflops,
      rssBytes: process.resourceUsage().maxRSS * 1024,
      weightBytes: slots.reduce((sum, { name }) => sum + weights.bytesOf(name), 0),
      optimizerBytes: stateBytes + basisBytes,
    };
  } finally {
    local.dispose();
    weights.dispose();
  }
};

function measurePeak({ tf }: Engine): number {
  let best = 0;
  for (const [rows, inner, columns] of PEAK_PRODUCTS) {
    const [a, b] = tf.tidy(() => [
      factorOf(tf.fill([rows, inner], 0.5)),
      factorOf(tf.fill([inner, columns], 0.25)),
    ]) as [ReturnType<typeof tf.tensor2d>, ReturnType<typeof tf.tensor2d>];
    const startMs = performance.now();
    const c = product(a, b);
    tf.tidy(() => c.slice([0, 0], [1, 1]).dataSync()); // waits for the result
    best = Math.max(best, (2 * rows * inner * columns) / (performance.now() - startMs) / 1e6);
    tf.dispose([a, b, c]);
  }
  return best;
}

function spread(seconds: readonly number[]): { median: number; shortest: number; longest: number } {
  const sorted = seconds.toSorted((a, b) => a - b);
  const [shortest, longest] = [sorted[0]!, sorted.at(-1)!];
  const half = (sorted.length - 1) / 2;
  const median = (sorted[Math.floor(half)]! + sorted[Math.ceil(half)]!) / 2;
  return { median, shortest, longest };
}
