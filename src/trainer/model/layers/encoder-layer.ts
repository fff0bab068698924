/**
 * One encoder layer: m = norm(x + attention(x)), y = norm(m + feed-forward(m)), where the feed-forward layer is
 *
 *   h = m·W1' + b1,  a = gelu(h),  a·W2' + b2
 *
 * Forward keeps what backward needs; a caller short of memory disposes it and calls forward again from the layer's
 * input.
 */
import * as tf from '@tensorflow/tfjs-core';
import { factorOf, productFactor } from '../../../galore/product.ts';
import { gelu, geluGradient } from '../passes.ts';
import { TensorScope } from '../tensor-scope.ts';
import type { Emit, Wants } from './emit.ts';
import {
  encoderAttentionBackward,
  encoderAttentionForward,
  type EncoderAttentionSaved,
  type EncoderAttentionWeights,
} from './encoder-attention.ts';
import { layerNormForward, type LayerNormSaved, type LayerNormWeights, normBackward } from './layer-norm.ts';
import { linearBackward, linearForward, type LinearWeights } from './linear.ts';
import type { Packing } from './packing.ts';

export interface EncoderLayerWeights {
  readonly attention: EncoderAttentionWeights;
  readonly attentionNorm: LayerNormWeights;
  readonly up: LinearWeights; // [F, D]
  readonly down: LinearWeights; // [D, F]
  readonly outputNorm: LayerNormWeights;
}

/** What is the same for every layer of a call. */
export interface EncoderContext {
  readonly heads: number;
  readonly eps: number;
  readonly packing: Packing;
}

/** What backward needs of forward. */
export type EncoderLayerSaved = {
  readonly attention: EncoderAttentionSaved;
  readonly attentionNorm: LayerNormSaved;
  readonly middle: tf.Tensor2D; // [N, D], m, a factor
  readonly up: tf.Tensor2D; // [N, F], h without its bias, a factor
  readonly activation: tf.Tensor2D; // [N, F], a, a factor
  readonly outputNorm: LayerNormSaved;
};

/** Computes the layer's output and what backward needs. */
export function encoderLayerForward(
  x: tf.Tensor2D, // [N, D]
  weights: EncoderLayerWeights,
  { heads, eps, packing }: EncoderContext,
): { y: tf.Tensor2D; saved: EncoderLayerSaved } {
  return tf.tidy(() => {
    const attention = encoderAttentionForward(factorOf(x), weights.attention, heads, packing);
    const first = tf.tidy(() => layerNormForward(tf.add(x, attention.y), weights.attentionNorm, eps));
    attention.y.dispose();
    const middle = factorOf(first.y);
    const up: tf.Tensor2D = productFactor(middle, weights.up.weight, false, true);
    const activation = gelu(up, weights.up.bias);
    const second = tf.tidy(() =>
      layerNormForward(tf.add(first.y, linearForward(activation, weights.down)), weights.outputNorm, eps),
    );
    first.y.dispose();
    const saved = {
      attention: attention.saved,
      attentionNorm: first.saved,
      ...{ middle, up, activation },
      outputNorm: second.saved,
    };
    return { y: second.y, saved };
  });
}

/**
 * Hands out the gradients that are wanted and returns dx. What was saved is partly disposed on the way; the caller
 * disposes the rest.
 */
export function encoderLayerBackward(
  dy: tf.Tensor2D, // [N, D]
  weights: EncoderLayerWeights,
  { heads, packing }: EncoderContext,
  saved: EncoderLayerSaved,
  wants: Wants,
  emit: Emit,
): tf.Tensor2D {
  using scope = new TensorScope();
  const { middle, up, activation } = saved;
  const dSecond = scope.hold(normBackward(dy, weights.outputNorm, saved.outputNorm, 'output.', wants, emit));
  tf.dispose(saved.outputNorm);
  const dActivation = scope.hold(
    linearBackward(dSecond, weights.down.weight, activation, 'output.dense', wants, emit),
  );
  activation.dispose();
  const dUp = scope.hold(geluGradient(dActivation, up, weights.up.bias));
  scope.free(dActivation);
  up.dispose();
  const dForward = scope.hold(
    linearBackward(dUp, weights.up.weight, middle, 'intermediate.dense', wants, emit),
  );
  scope.free(dUp);
  const dMiddle: tf.Tensor2D = scope.hold(tf.add(dSecond, dForward));
  scope.free(dSecond);
  scope.free(dForward);
  const dFirst = scope.hold(
    normBackward(dMiddle, weights.attentionNorm, saved.attentionNorm, 'attention.output.', wants, emit),
  );
  scope.free(dMiddle);
  const dInput = scope.hold(
    encoderAttentionBackward(dFirst, weights.attention, heads, packing, saved.attention, wants, emit),
  );
  return tf.add(dFirst, dInput);
}
