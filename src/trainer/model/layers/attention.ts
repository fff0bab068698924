/**
 * Causal self-attention with grouped queries (Ainslie et al. 2023, arXiv 2305.13245), without biases.
 *
 *   q, k, v = heads of h·Wq', h·Wk', h·Wv';  q, k turned (rotary.ts, which also scales q)
 *   e = exp(q·k' + mask − row maximum),  z = row sums of e,  o = e·v / z,  y = o·Wo'
 *
 * The probabilities e/z are never formed: o and the gradients are divided instead, which are S/headDim
 * times smaller. A key-value head serves the G = H/K query heads that follow each other; their rows
 * are laid out as one matrix of G·S rows, so nothing is repeated and the sum over the group in
 * backward is part of the product.
 */
import * as tf from '@tensorflow/tfjs-core';
import { factorOf, product, productFactor } from '../../../galore/product.ts';
import { softmaxGradient, softmaxParts } from '../passes.ts';
import { TensorScope } from '../tensor-scope.ts';
import type { Emit, Wants } from './emit.ts';
import { rotateBackward, rotateForward } from './rotary.ts';

export interface AttentionWeights {
  readonly query: tf.Tensor2D; // [H·headDim, D]
  readonly key: tf.Tensor2D; // [K·headDim, D]
  readonly value: tf.Tensor2D; // [K·headDim, D]
  readonly output: tf.Tensor2D; // [D, H·headDim]
}

/** Sizes of one call; the rows of [N, …] matrices are sequence after sequence, N = B·S. */
export interface AttentionShape {
  readonly sequences: number; // B
  readonly length: number; // S
  readonly heads: number; // H
  readonly keyValueHeads: number; // K
  readonly headDim: number;
}

/** Constants of one call. */
export interface AttentionTables {
  readonly cos: tf.Tensor3D; // [H + K, S, headDim]
  readonly sin: tf.Tensor3D; // [H + K, S, headDim]
  readonly mask: tf.Tensor2D; // [G·S, keys], 0 where a query may look and −∞ where not
}

/** Heads, ready to attend. */
export type Heads = {
  readonly query: tf.Tensor4D; // [B, K, G·S, headDim], turned and scaled
  readonly key: tf.Tensor4D; // [B, K, S, headDim], turned
  readonly value: tf.Tensor4D; // [B, K, S, headDim]
};

/** What backward needs of forward. */
export type AttentionSaved = Heads & {
  readonly input: tf.Tensor2D; // [N, D], h, a factor
  readonly exponentials: tf.Tensor4D; // [B, K, G·S, S], e, a factor
  readonly sums: tf.Tensor4D; // [B, K, G·S, 1], z
  readonly attended: tf.Tensor4D; // [B, K, G·S, headDim], o
  readonly merged: tf.Tensor2D; // [N, H·headDim], o in rows, a factor
};

/** Computes y and what backward needs; `input`, a factor (product.ts), belongs to what is saved. */
export function attentionForward(
  input: tf.Tensor2D, // [N, D]
  weights: AttentionWeights,
  shape: AttentionShape,
  tables: AttentionTables,
): { y: tf.Tensor2D; saved: AttentionSaved } {
  return tf.tidy(() => {
    const heads = asFactors(projectHeads(input, weights, shape, tables));
    const { exponentials, sums, attended } = attend(heads, tables.mask);
    const merged = factorOf(mergeHeads(attended, shape));
    const y: tf.Tensor2D = product(merged, weights.output, false, true); // [N, D]
    return { y, saved: { input, ...heads, exponentials, sums, attended, merged } };
  });
}

