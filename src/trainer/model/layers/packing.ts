/**
 * Texts of different lengths without their padding: one row per real token, text after text. Only attention
 * needs all texts to be of one length; for it the rows are laid out as [B, S, …] and taken back.
 */
import * as tf from '@tensorflow/tfjs-core';
import type { ClassBatch } from '../batch.ts';
import type { TensorScope } from '../tensor-scope.ts';

/** Where the rows of the real tokens are. */
export interface Packing {
  readonly sequences: number; // B
  readonly length: number; // S, of the longest text
  readonly rows: number; // N, real tokens
  /** Row of each place [B·S], the padding's is N; null: there is no padding. */
  readonly rowOfPlace: tf.Tensor1D | null;
  /** Place in [B·S] of each row; null: there is no padding. */
  readonly placeOfRow: tf.Tensor1D | null; // [N]
  /** The row of each text's first token. */
  readonly firstRows: tf.Tensor1D; // [B]
  /** The text of each row. */
  readonly textOfRow: tf.Tensor1D; // [N]
  /** 1 / the tokens of each text. */
  readonly shares: tf.Tensor2D; // [B, 1]
  /** 0 for a key that may be looked at, −∞ for padding; each text's line is there for each of its queries. */
  readonly mask: tf.Tensor3D; // [B, S, S]
}

/** What a row of the embedding is looked up by. */
export interface PackedTokens {
  readonly ids: Int32Array; // [N]
  readonly positions: Int32Array; // [N], counted in the text
  /** null: 0 for all. */
  readonly types: Int32Array | null; // [N]
}

/** The real tokens of a batch, and where they are; the tensors are the scope's. */
export function pack(
  batch: Pick<ClassBatch, 'ids' | 'lengths' | 'types' | 'sequences' | 'length'>,
  scope: TensorScope,
): { packing: Packing; tokens: PackedTokens } {
  const { lengths, sequences, ids, types } = batch;
  const length = lengths.reduce((longest, each) => Math.max(longest, each), 0);
  const rows = lengths.reduce((sum, each) => sum + each, 0);
  const places = sequences * length;
  const placeOfRow = new Int32Array(rows);
  const rowOfPlace = new Int32Array(places).fill(rows);
  const textOfRow = new Int32Array(rows);
  const firstRows = new Int32Array(sequences);
  const positions = new Int32Array(rows);
  const sources = new Int32Array(rows); // in the batch
  const mask = new Float32Array(places * length).fill(-Infinity);
  let row = 0;
  lengths.forEach((own, text) => {
    firstRows[text] = row;
    for (let query = 0; query < length; query++) {
      const line = (text * length + query) * length;
      mask.fill(0, line, line + own);
    }
    for (let position = 0; position < own; position++, row++) {
      const place = text * length + position;
      placeOfRow[row] = place;
      rowOfPlace[place] = row;
      textOfRow[row] = text;
      positions[row] = position;
      sources[row] = text * batch.length + position;
    }
  });
  const isFull = rows === places;
  const indices = (values: Int32Array): tf.Tensor1D => scope.hold(tf.tensor1d(values, 'int32'));
  return {
    packing: {
      sequences,
      length,
      rows,
      rowOfPlace: isFull ? null : indices(rowOfPlace),
      placeOfRow: isFull ? null : indices(placeOfRow),
      firstRows: indices(firstRows),
      textOfRow: indices(textOfRow),
      shares: scope.hold(
        tf.tensor2d(
          Float32Array.from(lengths, (own) => 1 / own),
          [sequences, 1],
        ),
      ),
      mask: scope.hold(tf.tensor3d(mask, [sequences, length, length])),
    },
    tokens: {
      ids: sources.map((source) => ids[source]!),
      positions,
      types: types?.some((type) => type !== 0) ? sources.map((source) => types[source]!) : null,
    },
  };
}

/** [N, …] to [B·S, …] with zeros for padding. */
export function spread(rows: tf.Tensor2D, { rowOfPlace }: Packing): tf.Tensor2D {
  if (rowOfPlace === null) return rows;
  return tf.tidy(() => tf.gather(tf.concat([rows, tf.zeros<tf.Rank.R2>([1, rows.shape[1]])], 0), rowOfPlace));
}

/** [B·S, …] to [N, …]: padding is left out. */
export function gatherRows(places: tf.Tensor2D, { placeOfRow }: Packing): tf.Tensor2D {
  return placeOfRow === null ? places : tf.gather(places, placeOfRow);
}
