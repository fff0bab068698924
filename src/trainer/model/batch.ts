/** What a model is given: rows of token ids, and labels where there is a loss. */
import { TensorShapeError } from '../../errors.ts';

/** Token ids of `sequences` sequences of `length` tokens each, one after the other. */
export interface Tokens {
  readonly ids: Int32Array; // [sequences · length]
  readonly sequences: number;
  readonly length: number;
}

/** What a model learns from. */
export type Batch = TokenBatch | ClassBatch;

/**
 * Tokens and what each position is to predict: the label at a position is the token that FOLLOWS it.
 * The model shifts nothing. A position labelled `IGNORED_LABEL` has no loss.
 */
export interface TokenBatch extends Tokens {
  readonly labels: Int32Array; // [sequences · length]
}

/** Sequences of which each has one label. */
export interface ClassBatch extends Tokens {
  /** Indices into the task's labels. */
  readonly classes: Int32Array; // [sequences]
  /** Tokens of each sequence; behind them there is padding. */
  readonly lengths: Int32Array; // [sequences]
}

/** What a batch has a loss for: its positions with a label, or its sequences. */
export function targetsOf(batch: Batch): number {
  return 'classes' in batch ? batch.sequences : unmaskedRows(batch.labels).length;
}

/** The label of a position that is not to be learned (padding, a prompt, the last token). */
export const IGNORED_LABEL = -100;

/** @throws TensorShapeError if lengths disagree; RangeError for a token id outside the vocabulary */
export function checkTokens(tokens: Tokens, vocabSize: number): void {
  const { ids, sequences, length } = tokens;
  if (sequences < 1 || length < 1 || ids.length !== sequences * length) {
    throw new TensorShapeError(`${ids.length} token ids are not ${sequences} sequences of ${length}`);
  }
  checkRange(ids, vocabSize, 'token id');
}

/** @throws as `checkTokens`, for the labels too */
export function checkBatch(batch: Batch, vocabSize: number): asserts batch is TokenBatch {
  if ('classes' in batch) throw new TensorShapeError('a language model was given sequences with classes');
  checkTokens(batch, vocabSize);
  if (batch.labels.length !== batch.ids.length) {
    throw new TensorShapeError(`${batch.labels.length} labels for ${batch.ids.length} token ids`);
  }
  checkRange(batch.labels, vocabSize, 'label', IGNORED_LABEL);
}

/** The positions that have a loss, ascending. */
export function unmaskedRows(labels: Int32Array): Int32Array {
  let count = 0;
  const rows = new Int32Array(labels.length);
  labels.forEach((label, row) => {
    if (label !== IGNORED_LABEL) rows[count++] = row;
  });
  return rows.subarray(0, count);
}

function checkRange(values: Int32Array, limit: number, what: string, exception?: number): void {
  const at = values.findIndex((value) => (value < 0 || value >= limit) && value !== exception);
  if (at >= 0) {
    throw new RangeError(`${what} ${values[at]} at position ${at} is not in the vocabulary of ${limit}`);
  }
}
