/**
 * One slot of a factorisation job: which factor a round asks for, by the method of the run. The
 * factorisations themselves are in factorising.ts.
 */
import type { RunConfig } from '../config/schema.ts';
import { dctColumns } from '../galore/projection/dct.ts';
import { sketchPlan } from '../galore/projection/sketch.ts';
import type { ProjectedSlot } from '../galore/slot.ts';
import type { RunShape } from '../run-shape.ts';
import { factorise, factoriseAdaptive, factoriseDct, factorisePair } from './factorising.ts';

/** What all slots of a job have in common. */
export interface FactorJob {
  readonly shape: RunShape;
  readonly adaptiveRank: RunConfig['method']['adaptive_rank'];
  readonly step: number;
  readonly round: number;
  /** Of the round's SketchRequest. */
  readonly seed: number;
}

/**
 * The factor of one slot, row-major; null when the sum is zero. `slot` has the configured rank; `factor` is
 * what the round's sketches were products with, null in a first round.
 */
export function makeFactor(
  job: FactorJob,
  slot: ProjectedSlot,
  sum: Float32Array,
  factor: Float32Array | null,
): Float32Array | null {
  const { shape, step, round, seed } = job;
  const { refresh, ranks } = shape;
  const plan = sketchPlan(slot, round, refresh);
  if (!plan.isFinal) return factorise(slot, round, refresh, sum);
  if (slot.policy === 'two-sided') return factorisePair(slot, sum, factor);
  if (shape.basis === 'dct') {
    const columns = factoriseDct(slot, refresh, sum);
    return columns === null ? null : dctColumns(plan.sketchShape[0], columns);
  }
  const { threshold } = job.adaptiveRank;
  if (ranks === null || threshold === undefined) return factorise(slot, round, refresh, sum);
  const options = { threshold, ...ranks, maxRank: slot.rank };
  return factoriseAdaptive(slot, refresh, sum, { factor, seed, step }, options)?.basis ?? null;
}
