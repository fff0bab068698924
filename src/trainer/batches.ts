/** Sequences as they come over the wire, cut into micro-batches of inputs and aligned labels. Pure. */
import type { Sequences } from '../protocol/messages.ts';
import { IGNORED_LABEL, type Batch } from './model/batch.ts';

/**
 * Sequence k of length + 1 tokens gives `length` inputs and the same shifted by one as labels; masked
 * labels become IGNORED_LABEL; sequences to be classified stay as they are. At most `microBatch` sequences a batch, in order.
 */
export function toBatches(sequences: Sequences, microBatch: number): readonly Batch[] {
  return batchesOf(sequences, 0, sequences.positions.length, microBatch);
}

/**
 * The same for local steps: consecutive parts of the sequences, as equal as can be, each in micro-batches. There
 * are `localSteps` of them, or as many as there are sequences if those are fewer.
 */
export function toLocalBatches(
  sequences: Sequences,
  microBatch: number,
  localSteps: number,
): readonly (readonly Batch[])[] {
  const count = sequences.positions.length;
  const parts = Math.min(localSteps, count);
  const startOf = (part: number): number => Math.floor((part * count) / parts);
  return Array.from({ length: parts }, (_, part) =>
    batchesOf(sequences, startOf(part), startOf(part + 1), microBatch),
  );
}

function batchesOf(sequences: Sequences, from: number, to: number, microBatch: number): readonly Batch[] {
  const batches: Batch[] = [];
  for (let start = from; start < to; start += microBatch) {
    batches.push(toBatch(sequences, start, Math.min(start + microBatch, to)));
  }
  return batches;
}

function toBatch(sequences: Sequences, start: number, end: number): Batch {
  const { tokens, mask, length, labelled } = sequences;
  if (labelled !== undefined) {
    return {
      ids: tokens.slice(start * length, end * length),
      classes: labelled.classes.slice(start, end),
      lengths: labelled.lengths.slice(start, end),
      sequences: end - start,
      length,
    };
  }
  const inputs = length - 1;
  const ids = new Int32Array((end - start) * inputs);
  const labels = new Int32Array((end - start) * inputs);
  for (let row = start; row < end; row++) {
    const to = (row - start) * inputs;
    ids.set(tokens.subarray(row * length, row * length + inputs), to);
    labels.set(tokens.subarray(row * length + 1, (row + 1) * length), to);
    if (mask.length === 0) continue;
    for (let i = 0; i < inputs; i++) if (mask[row * inputs + i] === 0) labels[to + i] = IGNORED_LABEL;
  }
  return { ids, labels, sequences: end - start, length: inputs };
}
