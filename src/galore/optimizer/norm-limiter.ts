/**
 * The norm-growth limiter of Fira (arXiv 2410.01623, section 4.2), which APOLLO and SUMO share: an update
 * may be at most `growth` times as long as the one before.
 */
import * as tf from '@tensorflow/tfjs-core';

/** Both of shape `[1]`. */
export interface Limited {
  /** 1/l: what the update is to be multiplied by, at most 1. */
  readonly factor: tf.Tensor1D;
  /** Norm of the multiplied update: the state `norm`, the next step's `previous`. */
  readonly norm: tf.Tensor1D;
}

const TINY = 1e-8;

/**
 * l = max(norm / (previous + 1e-8), growth) / growth. A previous norm of 0 means that there was no update
 * yet and limits nothing. (The reference divides by 1e-8 after a zero update and all but stops there.)
 * All tensors have shape `[1]`; nothing is read back from the device.
 */
export function limitGrowth(norm: tf.Tensor1D, previous: tf.Tensor1D, growth: number): Limited {
  return tf.tidy(() => {
    const ratio = tf.div(norm, tf.add(previous, TINY));
    const limited = tf.div<tf.Tensor1D>(growth, tf.maximum(ratio, growth));
    const factor = tf.where(tf.equal(previous, 0), tf.onesLike(limited), limited);
    return { factor, norm: tf.mul<tf.Tensor1D>(norm, factor) };
  });
}
