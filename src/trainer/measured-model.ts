/** The model that measurements run on: of a real shape, with random weights and random tokens. */
import { quantiseWeight } from '../galore/int8-weight.ts';
import { sizeOf, type Slot } from '../galore/slot.ts';
import type { LlamaConfig } from '../model/llama-config.ts';
import { derive, randomNormal, randomUint32, type RandomKey } from '../random.ts';
import type { Precision } from './engine/device.ts';
import type { ReadyDevice } from './engine/ready-device.ts';
import { Int8Weight } from './int8-weight.ts';
import type { LocalHyperparameters } from './local-step.ts';
import type { Batch } from './model/batch.ts';
import type { LlamaOptions } from './model/llama.ts';
import type { SourcedWeight, WeightValues } from './model/weights.ts';

/** A model, a method and a machine; plain data, so that it can be sent to another process. */
export interface MeasuredModel {
  readonly model: LlamaConfig;
  readonly options: LlamaOptions;
  readonly sequences: number;
  readonly length: number;
  readonly slots: readonly Slot[];
  readonly hyper: LocalHyperparameters;
  readonly precision: Precision;
  readonly device?: ReadyDevice | undefined;
  readonly threads: number;
  readonly seed: number;
}

/** Weights repeat after so many numbers, because making each one takes longer than the measurement. */
const DISTINCT_WEIGHTS = 2 ** 20;

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
  key: RandomKey,
): Batch {
  const ids = Int32Array.from({ length: sequences * length }, (_, i) => randomUint32(key, i) % vocabSize);
  return { ids, labels: ids.map((_, i) => ids[(i + 1) % ids.length]!), sequences, length };
}
