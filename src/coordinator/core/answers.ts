/**
 * Answers that every member of a step is asked for, its sketches of a round or its contribution: what one more means
 * for the others, and who is left behind when they are waited for no longer.
 */
import { noteAnswer } from './attendance.ts';
import { remark, type Draft, type PhaseOf } from './draft.ts';
import { stopClock } from './pace.ts';
import type { Received } from './state.ts';
import {
  answersIn,
  deadlineAfterAnswer,
  leaveBehind,
  stepQuorum,
  whyOver,
  type Wait,
} from './step-policy.ts';

type Asking = PhaseOf<'sketching'> | PhaseOf<'collecting'>;

/** The phase with one more answer, and the deadline that the others have from then on. */
export function takeAnswer<P extends Asking>(
  draft: Draft,
  phase: P,
  { trainerId, tokens, lossSum, weight, norm }: Received,
): readonly [Draft, P] {
  const told = { ...(weight === undefined ? {} : { weight }), ...(norm === undefined ? {} : { norm }) };
  const newest = { trainerId, tokens, lossSum, ...told };
  const received = phase.received.with(newest);
  const wait = waitOf(draft, phase);
  const isQuorumPossible = received.length >= wait.quorum;
  const deadlineMs = isQuorumPossible
    ? deadlineAfterAnswer(draft.state, wait, answersIn(phase.received), answersIn(received))
    : wait.deadlineMs;
  return [stopClock(noteAnswer(draft), trainerId), { ...phase, received, deadlineMs }];
}

/** The phase without these members, who have not answered in time. @param what the note says was waited for */
export function leaveUnanswered<P extends Asking>(
  draft: Draft,
  phase: P,
  missing: readonly string[],
  what: string,
): readonly [Draft, P] {
  const why = whyOver(draft.state, waitOf(draft, phase), answersIn(phase.received), missing);
  const gone = new Set(missing);
  const shards = phase.shards.filter((shard) => !gone.has(shard.trainerId));
  return [remark(leaveBehind(draft, missing), `${what}: ${why}`), { ...phase, shards }];
}

function waitOf({ state }: Draft, { deadlineMs, shards }: Asking): Wait {
  // Each member has one share.
  return { deadlineMs, quorum: stepQuorum(state, shards.length) };
}
