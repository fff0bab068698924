/**
 * In which steps a slot gets a new basis, and what is known of each slot's bases: a fold over the
 * records of the journal. Steps count from 1, so the first refresh is in step 1 and, with a fixed gap
 * and without staggering, the others in steps T + 1, 2 T + 1, and so on.
 */
import type { GapPlan, RunPlan, SlotBasis } from './state.ts';

/** A slot's gap grows to at most this many times `updateProjGap`. */
export const MAX_GAP_FACTOR = 8;

/** The similarities that are averaged, newest last; fewer say nothing. */
export const SIMILARITY_QUEUE = 5;

/** Within this share of `updateProjGap` after a refresh none is brought forward. */
export const MIN_GAP_SHARE = 1 / 10;

/** What a record that is on disk says about one slot's new basis. */
export interface BasisFact {
  readonly slot: number;
  /** Null: it stays what it was. */
  readonly rank: number | null;
  /** Share of the old basis that the new one keeps; null: not measured, or there was no old one. */
  readonly similarity: number | null;
}

/** The norm of a slot's summed contribution. */
export interface SlotNorm {
  readonly slot: number;
  readonly norm: number;
}

type SchedulePlan = GapPlan & Pick<RunPlan, 'projectedSlots'>;

/** The slots that step `step` refreshes, ascending in the plan's order. */
export function refreshSlots(
  plan: SchedulePlan,
  step: number,
  bases: readonly SlotBasis[] = [],
): readonly number[] {
  if (step === 1) return plan.projectedSlots;
  if (plan.lazyThreshold === null && plan.convergedRatio === null) return fixedSlots(plan, step);
  const known = new Map(bases.map((basis) => [basis.slot, basis]));
  return plan.projectedSlots.filter((slot, k) => {
    const basis = known.get(slot);
    return basis === undefined || step >= dueStep(plan, k, basis) || isConverged(plan, basis, step);
  });
}

/**
 * The slots that step `step` + 1 refreshes, as far as is known when `step`, which refreshes `refreshing`, begins: a
 * slot that converges is not foreseen, and one whose gap is about to grow may be there in vain.
 */
export function nextRefreshSlots(
  plan: SchedulePlan,
  step: number,
  bases: readonly SlotBasis[],
  refreshing: readonly number[],
): readonly number[] {
  const facts = refreshing.map((slot) => ({ slot, rank: null, similarity: null }));
  return refreshSlots(plan, step + 1, foldBases(bases, step, facts, plan));
}

/** After a basis record of step `step`. Pure, and so the same when it is read back from the journal. */
export function foldBases(
  bases: readonly SlotBasis[],
  step: number,
  facts: readonly BasisFact[],
  plan: GapPlan,
): readonly SlotBasis[] {
  const next = new Map(bases.map((basis) => [basis.slot, basis]));
  for (const { slot, rank, similarity } of facts) {
    const old = next.get(slot);
    const kept = old?.similarities ?? [];
    const similarities = similarity === null ? kept : [...kept, similarity].slice(-SIMILARITY_QUEUE);
    const gap = old?.gap ?? plan.updateProjGap;
    next.set(slot, {
      slot,
      rank: rank ?? old?.rank ?? null,
      refreshedStep: step,
      gap: similarity === null ? gap : grownGap(gap, similarities, plan),
      similarities,
      firstNorm: null,
      lastNorm: null,
    });
  }
  return [...next.values()].sort((a, b) => a.slot - b.slot);
}

/** After an update record: the first norm after a refresh is what the later ones are compared with. */
export function foldNorms(bases: readonly SlotBasis[], norms: readonly SlotNorm[]): readonly SlotBasis[] {
  if (norms.length === 0) return bases;
  const bySlot = new Map(norms.map(({ slot, norm }) => [slot, norm]));
  return bases.map((basis) => {
    const norm = bySlot.get(basis.slot);
    return norm === undefined ? basis : { ...basis, firstNorm: basis.firstNorm ?? norm, lastNorm: norm };
  });
}

/** Staggered, slot k of K has its turn when (step - 1) mod T is floor(k T / K). */
function fixedSlots(plan: SchedulePlan, step: number): readonly number[] {
  const { projectedSlots, updateProjGap, isStaggered } = plan;
  const place = (step - 1) % updateProjGap;
  if (!isStaggered) return place === 0 ? projectedSlots : [];
  return projectedSlots.filter((_, k) => offsetOf(plan, k) === place);
}

function offsetOf({ projectedSlots, updateProjGap, isStaggered }: SchedulePlan, k: number): number {
  return isStaggered ? Math.floor((k * updateProjGap) / projectedSlots.length) : 0;
}

/** When slot number k is refreshed at the latest; after step 1, in which all are, when it is its turn. */
function dueStep(plan: SchedulePlan, k: number, { refreshedStep, gap }: SlotBasis): number {
  const offset = offsetOf(plan, k);
  return refreshedStep === 1 && offset > 0 ? 1 + offset : refreshedStep + gap;
}

/** The projected gradient has shrunk: the basis has given what it had (AdaRankGrad, arXiv 2410.17881). */
function isConverged(plan: SchedulePlan, basis: SlotBasis, step: number): boolean {
  const { convergedRatio, updateProjGap } = plan;
  const { firstNorm, lastNorm, refreshedStep } = basis;
  if (convergedRatio === null || firstNorm === null || lastNorm === null) return false;
  if (firstNorm === 0) return false; // there was nothing to shrink: no gradient reached the slot
  const leastGap = Math.ceil(updateProjGap * MIN_GAP_SHARE);
  return step >= refreshedStep + leastGap && lastNorm <= convergedRatio * firstNorm;
}

/** Twice the gap when the last refreshes have changed little (Q-GaLore, arXiv 2407.08296). */
function grownGap(
  gap: number,
  similarities: readonly number[],
  { lazyThreshold, updateProjGap }: GapPlan,
): number {
  if (lazyThreshold === null || similarities.length < SIMILARITY_QUEUE) return gap;
  const mean = similarities.reduce((sum, value) => sum + value, 0) / similarities.length;
  return mean >= lazyThreshold ? Math.min(2 * gap, MAX_GAP_FACTOR * updateProjGap) : gap;
}
