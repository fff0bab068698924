/** Tensors of arrays that are used again. */
import * as tf from '@tensorflow/tfjs-core';

/**
 * A tensor of `values`, which may be written over as soon as this returns. tfjs keeps the array itself until
 * the tensor is first used; tfjs-node then copies it, so that one element is used here. Other engines may
 * work on the array for ever and get a copy.
 */
export function tensorOfCopy(values: Float32Array, shape: readonly number[]): tf.Tensor {
  if (tf.getBackend() !== 'tensorflow') return tf.tensor(values.slice(), [...shape]);
  const tensor = tf.tensor(values, [...shape]);
  const first = shape.map(() => 0);
  const one = shape.map(() => 1);
  tf.dispose(tf.slice(tensor, first, one));
  return tensor;
}
