/**
 * Who is in the run: joining, becoming ready, falling silent. What the loss of a trainer means for the
 * step is each phase's own affair (see advance.ts).
 */
import {
  becomeReady,
  expel,
  findTrainer,
  markHeard,
  patch,
  patchTrainer,
  remark,
  seconds,
  type Draft,
  type EventOf,
} from './draft.ts';
import { laggingPatienceMs } from './step-policy.ts';

/** Takes in a trainer that has passed the handshake. One with the same id has been taken out before. */
export function admit(draft: Draft, trainerId: string): Draft {
  const { trainers, plan, nowMs, sequence } = draft.state;
  if (trainers.length >= plan.maxTrainers) {
    const text = `the run has ${trainers.length} of at most ${plan.maxTrainers} trainers`;
    return expel(draft, trainerId, 'RUN_FULL', text);
  }
  const joined = {
    trainerId,
    status: 'loading',
    lastSeenMs: nowMs,
    joinedSequence: sequence,
    laggingSinceMs: null,
    asked: null,
    observed: [],
  } as const;
  return patch(draft, { trainers: trainers.with(joined) });
}

/** It has applied everything up to a record; it is ready once that covers what was there when it joined. */
export function acceptReady(draft: Draft, event: EventOf<'trainerReady'>): Draft {
  const { state } = draft;
  const { trainerId, sequence } = event;
  const newest = state.sequence + (state.phase.phase === 'committing' ? 1 : 0);
  if (sequence > newest) {
    const text = `ready at record ${sequence}, but the journal has ${state.sequence}`;
    return expel(draft, trainerId, 'UNEXPECTED_MESSAGE', text);
  }
  const trainer = findTrainer(state, trainerId);
  if (trainer?.status === 'lagging') return markHeard(draft, trainerId);
  if (trainer?.status !== 'loading') return draft;
  if (sequence < trainer.joinedSequence) {
    return remark(draft, `${trainerId} has applied ${sequence} of ${trainer.joinedSequence} records`);
  }
  const told = event.examples === undefined ? {} : { examples: event.examples };
  return becomeReady(patchTrainer(draft, trainerId, told), trainerId);
}

/** Drops trainers that are silent, or lagging for so long that they must have lost their way. */
export function dropSilent(draft: Draft): Draft {
  const { trainers, plan, nowMs } = draft.state;
  const patienceMs = laggingPatienceMs(plan);
  let next = draft;
  for (const { trainerId, lastSeenMs, laggingSinceMs } of trainers) {
    if (nowMs - lastSeenMs >= plan.heartbeatTimeoutMs) {
      next = expel(next, trainerId, 'TIMEOUT', `nothing heard for ${seconds(nowMs - lastSeenMs)}`);
    } else if (laggingSinceMs !== null && patienceMs > 0 && nowMs - laggingSinceMs >= patienceMs) {
      next = expel(next, trainerId, 'TIMEOUT', `no result for ${seconds(nowMs - laggingSinceMs)}`);
    }
  }
  return next;
}

/** Takes a trainer out of the list. */
export function remove(draft: Draft, trainerId: string): Draft {
  return patch(draft, { trainers: draft.state.trainers.without(trainerId) });
}
