/**
 * Whose results are refused again and again. A refused result ends the connection of whoever sent it, the others go on,
 * and it may come again: once may be chance. But a run in which there is nobody else would begin the same step for
 * ever. See docs/coordinator-core.md, "Refused results".
 */
import { patch, remark, type Draft } from './draft.ts';
import type { RunState } from './state.ts';

/** A trainer that had so many results refused since the last committed step stays out until the next one. */
export const MAX_REFUSALS = 3;

/** A trainer's result was refused, for the reason given: its numbers could not be, or do not fit. */
export function noteRefusal(draft: Draft, trainerId: string, reason: string): Draft {
  const { refusals, plan } = draft.state;
  const count = 1 + (refusals.find((refusal) => refusal.trainerId === trainerId)?.count ?? 0);
  const others = refusals.filter((refusal) => refusal.trainerId !== trainerId);
  const noted = [...others, { trainerId, count, reason }].slice(-plan.maxTrainers);
  const next = patch(draft, { refusals: noted });
  return count < MAX_REFUSALS ? next : remark(next, `${trainerId} stays out until the step is done`);
}

/** Why a trainer may not take part for now; null: it may. */
export function exclusionOf({ refusals, step }: RunState, trainerId: string): string | null {
  const refusal = refusals.find((each) => each.trainerId === trainerId);
  if (refusal === undefined || refusal.count < MAX_REFUSALS) return null;
  return (
    `${refusal.count} of its results for step ${step + 1} were refused, the last one because ${refusal.reason}; ` +
    'it may come again once others have done that step, or under another id'
  );
}

/** "; a stays out: …" for everyone who does; empty: nobody. */
export function describeExclusions(state: RunState): string {
  return state.refusals
    .flatMap(({ trainerId }) => {
      const exclusion = exclusionOf(state, trainerId);
      return exclusion === null ? [] : [`; ${trainerId} stays out: ${exclusion}`];
    })
    .join('');
}

/** The step is done, whoever did it. */
export function forgetRefusals(draft: Draft): Draft {
  return draft.state.refusals.length === 0 ? draft : patch(draft, { refusals: [] });
}
