/** How alike two bases of one slot are; what Q-GaLore's lazy refresh goes by (arXiv 2407.08296). */
import { basisRows, type ProjectedSlot } from '../slot.ts';

/**
 * |P_new' P_old|_F^2 / r_old, 0 to 1: the share of the old subspace that lies in the new one, whatever the
 * signs of the columns. Both row-major with orthonormal columns, of the slot's rows; of a two-sided slot the
 * mean over U and V. Costs rows r_new r_old multiplications.
 */
export function basisSimilarity(slot: ProjectedSlot, fresh: Float32Array, old: Float32Array): number {
  const blocks = basisRows(slot);
  const rows = blocks.reduce((sum, count) => sum + count, 0);
  const [freshRank, oldRank] = [fresh.length / rows, old.length / rows];
  let squared = 0;
  let row = 0;
  for (const count of blocks) {
    const overlap = new Float64Array(freshRank * oldRank);
    for (const end = row + count; row < end; row++) {
      for (let i = 0; i < freshRank; i++) {
        const value = fresh[row * freshRank + i]!;
        for (let j = 0; j < oldRank; j++) overlap[i * oldRank + j]! += value * old[row * oldRank + j]!;
      }
    }
    squared += overlap.reduce((sum, value) => sum + value * value, 0);
  }
  return Math.min(1, squared / (oldRank * blocks.length));
}
