/**
 * Decides whether the next step can begin. Pure; see docs/coordinator-core.md, "Quorum".
 */
import { readyTrainers } from './draft.ts';
import type { RunState } from './state.ts';

export interface QuorumDecision {
  readonly canStart: boolean;
  /** Why not, with the numbers, or what begins. */
  readonly note: string;
}

/** The first step of a process waits for startTrainers, later ones only for minTrainers. */
export function decideQuorum(state: RunState): QuorumDecision {
  const { plan, hasStarted, phase } = state;
  const ready = readyTrainers(state).length;
  const needed = hasStarted ? plan.minTrainers : plan.startTrainers;
  if (ready < needed) {
    const others = state.trainers.length - ready;
    const also = others === 0 ? '' : `, ${others} more loading or lagging`;
    return { canStart: false, note: `waiting: ${ready} of ${needed} trainers are ready${also}` };
  }
  const notBeforeMs = phase.phase === 'waiting' ? phase.notBeforeMs : null;
  if (notBeforeMs !== null && state.nowMs < notBeforeMs) {
    return {
      canStart: false,
      note: `waiting: step ${state.step + 1} had no tokens and is tried again at ${notBeforeMs} ms`,
    };
  }
  return { canStart: true, note: `step ${state.step + 1} begins with ${ready} trainers` };
}
