/**
 * In which steps a slot gets a new basis. Steps count from 1, so the first refresh is in step 1 and,
 * without staggering, the others in steps T + 1, 2 T + 1, and so on.
 */
import type { RunPlan } from './state.ts';

/**
 * The slots that step `step` refreshes. Staggered, slot k of K has its turn when (step - 1) mod T is
 * floor(k T / K); step 1 refreshes all, for no slot has a basis yet.
 */
export function refreshSlots(plan: RunPlan, step: number): readonly number[] {
  const { projectedSlots, updateProjGap, isStaggered } = plan;
  if (step === 1) return projectedSlots;
  const place = (step - 1) % updateProjGap;
  if (!isStaggered) return place === 0 ? projectedSlots : [];
  return projectedSlots.filter((_, k) => Math.floor((k * updateProjGap) / projectedSlots.length) === place);
}