/** Queries, keys and values of the rows of `input`, as heads. */
export function projectHeads(
  input: tf.Tensor2D, // [N, D]
  weights: AttentionWeights,
  shape: AttentionShape,
  tables: Pick<AttentionTables, 'cos' | 'sin'>,
): Heads {
  const { sequences, length, heads, keyValueHeads, headDim } = shape;
  return tf.tidy(() => {
    const all: tf.Tensor4D = tf.tidy(() => {
      const rows: tf.Tensor2D = product(input, stackWeights(weights), false, true); // [N, (H + 2K)·headDim]
      const split = tf.reshape<tf.Rank.R4>(rows, [sequences, length, heads + 2 * keyValueHeads, headDim]);
      return tf.transpose(split, [0, 2, 1, 3]); // [B, H + 2K, S, headDim]
    });
    const [turnable, value] = tf.split(all, [heads + keyValueHeads, keyValueHeads], 1) as [
      tf.Tensor4D,
      tf.Tensor4D,
    ];
    all.dispose();
    const turned = rotateForward(turnable, tables.cos, tables.sin);
    turnable.dispose();
    const [query, key] = tf.split(turned, [heads, keyValueHeads], 1) as [tf.Tensor4D, tf.Tensor4D];
    turned.dispose();
    return { query: groupHeads(query, shape), key, value };
  });
}

/** o = softmax(q·k' + mask)·v, with the parts of the softmax that backward needs. */
export function attend(
  { query, key, value }: Heads,
  mask: tf.Tensor2D, // [G·S, keys]
): Pick<AttentionSaved, 'exponentials' | 'sums' | 'attended'> {
  return tf.tidy(() => {
    const { exponentials, sums } = tf.tidy(() => softmaxParts(productFactor(query, key, false, true), mask)); // [B, K, G·S, keys], [B, K, G·S, 1]
    const attended: tf.Tensor4D = tf.div(product(exponentials, value), sums);
    return { exponentials, sums, attended };
  });
}

/** The weights whose gradients come from one product. */
const INPUTS = ['self_attn.q_proj.weight', 'self_attn.k_proj.weight', 'self_attn.v_proj.weight'];

/**
 * Hands out the four weight gradients and returns dh. With dô = do / z and δ = row sums of dô·o:
 *
 *   dv = e'·dô,  ds = e·(dô·v' − δ),  dq = ds·k,  dk = ds'·q
 */
export function attentionBackward(
  dy: tf.Tensor2D, // [N, D]
  weights: AttentionWeights,
  shape: AttentionShape,
  tables: AttentionTables,
  saved: AttentionSaved,
  emit: Emit,
  wants: Wants = () => true,
): tf.Tensor2D {
  const { keyValueHeads, heads, headDim } = shape;
  using scope = new TensorScope();
  const dOutput = scope.hold(factorOf(dy));
  const dAttended = scope.hold(tf.tidy(() => splitHeads(product(dOutput, weights.output), shape)));
  if (wants('self_attn.o_proj.weight')) {
    emit('self_attn.o_proj.weight', productFactor(dOutput, saved.merged, true));
  }
  scope.free(dOutput);
  const dRows = scope.hold(
    tf.tidy(() => {
      const { dQuery, dKey, dValue } = attendBackward(dAttended, saved);
      const dTurned = tf.concat([ungroupHeads(dQuery, shape), dKey], 1); // [B, H + K, S, headDim]
      const dAll = tf.concat([rotateBackward(dTurned, tables.cos, tables.sin), dValue], 1);
      return factorOf(tf.reshape<tf.Rank.R2>(tf.transpose(dAll, [0, 2, 1, 3]), [dy.shape[0], -1]));
    }),
  ); // [N, (H + 2K)·headDim]
  scope.free(dAttended);
  const dInput: tf.Tensor2D = scope.hold(tf.tidy(() => product(dRows, stackWeights(weights)))); // [N, D]
  if (!INPUTS.some(wants)) return scope.release(dInput);
  const widths = [heads * headDim, keyValueHeads * headDim, keyValueHeads * headDim];
  const [dQueryWeight, dKeyWeight, dValueWeight] = tf.tidy(() =>
    tf.split(product(dRows, saved.input, true), widths, 0),
  ) as [tf.Tensor, tf.Tensor, tf.Tensor];
  scope.hold(dKeyWeight);
  scope.hold(dValueWeight);
  emit('self_attn.q_proj.weight', dQueryWeight);
  emit('self_attn.k_proj.weight', scope.release(dKeyWeight));
  emit('self_attn.v_proj.weight', scope.release(dValueWeight));
  return scope.release(dInput);
}

