/**
 * RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467), over the last dimension of [N, D].
 *
 *   y = x / sqrt(mean(x²) + eps) · w
 */
import * as tf from '@tensorflow/tfjs-core';
import { rmsNorm, rmsNormGradient } from '../passes.ts';

/** What backward needs of forward. */
export type RmsNormSaved = {
  readonly x: tf.Tensor2D; // [N, D]
  readonly inverse: tf.Tensor2D; // [N, 1], 1 / sqrt(mean(x²) + eps)
};

/** Computes y and what backward needs. */
export function rmsNormForward(
  x: tf.Tensor2D, // [N, D]
  weight: tf.Tensor1D, // [D]
  eps: number,
): { y: tf.Tensor2D; saved: RmsNormSaved } {
  return tf.tidy(() => {
    const { y, inverse } = rmsNorm(x, weight, eps);
    return { y, saved: { x: tf.clone(x), inverse } };
  });
}

/** dx and the gradient of the weight. */
export function rmsNormBackward(
  dy: tf.Tensor2D, // [N, D]
  weight: tf.Tensor1D, // [D]
  saved: RmsNormSaved,
): { dx: tf.Tensor2D; dWeight: tf.Tensor1D } {
  return rmsNormGradient(dy, saved.x, weight, saved.inverse);
}
