/** What a trainer needs of a model, whatever its family. */
import type * as tf from '@tensorflow/tfjs-core';
import type { Batch } from './batch.ts';
import type { Wants } from './layers/emit.ts';
import type { WeightStore } from './weights.ts';

export type { Wants } from './layers/emit.ts';

export interface ModelOptions {
  /** Keep only the input of each layer and compute its intermediates again in backward. */
  readonly recompute: boolean;
  /** Rows of the logits computed at once; 0: all. Of models with a logit for each token of a vocabulary. */
  readonly lossChunk: number;
}

/** The loss summed over everything that has one, and how much that is. */
export interface LossSum {
  /** In nats; summed in double precision. */
  readonly lossSum: number;
  /** Positions that predict a token, or sequences that are classified. */
  readonly tokens: number;
  /** Of sequences that are classified: how many got their label. */
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

/** A model over weights it does not own. */
export interface Model {
  readonly weights: WeightStore;

  /**
   * Runs forward and backward once; `onGradient` receives the gradient of `gradientScale` times the loss sum for
   * every weight that `wants` names (default: all), from the output to the input. What nobody wants is not computed
   * where that is simple.
   */
  forwardBackward(batch: Batch, gradientScale: number, onGradient: OnGradient, wants?: Wants): LossSum;

  /** The loss of a batch, without gradients. */
  loss(batch: Batch): LossSum;
}

/** The loss of all batches together, without gradients. */
export function measureLoss(model: Model, batches: readonly Batch[]): LossSum {
  return addLosses(batches.map((batch) => model.loss(batch)));
}

export function addLosses(parts: readonly LossSum[]): LossSum {
  const sumOf = (amount: (part: LossSum) => number): number =>
    parts.reduce((sum, part) => sum + amount(part), 0);
  const isClassified = parts.some(({ correct }) => correct !== undefined);
  return {
    lossSum: sumOf(({ lossSum }) => lossSum),
    tokens: sumOf(({ tokens }) => tokens),
    ...(isClassified ? { correct: sumOf(({ correct = 0 }) => correct) } : {}),
  };
}
