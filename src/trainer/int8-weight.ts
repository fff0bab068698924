/**
 * Weights that live as codes (galore/int8-weight.ts) in plain arrays, and as f32 tensors only while the model
 * or the optimizer uses them.
 */
import * as tf from '@tensorflow/tfjs-core';
import { quantiseWeight, restoreWeight, type WeightCodes } from '../galore/int8-weight.ts';
import type { Slot } from '../galore/slot.ts';
import { derive, type RandomKey } from '../random.ts';
import type { WeightSource, WeightStore } from './model/weights.ts';

/** Immutable. */
export class Int8Weight implements WeightSource {
  readonly shape: readonly number[];
  readonly codes: WeightCodes;

  constructor(shape: readonly number[], codes: WeightCodes) {
    this.shape = shape;
    this.codes = codes;
  }

  get bytes(): number {
    const { codes, scales, zeros } = this.codes;
    return codes.byteLength + scales.byteLength + zeros.byteLength;
  }

  materialise(): tf.Tensor {
    return tf.tensor(restoreWeight(this.codes), [...this.shape]);
  }
}

/** The dice that round the new weight of a slot in a step: on every trainer the same. */
export function roundingKey(seed: number, step: number, slot: Slot): RandomKey {
  return derive(seed, 'weight rounding', step, slot.index);
}

/** Puts a slot's new weight into the store, which takes the tensor over; as codes where the slot says so. */
export function storeWeight(weights: WeightStore, slot: Slot, weight: tf.Tensor, key: RandomKey): void {
  if (slot.weights !== 'int8') return weights.set(slot.name, weight);
  const values = weight.dataSync<'float32'>() as Float32Array;
  weights.set(slot.name, new Int8Weight(slot.shape, quantiseWeight(values, key)));
  weight.dispose();
}
