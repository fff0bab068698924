/**
 * Who of the ready trainers takes part in a step, where not all do (partial participation, McMahan et al., arXiv
 * 1602.05629, whose C is the share). Pure: of the seed, the step, how many tries of it came to nothing, and the ids, so that
 * a run that resumes draws the same ones. After a try in which nobody was in time or had a token others are drawn: those
 * who were would have no more the next time.
 */
import { derive, randomUint32 } from '../../random.ts';
import type { RunPlan } from './state.ts';

/** A product such as 0.55 * 20 may end a little above the whole number it is. */
const ROUNDING = 1e-9;

/** The members of a step, in the order given, which must be ascending; `others` are the rest of them. */
export function drawMembers(
  { participation, minTrainers }: Pick<RunPlan, 'participation' | 'minTrainers'>,
  step: number,
  attempts: number,
  readyIds: readonly string[],
): { readonly members: readonly string[]; readonly others: readonly string[] } {
  if (participation === null) return { members: readyIds, others: [] };
  const { share, seed } = participation;
  const count = Math.max(1, minTrainers, Math.ceil(share * readyIds.length - ROUNDING));
  const lots = readyIds.map((trainerId) => ({
    trainerId,
    lot: randomUint32(derive(seed, 'participation', step, attempts, trainerId), 0),
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
