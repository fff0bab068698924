/** Measures whole training steps of a model with random weights on random tokens, in this process. SHELL. */
import { setImmediate } from 'node:timers/promises';
import { quantiseWeight } from '../galore/int8-weight.ts';
import { factorOf, product } from '../galore/product.ts';
import { sizeOf, type Slot } from '../galore/slot.ts';
import type { LlamaConfig } from '../model/llama-config.ts';
import { derive, randomNormal, randomUint32 } from '../random.ts';
import type { Device, Precision } from './engine/device.ts';
import { loadEngine, type Engine } from './engine/load.ts';
import type { ReadyDevice } from './engine/ready-device.ts';
import { Int8Weight } from './int8-weight.ts';
import { LocalStep, type LocalHyperparameters } from './local-step.ts';
import type { Batch } from './model/batch.ts';
import { LlamaModel, type LlamaOptions } from './model/llama.ts';
import { WeightStore, type SourcedWeight, type WeightValues } from './model/weights.ts';
import { stepFlops } from './step-flops.ts';

/** What is to be measured. */
export interface StepMeasurementRequest {
  readonly model: LlamaConfig;
  readonly options: LlamaOptions;
  readonly sequences: number;
  readonly length: number;
  readonly slots: readonly Slot[];
  readonly hyper: LocalHyperparameters;
  readonly precision: Precision;
  readonly device?: ReadyDevice | undefined;
  readonly threads: number;
  /** Steps that are timed, after `WARM_UP_STEPS` that are not. */
  readonly steps: number;
  readonly seed: number;
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
/** Weights repeat after so many numbers, because making each one takes longer than the measurement. */
const DISTINCT_WEIGHTS = 2 ** 20;

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

/** Weights of the usual size, repeating, kept as the slots say; norms are 1. */
export function* randomWeights(
  slots: readonly Slot[],
  config: LlamaConfig,
  seed: number,
): Generator<WeightValues | SourcedWeight> {
  const key = derive(seed, 'weights');
  const block = Float32Array.from(
    { length: Math.min(DISTINCT_WEIGHTS, Math.max(...slots.map(({ shape }) => sizeOf(shape)))) },
    (_, i) => config.initializerRange * randomNormal(key, i),
  );
  for (const { name, shape, weights } of slots) {
    const values = new Float32Array(sizeOf(shape));
    if (shape.length === 1) values.fill(1);
    else {
      for (let start = 0; start < values.length; start += block.length) {
        values.set(block.subarray(0, values.length - start), start);
      }
    }
    yield weights === 'int8'
      ? { name, source: new Int8Weight(shape, quantiseWeight(values, null)) }
      : { name, shape, values };
  }
}

/** Random tokens, each labelled with its successor; the last of all with the first. */
export function randomBatch(
  { vocabSize }: LlamaConfig,
  sequences: number,
  length: number,
  key: ReturnType<typeof derive>,
): Batch {
  const ids = Int32Array.from({ length: sequences * length }, (_, i) => randomUint32(key, i) % vocabSize);
  return { ids, labels: ids.map((_, i) => ids[(i + 1) % ids.length]!), sequences, length };
}

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
