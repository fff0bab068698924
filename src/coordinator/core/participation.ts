/**
 * Who of the ready trainers takes part in a step, where not all do (partial participation, McMahan et al., arXiv
 * 1602.05629, whose C is the share). Pure: of the seed, the step and the ids alone, so that a run that resumes, or
 * begins a step anew with the same trainers, draws the same ones.
 */
import { derive, randomUint32 } from '../../random.ts';
import type { RunPlan } from './state.ts';

/** A product such as 0.55 * 20 may end a little above the whole number it is. */
const ROUNDING = 1e-9;

/** The members of a step, in the order given, which must be ascending; `others` are the rest of them. */
export function drawMembers(
  { participation, minTrainers }: Pick<RunPlan, 'participation' | 'minTrainers'>,
  step: number,
  readyIds: readonly string[],
): { readonly members: readonly string[]; readonly others: readonly string[] } {
  if (participation === null) return { members: readyIds, others: [] };
  const { share, seed } = participation;
  const count = Math.max(1, minTrainers, Math.ceil(share * readyIds.length - ROUNDING));
  const lots = readyIds.map((trainerId) => ({
    trainerId,
    lot: randomUint32(derive(seed, 'participation', step, trainerId), 0),
  }));
  // Of equal lots the lower id's counts: the sort keeps their order.
  const drawn = new Set(
    lots
      .toSorted((a, b) => a.lot - b.lot)
      .slice(0, count)
      .map(({ trainerId }) => trainerId),
  );
  return {
    members: readyIds.filter((trainerId) => drawn.has(trainerId)),
    others: readyIds.filter((trainerId) => !drawn.has(trainerId)),
  };
}
