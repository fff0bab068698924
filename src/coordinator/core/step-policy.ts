/**
 * How long the run waits, and for whom: for trainers before a step begins, and within a step for answers.
 * Every phase asks here. Pure; see docs/coordinator-core.md, "Whom a step waits for".
 *
 * Within a step there are two limits. The deadline holds for whoever is asked. Once a quorum has answered, the
 * others have the grace and no longer. Those who are left behind are lagging (see membership.ts).
 */
import { noteLate } from './attendance.ts';
import {
  countOthers,
  countReady,
  nameSome,
  patch,
  patchTrainers,
  plural,
  seconds,
  type Draft,
} from './draft.ts';
import { stopClocksLate } from './pace.ts';
import type { Received, RunPlan, RunState } from './state.ts';

// ---- before a step ----

export interface StartDecision {
  readonly canStart: boolean;
  /** Why not, with the numbers, or what begins. */
  readonly note: string;
}

/** How long a resumed run waits for the rest of startTrainers, in heartbeat timeouts: they may have left. */
export const RESUME_PATIENCE_TIMEOUTS = 2;

/** A step in which nobody had a token is not tried again for this long, unless membership changes. */
export const FRUITLESS_PAUSE_MS = 1_000;

/**
 * The first step waits for startTrainers, later ones only for minTrainers. So does the first step after
 * a restart, that all who were there can be there again, but it does not wait for ever.
 */
export function decideStart(state: RunState): StartDecision {
  const { plan, hasStarted, phase, nowMs, resumeAtMs } = state;
  const ready = countReady(state);
  const isPatient = !hasStarted && (resumeAtMs === null || nowMs < resumeAtMs);
  const needed = isPatient ? plan.startTrainers : plan.minTrainers;
  if (ready < needed) {
    const others = countOthers(state);
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
  const canGoOn = countReady(state) >= state.plan.minTrainers;
  if (canGoOn === (state.resumeAtMs !== null)) return draft;
  return patch(draft, { resumeAtMs: canGoOn ? state.nowMs + patienceMs(state) : null });
}

function patienceMs({ plan }: RunState): number {
  return RESUME_PATIENCE_TIMEOUTS * plan.heartbeatTimeoutMs;
}

// ---- within a step ----

/** A run whose deadline is too short for all of its trainers gets on all the same, after a few tries. */
export const MAX_DEADLINE_DOUBLINGS = 6;

/** How long the coordinator waits for trainers; 0: for ever. Doubled each time the step was abandoned. */
export function waitMs(state: RunState): number {
  return state.plan.stepDeadlineMs * 2 ** Math.min(state.attempts, MAX_DEADLINE_DOUBLINGS);
}

/** The deadline of what is asked for now; null: there is none. */
export function deadlineMs(state: RunState): number | null {
  const durationMs = waitMs(state);
  return durationMs === 0 ? null : state.nowMs + durationMs;
}

/** How many of so many trainers are a quorum: a number of them, a share (rounded up), or all. */
export function quorumOf({ quorum }: Pick<RunPlan, 'quorum'>, trainers: number): number {
  if (quorum === 'all') return trainers;
  if (typeof quorum === 'number') return Math.min(quorum, trainers);
  return Math.ceil((Number(quorum.slice(0, -1)) * trainers) / 100);
}

/** The quorum of a step, of whose members so many are left: it is one of those who were given work. */
export function stepQuorum({ plan, attendance }: RunState, members: number): number {
  return Math.min(members, quorumOf(plan, attendance.assigned.length));
}

/** Answers that are waited for. */
export interface Wait {
  /** When those who have not answered are left behind; null: never. */
  readonly deadlineMs: number | null;
  /** How many answers begin the grace of the others. */
  readonly quorum: number;
}

/** Answers with something in them: a quorum of trainers whose sequences had no tokens is none. */
export function answersIn(received: Iterable<Received>): number {
  let answers = 0;
  for (const { tokens } of received) if (tokens > 0) answers += 1;
  return answers;
}

/** The deadline after an answer: with the one that completes the quorum the others have no more than the grace. */
export function deadlineAfterAnswer(state: RunState, wait: Wait, before: number, now: number): number | null {
  if (before >= wait.quorum || now < wait.quorum) return wait.deadlineMs;
  const graceEndsMs = state.nowMs + state.plan.graceMs;
  return wait.deadlineMs === null ? graceEndsMs : Math.min(wait.deadlineMs, graceEndsMs);
}

/** "the deadline passed without b, c", or that the grace after so many answers did. */
export function whyOver(
  state: RunState,
  { quorum }: Wait,
  answers: number,
  missing: readonly string[],
): string {
  const limit =
    answers >= quorum && answers > 0
      ? `the grace of ${seconds(state.plan.graceMs)} after ${plural(quorum, 'answer')}`
      : 'the deadline';
  return `${limit} passed without ${nameSome(missing)}`;
}

/**
 * Nobody waits for these any longer: no work for them until they are heard from. What they send for this
 * step is rejected, and their sequences go to others.
 */
export function leaveBehind(draft: Draft, trainerIds: readonly string[]): Draft {
  const { nowMs } = draft.state;
  const lagging = patchTrainers(draft, trainerIds, () => ({ status: 'lagging', laggingSinceMs: nowMs }));
  return stopClocksLate(noteLate(lagging, trainerIds), trainerIds);
}

/**
 * A lagging trainer whose connection is alive but from which no result comes for this many step
 * deadlines is made to connect anew, which clears up what it is doing.
 */
export const LAGGING_DEADLINES = 8;

/** How long a trainer may be lagging; 0: for ever. */
export function laggingPatienceMs(plan: RunPlan): number {
  return plan.stepDeadlineMs * LAGGING_DEADLINES;
}
