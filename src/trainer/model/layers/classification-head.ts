/**
 * From the tokens of a text to its class: one vector per text, and the logits of the classes.
 *
 *   cls:  p = tanh(x[first]·Wd' + bd),  l = p·W' + b
 *   mean: p = mean of x over the text's tokens,  l = p·W' + b
 *
 * The loss of so few logits is computed here, in double precision: log Σ exp(l) − l_c, dl = softmax(l) − onehot(c).
 */
import * as tf from '@tensorflow/tfjs-core';
import { factorOf } from '../../../galore/product.ts';
import { UNKNOWN_CLASS } from '../batch.ts';
import { TensorScope } from '../tensor-scope.ts';
import type { Emit, Wants } from './emit.ts';
import { linearBackward, linearForward, type LinearWeights } from './linear.ts';
import type { Packing } from './packing.ts';

export interface ClassificationHead {
  /** Of pooling `cls`; null: the mean is taken. */
  readonly dense: LinearWeights | null; // [D, D]
  readonly out: LinearWeights; // [classes, D]
}

/** The names of its layers. */
export interface HeadNames {
  readonly dense: string;
  readonly out: string;
}

/** What backward needs of forward. */
export type HeadSaved = Mean | FirstTokens;
type Mean = {
  readonly pooled: tf.Tensor2D; // [B, D], p
};
type FirstTokens = Mean & {
  readonly first: tf.Tensor2D; // [B, D], a factor
};

/** One vector per text. */
export function poolForward(x: tf.Tensor2D, dense: LinearWeights | null, packing: Packing): HeadSaved {
  return tf.tidy<HeadSaved>(() => {
    if (dense === null) {
      const sums = tf.unsortedSegmentSum(x, packing.textOfRow, packing.sequences);
      return { pooled: tf.mul(sums, packing.shares) };
    }
    const first = tf.tidy(() => factorOf(tf.gather(x, packing.firstRows)));
    return { first, pooled: tf.tidy(() => tf.tanh(linearForward(first, dense))) };
  });
}

/** The logits, [B, classes]. */
export function classify(pooled: tf.Tensor2D, { out }: ClassificationHead): tf.Tensor2D {
  return tf.tidy(() => linearForward(factorOf(pooled), out));
}

/** Hands out the gradients that are wanted and returns dx. */
export function headBackward(
  dLogits: tf.Tensor2D, // [B, classes]
  { dense, out }: ClassificationHead,
  names: HeadNames,
  packing: Packing,
  saved: HeadSaved,
  wants: Wants,
  emit: Emit,
): tf.Tensor2D {
  using scope = new TensorScope();
  const factor = scope.hold(factorOf(saved.pooled));
  const dPooled = scope.hold(linearBackward(dLogits, out.weight, factor, names.out, wants, emit));
  if (dense === null || !('first' in saved)) {
    return tf.tidy(() => tf.gather(tf.mul(dPooled, packing.shares) as tf.Tensor2D, packing.textOfRow));
  }
  const dDense = scope.hold(
    tf.tidy(() => tf.mul(dPooled, tf.sub(1, tf.square(saved.pooled))) as tf.Tensor2D), // tanh' = 1 − tanh²
  );
  const dFirst = scope.hold(linearBackward(dDense, dense.weight, saved.first, names.dense, wants, emit));
  return tf.unsortedSegmentSum(dFirst, packing.firstRows, packing.rows);
}

/** The loss of the texts whose class is known. */
export interface ClassLoss {
  readonly lossSum: number; // nats
  readonly texts: number;
  /** Texts whose class has the greatest logit; of equal ones the first counts. */
  readonly correct: number;
  /** The gradient of `gradientScale` times the sum. */
  readonly dLogits: Float32Array; // [B, classes]
}

/** @param logits [B, classes] */
export function classLoss(logits: Float32Array, classes: Int32Array, gradientScale: number): ClassLoss {
  const count = logits.length / classes.length;
  const dLogits = new Float32Array(logits.length);
  let [lossSum, texts, correct] = [0, 0, 0];
  classes.forEach((label, text) => {
    if (label === UNKNOWN_CLASS) return;
    const row = logits.subarray(text * count, (text + 1) * count);
    const { probabilities, logSum } = softmax(row);
    texts += 1;
    lossSum += logSum - row[label]!;
    if (row.indexOf(row.reduce((most, logit) => Math.max(most, logit))) === label) correct += 1;
    probabilities.forEach((probability, at) => {
      dLogits[text * count + at] = gradientScale * (probability - (at === label ? 1 : 0));
    });
  });
  return { lossSum, texts, correct, dLogits };
}

/** exp(l) / Σ exp(l), and log Σ exp(l). */
export function softmax(logits: Float32Array): { probabilities: Float64Array; logSum: number } {
  const most = logits.reduce((greatest, logit) => Math.max(greatest, logit), -Infinity);
  const exponentials = Float64Array.from(logits, (logit) => Math.exp(logit - most));
  const sum = exponentials.reduce((total, each) => total + each, 0);
  return { probabilities: exponentials.map((each) => each / sum), logSum: most + Math.log(sum) };
}
