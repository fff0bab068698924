/** TensorFlow's decompositions in f32, which tfjs has no functions for. The engine must have been loaded. */
import * as tf from '@tensorflow/tfjs-core';

interface Backend {
  readonly binding: {
    readonly TF_ATTR_BOOL: number;
    readonly TF_ATTR_TYPE: number;
    readonly TF_FLOAT: number;
  };
  executeMultipleOutputs(
    name: string,
    attributes: readonly unknown[],
    inputs: readonly tf.Tensor[],
    outputs: number,
  ): tf.Tensor[];
}

/** Eigenvalues `[n]`, ASCENDING, and eigenvectors (the columns) `[n, n]` of a symmetric matrix, whose lower half is read. */
export function symmetricEigen(x: tf.Tensor2D): readonly [tf.Tensor1D, tf.Tensor2D] {
  return decompose('SelfAdjointEigV2', { compute_v: true }, x, 2) as [tf.Tensor1D, tf.Tensor2D];
}

/** Singular values, descending, of the full decomposition; the vectors of both sides are computed too. */
export function fullSvd(x: tf.Tensor2D): Float32Array {
  const outputs = decompose('Svd', { compute_uv: true, full_matrices: false }, x, 3);
  const values = outputs[0]!.dataSync<'float32'>() as Float32Array;
  tf.dispose(outputs);
  return values;
}

function decompose(
  name: string,
  flags: Readonly<Record<string, boolean>>,
  x: tf.Tensor2D,
  outputs: number,
): tf.Tensor[] {
  const backend = tf.backend() as unknown as Backend;
  const { TF_ATTR_BOOL, TF_ATTR_TYPE, TF_FLOAT } = backend.binding;
  const attributes = [
    ...Object.entries(flags).map(([flag, value]) => ({ name: flag, type: TF_ATTR_BOOL, value })),
    { name: 'T', type: TF_ATTR_TYPE, value: TF_FLOAT },
  ];
  return backend.executeMultipleOutputs(name, attributes, [x], outputs);
}
