/** The tensor engine for tests, silenced, and small conveniences around it. */
import { createRequire } from 'node:module';
import type * as core from '@tensorflow/tfjs-core';
import type tensorflow from '@tensorflow/tfjs-node-gpu';
import type { ExecutionContext } from 'ava';
import { matrix, type Matrix } from '../../src/galore/matrix.ts';

process.env['TF_CPP_MIN_LOG_LEVEL'] = '3';
// An import would parse all of it once more to find the names that it exports.
const tf = createRequire(import.meta.url)('@tensorflow/tfjs-node-gpu') as typeof tensorflow;
export { tf };
export type { Tensor, Tensor2D } from '@tensorflow/tfjs-core';

export function tensorOf(a: Matrix): core.Tensor2D {
  return tf.tensor2d(Float32Array.from(a.values), [a.rows, a.cols]);
}

export function matrixOf(x: core.Tensor): Matrix {
  const [rows = 1, cols = 1] = x.shape;
  return matrix(rows, cols, x.dataSync());
}

/** Runs `body`, disposes the tensors it returns, and asserts that no others are left. */
export function assertNoLeak(
  t: ExecutionContext,
  body: () => core.TensorContainer,
  expectedResults: number,
): void {
  const before = tf.memory().numTensors;
  const result = body();
  t.is(tf.memory().numTensors, before + expectedResults, 'exactly the results are left');
  tf.dispose(result);
  t.is(tf.memory().numTensors, before, 'nothing is left after dispose');
}
