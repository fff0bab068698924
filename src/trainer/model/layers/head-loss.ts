/**
 * The head and the loss on top of it, summed over rows: for row n with label c
 *
 *   l = h·W',  loss = log Σ exp(l) − l_c,  dl = softmax(l) − onehot(c)
 *
 * Forward and backward are one pass over chunks of rows, so that only a chunk of the logits exists at a
 * time. As in attention the softmax is not divided out: with e = exp(l − max), z = Σ e the pass
 * works with z·dl = e − z·onehot(c), which differs from e in one place per row, and the factor 1/z goes
 * to the rows of h and dh, which are narrower.
 *
 * Whole, the pass holds about 2·N·V numbers; in chunks of C rows 2·C·V, but 3·V·D for a moment where the
 * weight gradients of two chunks are added: chunks save memory when N is well above 1.5·D.
 */
import * as tf from '@tensorflow/tfjs-core';
import { factorOf, product, productFactor } from '../../../galore/product.ts';
import { crossEntropy, type CrossEntropy } from '../passes.ts';

/** What one pass gives: the loss of each row and the gradients of `gradientScale` times their sum. */
export type HeadResult = {
  readonly losses: tf.Tensor1D; // [N]
  readonly dHidden: tf.Tensor2D; // [N, D]
  readonly dWeight: tf.Tensor2D; // [V, D]
};

/**
 * The loss of each row of `hidden`, of which there is at least one.
 * @param labels a token id per row
 * @param chunk rows of logits computed at once; 0: all
 */
export function headLoss(
  hidden: tf.Tensor2D, // [N, D]
  weight: tf.Tensor2D, // [V, D]
  labels: Int32Array, // [N]
  chunk: number,
): tf.Tensor1D {
  return tf.tidy(() => {
    const losses = chunksOf(labels, chunk).map(({ start, part }) =>
      tf.tidy(() => fromHidden(rowsOf(hidden, start, part.length), weight, part).losses),
    );
    return joinRows(losses);
  });
}

/** As `headLoss`, with the gradients; that of the weight is empty, [0, D], if it is not wanted. */
export function headLossAndGradients(
  hidden: tf.Tensor2D, // [N, D]
  weight: tf.Tensor2D, // [V, D]
  labels: Int32Array, // [N]
  chunk: number,
  gradientScale: number,
  isWeightWanted = true,
): HeadResult {
  return tf.tidy(() => {
    const losses: tf.Tensor1D[] = [];
    const dHidden: tf.Tensor2D[] = [];
    let dWeight: tf.Tensor2D | undefined;
    const weightFactor = factorOf(weight);
    for (const { start, part } of chunksOf(labels, chunk)) {
      const result = chunkGradients(
        rowsOf(hidden, start, part.length),
        weightFactor,
        part,
        gradientScale,
        isWeightWanted,
      );
      losses.push(result.losses);
      dHidden.push(result.dHidden);
      const before: tf.Tensor2D | undefined = dWeight;
      dWeight = before === undefined || !isWeightWanted ? result.dWeight : tf.add(before, result.dWeight);
      if (before !== undefined) tf.dispose(isWeightWanted ? [before, result.dWeight] : [before]);
    }
    if (dWeight === undefined) throw new RangeError('the loss of no rows was asked for');
    return { losses: joinRows(losses), dHidden: joinRows(dHidden), dWeight };
  });
}

function chunkGradients(
  hidden: tf.Tensor2D, // [C, D]
  weight: tf.Tensor2D, // [V, D], a factor
  labels: Int32Array, // [C]
  gradientScale: number,
  isWeightWanted: boolean,
): HeadResult {
  return tf.tidy(() => {
    const { numerators, sums, losses } = fromHidden(hidden, weight, labels);
    const factor = tf.div<tf.Tensor2D>(gradientScale, sums); // [C, 1]
    const dHidden: tf.Tensor2D = tf.mul(product(numerators, weight), factor);
    const dWeight: tf.Tensor2D = isWeightWanted
      ? product(numerators, tf.mul(hidden, factor), true)
      : tf.zeros([0, hidden.shape[1]]);
    return { losses, dHidden, dWeight };
  });
}

function fromHidden(hidden: tf.Tensor2D, weight: tf.Tensor2D, labels: Int32Array): CrossEntropy {
  return tf.tidy(() => crossEntropy(productFactor(hidden, weight, false, true), labels));
}

function chunksOf(labels: Int32Array, chunk: number): { start: number; part: Int32Array }[] {
  const size = chunk === 0 ? labels.length : chunk;
  const count = Math.ceil(labels.length / size);
  return Array.from({ length: count }, (_, index) => ({
    start: index * size,
    part: labels.subarray(index * size, (index + 1) * size),
  }));
}

function rowsOf(hidden: tf.Tensor2D, start: number, rows: number): tf.Tensor2D {
  return rows === hidden.shape[0] ? hidden : tf.slice(hidden, [start, 0], [rows, -1]);
}

function joinRows<T extends tf.Tensor1D | tf.Tensor2D>(parts: readonly T[]): T {
  const [only, ...others] = parts;
  if (only === undefined) throw new RangeError('the loss of no rows was asked for');
  return others.length === 0 ? only : (tf.concat([...parts], 0) as T);
}
