/** What a step and a measurement need of a model, whichever it is. */
import type * as tf from '@tensorflow/tfjs-core';
import type { Batch, ClassBatch } from './batch.ts';
import type { WeightStore } from './weights.ts';

export interface ModelOptions {
  /** Keep only the input of each layer and compute its intermediates again in backward. */
  readonly recompute: boolean;
  /** Rows of the logits computed at once; 0: all. Only a Llama has many. */
  readonly lossChunk: number;
}

/** The loss summed over the targets that have one, and their number. */
export interface LossSum {
  /** In nats; summed in double precision. */
  readonly lossSum: number;
  /** Positions, or texts of a ClassBatch. */
  readonly tokens: number;
  /** Of a ClassBatch: texts whose class the model finds likeliest. */
  readonly correct?: number;
}

/**
 * Receives a gradient, of the shape of the weight of that name, which may be a factor: `product` and `numbersOf`
 * (product.ts) take it, other operations do not. The tensor is the model's: it is
 * disposed when the callback returns, unless the callback has marked it with `tf.keep`, which makes it
 * the callback's. Clones and everything else the callback makes are the callback's; it runs in no
 * `tf.tidy` of the model. The weight is not used again in this step: the callback may replace it.
 */
export type OnGradient = (name: string, gradient: tf.Tensor) => void;

export interface Model<B = Batch | ClassBatch> {
  readonly weights: WeightStore;
  /**
   * Runs forward and backward once. `onGradient` receives the gradient of `gradientScale` times the loss sum for
   * every weight that `wants` names, from the head to the embedding; default: for all. What is not wanted is not
   * computed where that saves much.
   */
  forwardBackward(
    batch: B,
    gradientScale: number,
    onGradient: OnGradient,
    wants?: (name: string) => boolean,
  ): LossSum;
  /** The loss of a batch, without gradients. */
  loss(batch: B): LossSum;
}
