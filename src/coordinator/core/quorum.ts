/**
 * Decides whether the next step can begin. Pure; see docs/coordinator-core.md, "Quorum".
 */
import { patch, readyTrainers, seconds, type Draft } from './draft.ts';
import type { RunState } from './state.ts';
import { FRUITLESS_PAUSE_MS } from './stepping.ts';

export interface QuorumDecision {
  readonly canStart: boolean;
  /** Why not, with the numbers, or what begins. */
  readonly note: string;
}

/** How long a resumed run waits for the rest of startTrainers, in heartbeat timeouts: they may have left. */
export const RESUME_PATIENCE_TIMEOUTS = 2;

/**
 * The first step waits for startTrainers, later ones only for minTrainers. So does the first step after
 * a restart, that all who were there can be there again, but it does not wait for ever.
 */
export function decideQuorum(state: RunState): QuorumDecision {
  const { plan, hasStarted, phase, nowMs, resumeAtMs } = state;
  const ready = readyTrainers(state).length;
  const isPatient = !hasStarted && (resumeAtMs === null || nowMs < resumeAtMs);
  const needed = isPatient ? plan.startTrainers : plan.minTrainers;
  if (ready < needed) {
    const others = state.trainers.length - ready;
    const also = others === 0 ? '' : `, ${others} more loading or lagging`;
    const until = isPatient && resumeAtMs !== null ? `; the others have ${seconds(patienceMs(state))}` : '';
    return { canStart: false, note: `waiting: ${ready} of ${needed} trainers are ready${also}${until}` };
  }
  const notBeforeMs = phase.phase === 'waiting' ? phase.notBeforeMs : null;
  if (notBeforeMs !== null && nowMs < notBeforeMs) {
    return {
      canStart: false,
      note: `waiting: step ${state.step + 1} had no tokens and is tried again after ${seconds(FRUITLESS_PAUSE_MS)}`,
    };
  }
  return { canStart: true, note: `step ${state.step + 1} begins with ${ready} trainers` };
}

/** Sets the limit of a resumed run's patience when minTrainers are ready, and lifts it when they are not. */
export function limitPatience(draft: Draft): Draft {
  const { state } = draft;
  if (!state.isResumed || state.hasStarted) return draft;
  const canGoOn = readyTrainers(state).length >= state.plan.minTrainers;
  if (canGoOn === (state.resumeAtMs !== null)) return draft;
  return patch(draft, { resumeAtMs: canGoOn ? state.nowMs + patienceMs(state) : null });
}

function patienceMs({ plan }: RunState): number {
  return RESUME_PATIENCE_TIMEOUTS * plan.heartbeatTimeoutMs;
}
