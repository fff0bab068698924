/** A layer y = x·W' + b, and its gradients. */
import * as tf from '@tensorflow/tfjs-core';
import { factorOf, product, productFactor } from '../../../galore/product.ts';
import { TensorScope } from '../tensor-scope.ts';
import type { Emit, Wants } from './emit.ts';

export interface LinearWeights {
  readonly weight: tf.Tensor2D; // [out, in]
  readonly bias: tf.Tensor1D; // [out]
}

/** y. */
export function linearForward(x: tf.Tensor2D, { weight, bias }: LinearWeights): tf.Tensor2D {
  return tf.tidy(() => tf.add(product(x, weight, false, true), bias)); // [N, out]
}

/**
 * Hands out the gradients of `name.weight` and `name.bias` and returns dx.
 * @param input x, a factor (product.ts)
 */
export function linearBackward(
  dy: tf.Tensor2D, // [N, out]
  weight: tf.Tensor2D, // [out, in]
  input: tf.Tensor2D, // [N, in], a factor
  name: string,
  wants: Wants,
  emit: Emit,
): tf.Tensor2D {
  using scope = new TensorScope();
  const dOutput = scope.hold(factorOf(dy));
  const dx: tf.Tensor2D = scope.hold(product(dOutput, weight)); // [N, in]
  if (wants(`${name}.bias`)) emit(`${name}.bias`, tf.sum(dy, 0));
  if (wants(`${name}.weight`)) emit(`${name}.weight`, productFactor(dOutput, input, true));
  return scope.release(dx);
}
