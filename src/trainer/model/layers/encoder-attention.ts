/**
 * Self-attention of an encoder (Vaswani et al. 2017, arXiv 1706.03762): every token looks at all of its text.
 *
 *   q, k, v = heads of x·Wq' + bq, x·Wk' + bk, x·Wv' + bv,  s = 1/√headDim
 *   e = exp(s·q·k' + mask − row maximum),  z = row sums of e,  o = e·v / z,  y = o·Wo' + bo
 *
 * As in attention.ts, e/z is never formed, and the three projections are one product. The scale is in the
 * stacked query weights. Heads come before texts, so that one mask [B·S, S] serves all heads.
 */
import * as tf from '@tensorflow/tfjs-core';
import { factorOf, product, productFactor } from '../../../galore/product.ts';
import { softmaxGradient, softmaxParts } from '../passes.ts';
import { TensorScope } from '../tensor-scope.ts';
import type { Emit, Wants } from './emit.ts';
import { linearBackward, linearForward, type LinearWeights } from './linear.ts';
import { gatherRows, spread, type Packing } from './packing.ts';

export interface EncoderAttentionWeights {
  readonly query: LinearWeights; // [D, D]
  readonly key: LinearWeights; // [D, D]
  readonly value: LinearWeights; // [D, D]
  readonly output: LinearWeights; // [D, D]
}

/** What backward needs of forward. */
export type EncoderAttentionSaved = {
  readonly input: tf.Tensor2D; // [N, D], x, a factor
  readonly query: tf.Tensor4D; // [H, B, S, headDim], scaled, a factor
  readonly key: tf.Tensor4D; // [H, B, S, headDim], a factor
  readonly value: tf.Tensor4D; // [H, B, S, headDim], a factor
  readonly exponentials: tf.Tensor4D; // [H, B, S, S], e, a factor
  readonly sums: tf.Tensor4D; // [H, B, S, 1], z
  readonly attended: tf.Tensor4D; // [H, B, S, headDim], o
  readonly merged: tf.Tensor2D; // [N, D], o in rows, a factor
};

/** Computes y and what backward needs; `input`, a factor (product.ts), belongs to what is saved. */
export function encoderAttentionForward(
  input: tf.Tensor2D, // [N, D]
  weights: EncoderAttentionWeights,
  heads: number,
  packing: Packing,
): { y: tf.Tensor2D; saved: EncoderAttentionSaved } {
  return tf.tidy(() => {
    const { query, key, value } = projectHeads(input, weights, heads, packing);
    const { exponentials, sums } = tf.tidy(() =>
      softmaxParts(productFactor(query, key, false, true), packing.mask),
    );
    const attended: tf.Tensor4D = tf.div(product(exponentials, value), sums);
    const merged = tf.tidy(() => factorOf(gatherRows(mergeHeads(attended), packing)));
    const y = linearForward(merged, weights.output);
    return { y, saved: { input, query, key, value, exponentials, sums, attended, merged } };
  });
}

function projectHeads(
  input: tf.Tensor2D, // [N, D]
  weights: EncoderAttentionWeights,
  heads: number,
  packing: Packing,
): Pick<EncoderAttentionSaved, 'query' | 'key' | 'value'> {
  return tf.tidy(() => {
    const all = tf.tidy(() => {
      const rows = linearForward(input, stackWeights(weights, heads)); // [N, 3D]
      return splitHeads(spread(rows, packing), 3 * heads, packing); // [3H, B, S, headDim]
    });
    const [query, key, value] = tf.split(all, 3, 0).map(factorOf) as [tf.Tensor4D, tf.Tensor4D, tf.Tensor4D];
    return { query, key, value };
  });
}

/**
 * Hands out the gradients of the eight weights and returns dx. With dô = do / z and δ = row sums of dô·o:
 *
 *   dv = e'·dô,  ds = e·(dô·v' − δ),  dq = ds·k,  dk = ds'·q
 */
