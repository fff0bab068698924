/** Sequences as they come over the wire, cut into micro-batches of inputs and aligned labels. Pure. */
import type { Sequences } from '../protocol/messages.ts';
import { IGNORED_LABEL, type Batch } from './model/batch.ts';

/**
 * Sequence k of length + 1 tokens gives `length` inputs and the same shifted by one as labels; masked
 * labels become IGNORED_LABEL. At most `microBatch` sequences a batch, in order.
 */
export function toBatches(sequences: Sequences, microBatch: number): readonly Batch[] {
  const count = sequences.positions.length;
  const batches: Batch[] = [];
  for (let start = 0; start < count; start += microBatch) {
    batches.push(toBatch(sequences, start, Math.min(start + microBatch, count)));
  }
  return batches;
}

function toBatch({ tokens, mask, length }: Sequences, start: number, end: number): Batch {
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
