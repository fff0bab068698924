/**
 * Who was given work for the step under way, who was left behind, and how long the first to answer waited for
 * the last. For the metrics, and for the quorum, which is one of those who were given work.
 */
import { patch, type Draft } from './draft.ts';
import type { Attendance } from './state.ts';

/** Before the first step. */
export const NOBODY: Attendance = { step: 0, assigned: [], late: [], waitMs: 0, firstAnswerMs: null };

/** A step begins with these members. */
export function callRoll(draft: Draft, step: number, trainerIds: readonly string[]): Draft {
  return patch(draft, { attendance: { ...NOBODY, step, assigned: trainerIds } });
}

/** An answer came to what all members were asked for. */
export function noteAnswer(draft: Draft): Draft {
  const { attendance, nowMs } = draft.state;
  return attendance.firstAnswerMs === null ? update(draft, { firstAnswerMs: nowMs }) : draft;
}

/** No more answers are waited for. */
export function endWait(draft: Draft): Draft {
  const { nowMs, attendance } = draft.state;
  const { firstAnswerMs, waitMs } = attendance;
  if (firstAnswerMs === null) return draft;
  return update(draft, { firstAnswerMs: null, waitMs: waitMs + nowMs - firstAnswerMs });
}

/** Nobody waits for these any longer. An evaluation is not part of its step. */
export function noteLate(draft: Draft, trainerIds: readonly string[]): Draft {
  const { step, assigned, late } = draft.state.attendance;
  if (step <= draft.state.step) return draft;
  const all = new Set([...late, ...trainerIds]);
  return update(draft, { late: assigned.filter((id) => all.has(id)) });
}

function update(draft: Draft, change: Partial<Attendance>): Draft {
  return patch(draft, { attendance: { ...draft.state.attendance, ...change } });
}
