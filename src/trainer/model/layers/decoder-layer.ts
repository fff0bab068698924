/**
 * One decoder layer: x → x + attention(norm(x)) → that + feed-forward(norm(that)). Forward keeps what
 * backward needs; a caller short of memory disposes it and calls forward again from the layer's input.
 */
import * as tf from '@tensorflow/tfjs-core';
import { factorOf, product } from '../../../galore/product.ts';
import type { KeyValueCache } from '../key-value-cache.ts';
import { TensorScope } from '../tensor-scope.ts';
import {
  attend,
  attentionBackward,
  attentionForward,
  mergeHeads,
  projectHeads,
  type AttentionSaved,
  type AttentionShape,
  type AttentionTables,
  type AttentionWeights,
} from './attention.ts';
import type { Emit, Wants } from './emit.ts';
import { rmsNormBackward, rmsNormForward, type RmsNormSaved } from './rms-norm.ts';
import {
  swigluActivate,
  swigluBackward,
  swigluOutput,
  type SwigluSaved,
  type SwigluWeights,
} from './swiglu.ts';

export interface DecoderLayerWeights {
  readonly inputNorm: tf.Tensor1D; // [D]
  readonly attention: AttentionWeights;
  readonly postAttentionNorm: tf.Tensor1D; // [D]
  readonly mlp: SwigluWeights;
}

/** What is the same for every layer of a call. */
export interface DecoderContext {
  readonly shape: AttentionShape;
  readonly tables: AttentionTables;
  readonly eps: number;
}

/** What backward needs of forward. */
export type DecoderLayerSaved = {
  readonly inputNorm: RmsNormSaved;
  readonly attention: AttentionSaved;
  readonly postAttentionNorm: RmsNormSaved;
  readonly mlp: SwigluSaved;
};

/** Computes the layer's output and what backward needs. */
export function decoderLayerForward(
  x: tf.Tensor2D, // [N, D]
  weights: DecoderLayerWeights,
  context: DecoderContext,
): { y: tf.Tensor2D; saved: DecoderLayerSaved } {
  return tf.tidy(() => {
    const { middle, saved } = throughActivation(x, weights, context);
    return { y: tf.add(middle, swigluOutput(saved.mlp, weights.mlp)), saved };
  });
}

/** What backward needs, from the layer's input: forward without its last product. */
export function decoderLayerRecompute(
  x: tf.Tensor2D, // [N, D]
  weights: DecoderLayerWeights,
  context: DecoderContext,
): DecoderLayerSaved {
  return tf.tidy(() => throughActivation(x, weights, context).saved);
}

function throughActivation(
  x: tf.Tensor2D, // [N, D]
  weights: DecoderLayerWeights,
  context: DecoderContext,
): { middle: tf.Tensor2D; saved: DecoderLayerSaved } {
  return tf.tidy(() => {
    const first = rmsNormForward(x, weights.inputNorm, context.eps);
    const attention = attentionForward(factorOf(first.y), weights.attention, context.shape, context.tables);
    const middle: tf.Tensor2D = tf.add(x, attention.y); // [N, D]
    attention.y.dispose();
    const second = rmsNormForward(middle, weights.postAttentionNorm, context.eps);
    return {
      middle,
      saved: {
        inputNorm: first.saved,
        attention: attention.saved,
        postAttentionNorm: second.saved,
        mlp: swigluActivate(factorOf(second.y), weights.mlp),
      },
    };
  });
}

/**
 * Hands out the layer's nine weight gradients and returns dx. What was saved is partly disposed on the
 * way; the caller disposes the rest.
 */
export function decoderLayerBackward(
  dy: tf.Tensor2D, // [N, D]
  weights: DecoderLayerWeights,
  context: DecoderContext,
  saved: DecoderLayerSaved,
  emit: Emit,
  wants: Wants = () => true,
): tf.Tensor2D {
  using scope = new TensorScope();
  const dSecond = scope.hold(swigluBackward(dy, weights.mlp, saved.mlp, emit, wants));
  tf.dispose(saved.mlp);
  const second = rmsNormBackward(dSecond, weights.postAttentionNorm, saved.postAttentionNorm);
  scope.free(dSecond);
  scope.hold(second.dx);
  emit('post_attention_layernorm.weight', second.dWeight);
  const dMiddle: tf.Tensor2D = scope.hold(tf.add(dy, second.dx));
  scope.free(second.dx);
  const dFirst = scope.hold(
    attentionBackward(
      dMiddle,
      weights.attention,
      context.shape,
      context.tables,
      saved.attention,
      emit,
      wants,
    ),
  );
  const first = rmsNormBackward(dFirst, weights.inputNorm, saved.inputNorm);
  scope.hold(first.dx);
  emit('input_layernorm.weight', first.dWeight);
  return tf.add(dMiddle, first.dx);
}

/** The layer's output for new tokens after those in `cache`; their keys and values are added to it. */
export function decoderLayerWithCache(
  x: tf.Tensor2D, // [new tokens, D]
  weights: DecoderLayerWeights,
  context: DecoderContext,
  cache: KeyValueCache,
  layer: number,
): tf.Tensor2D {
  const { shape, tables, eps } = context;
  return tf.tidy(() => {
    const input = rmsNormForward(x, weights.inputNorm, eps).y;
    const heads = cache.extend(layer, projectHeads(input, weights.attention, shape, tables));
    const merged = mergeHeads(attend(heads, tables.mask).attended, shape);
    const middle: tf.Tensor2D = tf.add(x, product(merged, weights.attention.output, false, true));
    const second = rmsNormForward(middle, weights.postAttentionNorm, eps).y;
    return tf.add(middle, swigluOutput(swigluActivate(second, weights.mlp), weights.mlp));
  });
}
