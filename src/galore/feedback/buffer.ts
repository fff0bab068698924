/**
 * A matrix that a trainer keeps beside the weight, in as few bytes as its dtype says: the error of a feedback,
 * the first moment of a power slot. Reduced precision is that of the wire's codecs, with the same dice.
 */
import * as tf from '@tensorflow/tfjs-core';
import type { RandomKey } from '../../random.ts';
import { codecFor } from '../codec/codec.ts';
import { sizeOf, type BufferDtype } from '../slot.ts';

/** What a buffer is kept as: a tensor, or the bytes of a codec. */
export type BufferValue = tf.Tensor | Uint8Array;

/** Its numbers; a new tensor. */
export function openBuffer(value: BufferValue, shape: readonly number[], dtype: BufferDtype): tf.Tensor {
  if (dtype === 'f32' || !(value instanceof Uint8Array)) return tf.clone(value as tf.Tensor);
  return tf.tensor(codecFor(dtype).decode(value, sizeOf(shape)), [...shape]);
}

/** Numbers as they are kept; `numbers` stays the caller's. */
export function closeBuffer(numbers: tf.Tensor, dtype: BufferDtype, key: RandomKey): BufferValue {
  if (dtype === 'f32') return tf.keep(tf.clone(numbers));
  return codecFor(dtype).encode(numbers.dataSync<'float32'>() as Float32Array, key);
}