export function encoderAttentionBackward(
  dy: tf.Tensor2D, // [N, D]
  weights: EncoderAttentionWeights,
  heads: number,
  packing: Packing,
  saved: EncoderAttentionSaved,
  wants: Wants,
  emit: Emit,
): tf.Tensor2D {
  using scope = new TensorScope();
  const dMerged = scope.hold(
    linearBackward(dy, weights.output.weight, saved.merged, 'attention.output.dense', wants, emit),
  );
  const dRows = scope.hold(
    tf.tidy(() => {
      const dAttended = splitHeads(spread(dMerged, packing), heads, packing);
      return gatherRows(mergeHeads(attendBackward(dAttended, saved)), packing);
    }),
  ); // [N, 3D]
  scope.free(dMerged);
  const stacked = scope.hold(stackWeights(weights, heads));
  const dFactor = scope.hold(factorOf(dRows));
  const dInput: tf.Tensor2D = scope.hold(product(dFactor, stacked.weight)); // [N, D]
  const scale = scaleOf(dy.shape[1], heads);
  const names = ['query', 'key', 'value'] as const;
  if (names.some((name) => wants(`attention.self.${name}.weight`))) {
    handOut(product(dFactor, saved.input, true), 'weight');
  }
  if (names.some((name) => wants(`attention.self.${name}.bias`))) handOut(tf.sum(dRows, 0), 'bias');
  return scope.release(dInput);

  function handOut(gradient: tf.Tensor, part: 'weight' | 'bias'): void {
    const parts = tf.tidy(() => {
      const [query, key, value] = tf.split(gradient, 3, 0) as [tf.Tensor, tf.Tensor, tf.Tensor];
      return { query: tf.mul(query, scale) as tf.Tensor, key, value };
    });
    gradient.dispose();
    scope.hold(parts);
    for (const name of names) {
      if (wants(`attention.self.${name}.${part}`)) {
        emit(`attention.self.${name}.${part}`, tf.clone(parts[name]));
      }
    }
    scope.free(parts);
  }
}

/** The gradients of the heads of q, k and v, one after the other. */
function attendBackward(
  dAttended: tf.Tensor4D, // [H, B, S, headDim]
  saved: EncoderAttentionSaved,
): tf.Tensor4D {
  const { query, key, value, exponentials, sums, attended } = saved;
  return tf.tidy(() => {
    const [divided, delta] = tf.tidy(() => {
      const exact: tf.Tensor4D = tf.div(dAttended, sums);
      return [factorOf(exact), tf.sum<tf.Tensor4D>(tf.mul(exact, attended), -1, true)];
    }) as [tf.Tensor4D, tf.Tensor4D]; // [H, B, S, headDim], [H, B, S, 1]
    const dValue: tf.Tensor4D = product(exponentials, divided, true);
    const dScores: tf.Tensor4D = tf.tidy(() =>
      softmaxGradient(exponentials, productFactor(divided, value, false, true), delta),
    ); // [H, B, S, S]
    const dQuery: tf.Tensor4D = product(dScores, key);
    const dKey: tf.Tensor4D = product(dScores, query, true);
    return tf.concat([dQuery, dKey, dValue], 0); // [3H, B, S, headDim]
  });
}

function scaleOf(width: number, heads: number): number {
  return 1 / Math.sqrt(width / heads);
}

/** The three layers as one whose queries are scaled; a copy of 3·D² numbers. */
function stackWeights(
  { query, key, value }: EncoderAttentionWeights,
  heads: number,
): LinearWeights & tf.TensorContainerObject {
  return tf.tidy(() => {
    const scale = scaleOf(query.weight.shape[1], heads);
    return {
      weight: tf.concat([tf.mul(query.weight, scale) as tf.Tensor2D, key.weight, value.weight], 0), // [3D, D]
      bias: tf.concat([tf.mul(query.bias, scale) as tf.Tensor1D, key.bias, value.bias], 0), // [3D]
    };
  });
}

/** [B·S, heads·headDim] to [heads, B, S, headDim]. */
function splitHeads(places: tf.Tensor2D, heads: number, { sequences, length }: Packing): tf.Tensor4D {
  const split = tf.reshape<tf.Rank.R4>(places, [sequences, length, heads, -1]);
  return tf.transpose(split, [2, 0, 1, 3]);
}

/** [heads, B, S, headDim] to [B·S, heads·headDim]. */
function mergeHeads(x: tf.Tensor4D): tf.Tensor2D {
  const [heads, sequences, length, headDim] = x.shape;
  return tf.reshape(tf.transpose(x, [1, 2, 0, 3]), [sequences * length, heads * headDim]);
}
