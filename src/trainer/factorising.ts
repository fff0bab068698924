/** Factorisation jobs: from the summed sketch of a slot to an orthonormal factor or to what becomes its new basis. */
import { selectDctColumns } from '../galore/projection/dct.ts';
import { plainFactoriser, type Factoriser } from '../galore/projection/factorise.ts';
import { adaptiveBasis, type AdaptiveBasis, type RankOptions } from '../galore/projection/rank-selection.ts';
import { heldOut, sketchPlan, splitColumns, type RefreshPlan } from '../galore/projection/sketch.ts';
import { leadingBasisPair, stackPair } from '../galore/projection/two-sided.ts';
import { matrixShape, type ProjectedSlot } from '../galore/slot.ts';
import { hasDoubles } from './engine/doubles.ts';
import { nativeFactoriser } from './native-factorise.ts';

/** The fastest there is: TensorFlow's kernels where that is the engine, plain arrays elsewhere. */
export function bestFactoriser(): Factoriser {
  return hasDoubles() ? nativeFactoriser : plainFactoriser;
}

/** The factor of one slot, row-major; null when the sum is zero. In the last round: the basis, of the slot's rank. */
export function factorise(
  slot: ProjectedSlot,
  round: number,
  refresh: RefreshPlan,
  sum: Float32Array,
): Float32Array | null {
  const { sketchShape, isFinal } = sketchPlan(slot, round, refresh);
  const [rows, columns] = sketchShape;
  const factoriser = bestFactoriser();
  if (isFinal) return factoriser.basis(sum, rows, columns, slot.rank);
  if (sum.every((value) => value === 0)) return null;
  // A second basis is made from the factor, an adaptive rank measured with it; else only its span counts.
  const isStrict = slot.policy === 'two-sided' || refresh.heldOutColumns > 0;
  return isStrict ? factoriser.orthonormalise(sum, rows, columns) : factoriser.factor(sum, rows, columns);
}

/** What the last round's factor was, for jobs that need it: every trainer of the step knows all of it. */
export interface LastFactor {
  /** Q as it was broadcast; null with `exact`. */
  readonly factor: Float32Array | null;
  /** The seed of the sketch requests. */
  readonly seed: number;
  readonly step: number;
}

/** The last round of a slot whose rank is chosen anew: at most `slot.rank`. Null when the sum is zero. */
export function factoriseAdaptive(
  slot: ProjectedSlot,
  refresh: RefreshPlan,
  sum: Float32Array,
  last: LastFactor,
  options: RankOptions,
): AdaptiveBasis | null {
  const plan = sketchPlan(slot, refresh.rounds, refresh);
  const [rows, allColumns] = plan.sketchShape;
  const columns = plan.heldOutColumns;
  const width = allColumns - columns;
  const [sketched, products] = columns === 0 ? [sum, null] : splitColumns(sum, rows, width);
  const vectors = bestFactoriser().singularVectors(sketched, rows, width, slot.rank, false);
  if (vectors === null) return null;
  if (products === null || last.factor === null || plan.factorShape === null) {
    return adaptiveBasis(vectors, sketched, rows, null, options);
  }
  const signs = heldOut(last.seed, last.step, slot, plan.factorShape[0], columns);
  return adaptiveBasis(vectors, sketched, rows, { products, signs, factor: last.factor, columns }, options);
}

/** The last round of a two-sided slot, planned as one of side left: U above V, `[m + n, rank]`; null when the sum is zero. */
export function factorisePair(
  slot: ProjectedSlot,
  sum: Float32Array,
  factor: Float32Array | null,
): Float32Array | null {
  const [rows, cols] = matrixShape(slot);
  const pair = leadingBasisPair({ sum, factor, rows, cols, rank: slot.rank }, bestFactoriser());
  return pair === null ? null : stackPair(pair);
}

/** The one round of a refresh of type `dct`: which columns make the basis; null when the sum is zero. */
export function factoriseDct(
  slot: ProjectedSlot,
  refresh: RefreshPlan,
  sum: Float32Array,
): readonly number[] | null {
  return selectDctColumns(sum, sketchPlan(slot, 1, refresh).sketchShape[0], slot.rank);
}