function attendBackward(
  dAttended: tf.Tensor4D, // [B, K, G·S, headDim]
  saved: AttentionSaved,
): { dQuery: tf.Tensor4D; dKey: tf.Tensor4D; dValue: tf.Tensor4D } {
  const { query, key, value, exponentials, sums, attended } = saved;
  return tf.tidy(() => {
    const [divided, delta] = tf.tidy(() => {
      const exact: tf.Tensor4D = tf.div(dAttended, sums);
      return [factorOf(exact), tf.sum<tf.Tensor4D>(tf.mul(exact, attended), -1, true)];
    }) as [tf.Tensor4D, tf.Tensor4D]; // [B, K, G·S, headDim], [B, K, G·S, 1]
    const dValue: tf.Tensor4D = product(exponentials, divided, true); // [B, K, S, headDim]
    const dScores: tf.Tensor4D = tf.tidy(() =>
      softmaxGradient(exponentials, productFactor(divided, value, false, true), delta),
    ); // [B, K, G·S, S]
    const dQuery: tf.Tensor4D = product(dScores, key); // [B, K, G·S, headDim]
    const dKey: tf.Tensor4D = product(dScores, query, true); // [B, K, S, headDim]
    return { dQuery, dKey, dValue };
  });
}

/** The heads as the products take them; disposes those given. */
function asFactors(heads: Heads): Heads {
  const [query, key, value] = [heads.query, heads.key, heads.value].map(factorOf) as [
    tf.Tensor4D,
    tf.Tensor4D,
    tf.Tensor4D,
  ];
  tf.dispose([heads.query, heads.key, heads.value]);
  return { query, key, value };
}

/** The three matrices as one, so that one product serves all heads; a copy of D·(H + 2K)·headDim numbers. */
function stackWeights(weights: AttentionWeights): tf.Tensor2D {
  return tf.concat([weights.query, weights.key, weights.value], 0); // [(H + 2K)·headDim, D]
}

/** [B, H, S, headDim] to [B, K, G·S, headDim]. */
function groupHeads(x: tf.Tensor4D, shape: AttentionShape): tf.Tensor4D {
  const { sequences, length, heads, keyValueHeads, headDim } = shape;
  if (heads === keyValueHeads) return x;
  return tf.reshape(x, [sequences, keyValueHeads, (heads / keyValueHeads) * length, headDim]);
}

/** [B, K, G·S, headDim] to [B, H, S, headDim]. */
function ungroupHeads(x: tf.Tensor4D, { sequences, length, heads, headDim }: AttentionShape): tf.Tensor4D {
  return x.shape[1] === heads ? x : tf.reshape(x, [sequences, heads, length, headDim]);
}

/** [N, H·headDim] to [B, K, G·S, headDim]. */
function splitHeads(rows: tf.Tensor2D, shape: AttentionShape): tf.Tensor4D {
  const { sequences, length, heads, headDim } = shape;
  const split = tf.reshape<tf.Rank.R4>(rows, [sequences, length, heads, headDim]);
  return groupHeads(tf.transpose(split, [0, 2, 1, 3]), shape);
}

/** [B, K, G·S, headDim] to [N, H·headDim]. */
export function mergeHeads(x: tf.Tensor4D, shape: AttentionShape): tf.Tensor2D {
  return tf.tidy(() => {
    const rows = tf.transpose(ungroupHeads(x, shape), [0, 2, 1, 3]); // [B, S, H, headDim]
    return tf.reshape(rows, [shape.sequences * shape.length, shape.heads * shape.headDim]);
  });
}
