/**
 * Rotary position embedding (Su et al. 2021, arXiv 2104.09864) in Hugging Face's "rotate half"
 * layout: dimension i of a head is paired with dimension i + headDim/2, not with its neighbour.
 *
 *   angle(p, i) = p · theta^(−2i / headDim),  i < headDim/2
 *   rotate(x) = x · cos + swap(x) · sin,  swap exchanges the two halves,  sin is negative in the first
 *
 * Queries and keys are turned together. The tables of the query heads carry the attention scale
 * 1/√headDim, which therefore costs no pass of its own in either direction.
 */
import * as tf from '@tensorflow/tfjs-core';
import type { LlamaConfig } from '../../../model/llama-config.ts';

/** Tables for positions offset … offset + length − 1, heads in the order queries, keys. */
export interface RotaryTables {
  readonly shape: [number, number, number]; // [H + K, S, headDim]
  readonly cos: Float32Array;
  readonly sin: Float32Array;
}

/** Computes the tables. Angles are rounded to single precision where Hugging Face rounds them. */
export function rotaryTables(config: LlamaConfig, offset: number, length: number): RotaryTables {
  const { headDim, numAttentionHeads: heads, numKeyValueHeads: keyValueHeads, ropeTheta } = config;
  const half = headDim / 2;
  const plane = length * headDim;
  const cos = new Float32Array((heads + keyValueHeads) * plane);
  const sin = new Float32Array(cos.length);
  for (let i = 0; i < half; i++) {
    const frequency = Math.fround(1 / ropeTheta ** ((2 * i) / headDim));
    for (let position = 0; position < length; position++) {
      const angle = Math.fround((offset + position) * frequency);
      const at = heads * plane + position * headDim + i;
      cos[at] = cos[at + half] = Math.cos(angle);
      sin[at + half] = Math.sin(angle);
      sin[at] = -Math.sin(angle);
    }
  }
  const scale = 1 / Math.sqrt(headDim);
  for (const table of [cos, sin]) {
    const keyPlane = table.subarray(heads * plane, (heads + 1) * plane);
    for (let head = heads + 1; head < heads + keyValueHeads; head++) table.set(keyPlane, head * plane);
    const queryPlane = keyPlane.map((value) => value * scale);
    for (let head = 0; head < heads; head++) table.set(queryPlane, head * plane);
  }
  return { shape: [heads + keyValueHeads, length, headDim], cos, sin };
}

/** rotate(x), with the query heads scaled. */
export function rotateForward(
  x: tf.Tensor4D, // [B, H + K, S, headDim]
  cos: tf.Tensor3D, // [H + K, S, headDim]
  sin: tf.Tensor3D,
): tf.Tensor4D {
  return tf.tidy(() => {
    const turned = tf.tidy(() => tf.mul(swapHalves(x), sin));
    return tf.add(tf.mul(x, cos), turned);
  });
}

/** The transpose of rotate: dx = dy · cos + swap(dy · sin). */
export function rotateBackward(
  dy: tf.Tensor4D, // [B, H + K, S, headDim]
  cos: tf.Tensor3D, // [H + K, S, headDim]
  sin: tf.Tensor3D,
): tf.Tensor4D {
  return tf.tidy(() => {
    const turned = tf.tidy(() => swapHalves(tf.mul(dy, sin)));
    return tf.add(tf.mul(dy, cos), turned);
  });
}

function swapHalves(x: tf.Tensor4D): tf.Tensor4D {
  const [first, second] = tf.split(x, 2, -1) as [tf.Tensor4D, tf.Tensor4D];
  return tf.concat([second, first], -1);
}
