/** Sequences of a source in the form in which they are assigned and computed on. */
import type { Sequences } from '../protocol/messages.ts';
import type { SequenceSource } from './token-cache.ts';

/** Reads sequences by index; `positions` are their places in the order they are used in. */
export async function readSequences(
  source: SequenceSource,
  indices: readonly number[],
  positions: readonly number[],
  seqLen: number,
): Promise<Sequences> {
  const { tokens, mask, labelled } = await source.read(indices);
  if (labelled !== undefined) return { positions, length: seqLen, tokens, mask: new Uint8Array(0), labelled };
  return { positions, length: seqLen + 1, tokens, mask: mask ?? new Uint8Array(0) };
}

/** What the sequences have a loss for: the labels of them that count, or each of them where it has one label. */
export function countedLabels({ positions, length, mask, labelled }: Sequences): number {
  if (labelled !== undefined) return positions.length;
  if (mask.length === 0) return positions.length * (length - 1);
  return mask.reduce((sum, isCounted) => sum + isCounted, 0);
}
