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
  /** Indices into the task's labels; `UNKNOWN_CLASS`: there is no loss. */
  readonly classes: Int32Array; // [sequences]
  /** Tokens of each sequence, at least one; behind them there is padding, which is not looked at. */
  readonly lengths: Int32Array; // [sequences]
  /** The type of each token; absent: 0 for all. */
  readonly types?: Int32Array; // [sequences · length]
}

/** The class of a sequence that is to be told. */
export const UNKNOWN_CLASS = -1;

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

/** @throws as `checkTokens`, for classes, types and lengths too */
export function checkClassBatch(
  batch: Batch,
  model: { readonly vocabSize: number; readonly typeVocabSize: number; readonly labels: readonly string[] },
): asserts batch is ClassBatch {
  if (!('classes' in batch)) throw new TensorShapeError('a classifier was given sequences without classes');
  checkTokens(batch, model.vocabSize);
  const { classes, lengths, types, sequences, ids, length } = batch;
  if (classes.length !== sequences || lengths.length !== sequences) {
    throw new TensorShapeError(
      `${classes.length} classes and ${lengths.length} lengths for ${sequences} sequences`,
    );
  }
  if (types !== undefined && types.length !== ids.length) {
    throw new TensorShapeError(`${types.length} token types for ${ids.length} token ids`);
  }
  const count = model.labels.length;
  const none = classes.findIndex((value) => (value < 0 || value >= count) && value !== UNKNOWN_CLASS);
  if (none >= 0) throw new RangeError(`class ${classes[none]} of sequence ${none} is none of ${count}`);
  const other = types?.findIndex((value) => value < 0 || value >= model.typeVocabSize) ?? -1;
  if (other >= 0) throw new RangeError(`token type ${types![other]} at position ${other} is unknown`);
  const at = lengths.findIndex((value) => value < 1 || value > length);
  if (at >= 0) throw new RangeError(`sequence ${at} has ${lengths[at]} tokens in a row of ${length}`);
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
