/** A factorisation job: from the summed sketch of a slot to an orthonormal factor or the new basis. */
import { plainFactoriser, type Factoriser } from '../galore/projection/factorise.ts';
import { sketchPlan, type RefreshPlan } from '../galore/projection/sketch.ts';
import type { ProjectedSlot } from '../galore/slot.ts';
import { hasDoubles } from './engine/doubles.ts';
import { nativeFactoriser } from './native-factorise.ts';

/** The fastest there is: TensorFlow's kernels where that is the engine, plain arrays elsewhere. */
export function bestFactoriser(): Factoriser {
  return hasDoubles() ? nativeFactoriser : plainFactoriser;
}

/** The factor of one slot, row-major; null when the sum is zero. */
export function factorise(
  slot: ProjectedSlot,
  round: number,
  refresh: RefreshPlan,
  sum: Float32Array,
): Float32Array | null {
  const plan = sketchPlan(slot, round, refresh);
  const [rows, columns] = plan.sketchShape;
  const factoriser = bestFactoriser();
  if (plan.isFinal) {
    return factoriser.singularVectors(sum, rows, columns, slot.rank, false)?.left ?? null;
  }
  if (sum.every((value) => value === 0)) return null;
  return factoriser.orthonormalise(sum, rows, columns);
}
