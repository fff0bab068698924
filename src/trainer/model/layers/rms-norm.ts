/**
 * RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467), over the last dimension of [N, D].
 *
 *   y = x / sqrt(mean(x²) + eps) · w
 *
 * Both passes work with x̂ = x / sqrt(sum(x²) + D·eps) and ŵ = √D·w, so that no mean is taken: y = x̂·ŵ.
 */
import * as tf from '@tensorflow/tfjs-core';

/** What backward needs of forward. */
export type RmsNormSaved = {
  readonly unit: tf.Tensor2D; // [N, D], x̂
  readonly inverse: tf.Tensor2D; // [N, 1], 1 / sqrt(sum(x²) + D·eps)
  readonly scaled: tf.Tensor1D; // [D], ŵ
};

/** Computes y and what backward needs. */
export function rmsNormForward(
  x: tf.Tensor2D, // [N, D]
  weight: tf.Tensor1D, // [D]
  eps: number,
): { y: tf.Tensor2D; saved: RmsNormSaved } {
  return tf.tidy(() => {
    const width = x.shape[1];
    const squares = tf.tidy(() => tf.sum<tf.Tensor2D>(tf.square(x), -1, true)); // [N, 1]
    const inverse: tf.Tensor2D = tf.rsqrt(tf.add(squares, width * eps)); // [N, 1]
    const unit: tf.Tensor2D = tf.mul(x, inverse); // [N, D]
    const scaled: tf.Tensor1D = tf.mul(weight, Math.sqrt(width)); // [D]
    const y: tf.Tensor2D = tf.mul(unit, scaled);
    return { y, saved: { unit, inverse, scaled } };
  });
}

/**
 * With g = dy·ŵ:  dx = (g − x̂·sum(g·x̂)) / sqrt(sum(x²) + D·eps),  dw = √D · sum over rows of dy·x̂.
 */
export function rmsNormBackward(
  dy: tf.Tensor2D, // [N, D]
  saved: RmsNormSaved,
): { dx: tf.Tensor2D; dWeight: tf.Tensor1D } {
  const { unit, inverse, scaled } = saved;
  return tf.tidy(() => {
    const [dWeight, along] = tf.tidy(() => {
      const product = tf.mul(dy, unit); // [N, D]
      return [
        tf.mul(tf.sum<tf.Tensor1D>(product, 0), Math.sqrt(dy.shape[1])), // [D]
        tf.sum(tf.mul(product, scaled), -1, true), // [N, 1]
      ];
    });
    const difference = tf.tidy(() => tf.sub(tf.mul(dy, scaled), tf.mul(unit, along)));
    return { dx: tf.mul(difference, inverse), dWeight };
  });
}
