/**
 * LayerNorm (Ba, Kiros and Hinton 2016, arXiv 1607.06450), over the last dimension of [N, D].
 *
 *   x̂ = (x − mean(x)) / sqrt(mean((x − mean(x))²) + eps),  y = x̂·w + b
 */
import * as tf from '@tensorflow/tfjs-core';
import { layerNorm, layerNormGradient } from '../passes.ts';
import { TensorScope } from '../tensor-scope.ts';
import type { Emit, Wants } from './emit.ts';

export interface LayerNormWeights {
  readonly weight: tf.Tensor1D; // [D]
  readonly bias: tf.Tensor1D; // [D]
}

/** What backward needs of forward. */
export type LayerNormSaved = {
  readonly unit: tf.Tensor2D; // [N, D], x̂
  readonly inverse: tf.Tensor2D; // [N, 1], 1 / sqrt(variance + eps)
};

/** Computes y and what backward needs. */
export function layerNormForward(
  x: tf.Tensor2D, // [N, D]
  { weight, bias }: LayerNormWeights,
  eps: number,
): { y: tf.Tensor2D; saved: LayerNormSaved } {
  return tf.tidy(() => {
    const { y, unit, inverse } = layerNorm(x, weight, bias, eps);
    return { y, saved: { unit, inverse } };
  });
}

/** dx and the gradients of weight and bias. */
export function layerNormBackward(
  dy: tf.Tensor2D, // [N, D]
  weight: tf.Tensor1D, // [D]
  { unit, inverse }: LayerNormSaved,
): { dx: tf.Tensor2D; dWeight: tf.Tensor1D; dBias: tf.Tensor1D } {
  return layerNormGradient(dy, unit, weight, inverse);
}

/** Hands out the gradients that are wanted, by the names of the LayerNorm of the part `part`, and returns dx. */
export function normBackward(
  dy: tf.Tensor2D, // [N, D]
  { weight }: LayerNormWeights,
  saved: LayerNormSaved,
  part: string, // '' or ending with a dot
  wants: Wants,
  emit: Emit,
): tf.Tensor2D {
  using scope = new TensorScope();
  const { dx, dWeight, dBias } = scope.hold(layerNormBackward(dy, weight, saved));
  if (wants(`${part}LayerNorm.weight`)) emit(`${part}LayerNorm.weight`, tf.clone(dWeight));
  if (wants(`${part}LayerNorm.bias`)) emit(`${part}LayerNorm.bias`, tf.clone(dBias));
  return tf.clone(dx);
}
