/** A factorisation job: from the summed sketch of a slot to an orthonormal factor or the new basis. */
import { leadingBasis, orthonormalise } from '../galore/projection/factorise.ts';
import { sketchPlan, type RefreshPlan } from '../galore/projection/sketch.ts';
import type { ProjectedSlot } from '../galore/slot.ts';

/** The factor of one slot, row-major; null when the sum is zero. */
export function factorise(
  slot: ProjectedSlot,
  round: number,
  refresh: RefreshPlan,
  sum: Float32Array,
): Float32Array | null {
  const plan = sketchPlan(slot, round, refresh);
  const [rows, columns] = plan.sketchShape;
  const values = Float64Array.from(sum);
  if (plan.isFinal) return leadingBasis(values, rows, columns, slot.rank)?.basis ?? null;
  if (values.every((value) => value === 0)) return null;
  return Float32Array.from(orthonormalise(values, rows, columns));
}
