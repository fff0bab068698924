/** Tensors of arrays that are used again. */
import * as tf from '@tensorflow/tfjs-core';
import { BACKEND_NAME, handOver, runOperation, type TensorflowBackend } from './engine/binding.ts';

/**
 * A tensor of `values`, which may be written over as soon as this returns. Left to itself tfjs keeps the
 * array until the tensor is first used, and TensorFlow then works on it for ever if it lies on a boundary of
 * 64 bytes (and copies it if not).
 */
export function tensorOfCopy(values: Float32Array, shape: readonly number[]): tf.Tensor {
  if (tf.getBackend() !== BACKEND_NAME) return tf.tensor(values.slice(), [...shape]);
  const backend = tf.backend() as unknown as TensorflowBackend;
  const { binding } = backend;
  const shared = binding.createTensor([...shape], binding.TF_FLOAT, values);
  try {
    const type = { name: 'T', kind: 'TF_ATTR_TYPE', value: binding.TF_FLOAT } as const;
    const [copy] = runOperation(backend, 'DeepCopy', [type], [shared]);
    return tf.engine().makeTensorFromTensorInfo(handOver(backend, copy!));
  } finally {
    binding.deleteTensor(shared);
  }
}
