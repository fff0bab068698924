/** What an encoder begins with: x = norm(E[id] + P[position] + T[type]), one row per token. */
import * as tf from '@tensorflow/tfjs-core';
import type { Emit, Wants } from './emit.ts';
import { layerNormForward, normBackward, type LayerNormSaved, type LayerNormWeights } from './layer-norm.ts';
import type { PackedTokens } from './packing.ts';

export interface EncoderEmbeddingWeights {
  readonly words: tf.Tensor2D; // [V, D], E
  readonly positions: tf.Tensor2D; // [most positions, D], P
  readonly types: tf.Tensor2D; // [token types, D], T
  readonly norm: LayerNormWeights;
}

/** Computes x and what backward needs. */
export function encoderEmbeddingForward(
  { ids, positions, types }: PackedTokens,
  weights: EncoderEmbeddingWeights,
  eps: number,
): { y: tf.Tensor2D; saved: LayerNormSaved } {
  return tf.tidy(() => {
    const sum = tf.tidy(() => {
      const placed = tf.add(rowsOf(weights.words, ids), rowsOf(weights.positions, positions));
      return tf.add(
        placed,
        types === null ? tf.slice(weights.types, 0, 1) : rowsOf(weights.types, types),
      ) as tf.Tensor2D;
    });
    return layerNormForward(sum, weights.norm, eps);
  });
}

/** Hands out the gradients that are wanted. */
export function encoderEmbeddingBackward(
  dx: tf.Tensor2D, // [N, D]
  { ids, positions, types }: PackedTokens,
  weights: EncoderEmbeddingWeights,
  saved: LayerNormSaved,
  wants: Wants,
  emit: Emit,
): void {
  const dSum = normBackward(dx, weights.norm, saved, '', wants, emit);
  try {
    const handOut = (name: string, indices: Int32Array, rows: number): void => {
      if (wants(name)) emit(name, sumsByIndex(dSum, indices, rows));
    };
    handOut('token_type_embeddings.weight', types ?? new Int32Array(ids.length), weights.types.shape[0]);
    handOut('position_embeddings.weight', positions, weights.positions.shape[0]);
    handOut('word_embeddings.weight', ids, weights.words.shape[0]);
  } finally {
    dSum.dispose();
  }
}

function rowsOf(matrix: tf.Tensor2D, rows: Int32Array): tf.Tensor2D {
  return tf.tidy(() => tf.gather(matrix, tf.tensor1d(rows, 'int32')));
}

/** Row t is the sum of the rows of `x` whose index is t. */
function sumsByIndex(x: tf.Tensor2D, indices: Int32Array, rows: number): tf.Tensor2D {
  return tf.tidy(() => tf.unsortedSegmentSum(x, tf.tensor1d(indices, 'int32'), rows));
}
