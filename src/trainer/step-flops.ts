/**
 * The floating-point operations of the matrix products of a training step, counted from shapes: what the
 * mathematics needs, whatever way it is computed (recomputed intermediates do not count). Pure.
 */
import { hasBasis, matrixShape, type Slot } from '../galore/slot.ts';
import type { LlamaConfig } from '../model/llama-config.ts';

/**
 * With N = sequences · length rows: 6·N·m·n for each weight matrix that is multiplied with (forward, and
 * the gradients of its input and of itself; the embedding is looked up, not multiplied), 12·N·length·H·headDim
 * for attention in each layer (two products forward, four backward), and 4·m·n·r for each projected
 * slot (projection and lift).
 */
export function stepFlops(
  config: LlamaConfig,
  slots: readonly Slot[],
  sequences: number,
  length: number,
): number {
  const rows = sequences * length;
  const { numHiddenLayers, numAttentionHeads, headDim, vocabSize, hiddenSize } = config;
  const attention = 12 * rows * length * numAttentionHeads * headDim * numHiddenLayers;
  const tiedHead = config.tieWordEmbeddings ? 6 * rows * vocabSize * hiddenSize : 0;
  return slots.reduce((sum, slot) => sum + slotFlops(slot, rows), attention + tiedHead);
}

function slotFlops(slot: Slot, rows: number): number {
  if (slot.shape.length !== 2 || slot.name === 'model.embed_tokens.weight') return 0;
  const [m, n] = matrixShape(slot);
  return 6 * rows * m * n + (hasBasis(slot) ? 4 * m * n * slot.rank : 0);
}
