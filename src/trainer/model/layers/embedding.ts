/** Token embedding: row `ids[n]` of the matrix becomes row n. */
import * as tf from '@tensorflow/tfjs-core';

/** x = E[ids]. */
export function embeddingForward(ids: tf.Tensor1D, weight: tf.Tensor2D): tf.Tensor2D {
  return tf.gather(weight, ids); // [N, D]
}

/** dE: row t is the sum of the rows of dx where token t stood. */
export function embeddingBackward(ids: tf.Tensor1D, dx: tf.Tensor2D, vocabSize: number): tf.Tensor2D {
  return tf.unsortedSegmentSum(dx, ids, vocabSize); // [V, D]
}
