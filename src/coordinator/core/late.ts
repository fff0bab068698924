/**
 * Work that is not (or no longer) wanted. What timing can cause is rejected or ignored and said in
 * words; what only a peer that breaks the protocol can send ends its connection.
 */
import { hasId } from './by-id.ts';
import {
  emit,
  expel,
  findTrainer,
  markHeard,
  plural,
  remark,
  type Draft,
  type EventOf,
  type WorkEvent,
} from './draft.ts';
import { currentStep } from './stepping.ts';
import type { RunState } from './state.ts';

const NOUNS = {
  sketchReceived: 'sketch',
  factorReceived: 'factor',
  contributionReceived: 'contribution',
  evaluationReceived: 'evaluation',
} as const satisfies Record<WorkEvent['type'], string>;

/** "the sketch of step 3, round 1" */
export function describeWork(event: WorkEvent): string {
  const round = 'round' in event ? `, round ${event.round}` : '';
  return `the ${NOUNS[event.type]} of step ${event.step}${round}`;
}

/** Nobody asked for this: the trainer breaks the protocol. */
export function refuseBreach(draft: Draft, event: WorkEvent): Draft {
  const text = `${describeWork(event)} was not asked for; the run has committed ${plural(draft.state.step, 'step')}`;
  return expel(draft, event.trainerId, 'UNEXPECTED_MESSAGE', text);
}

/**
 * Answers work that the phase has no use for. A trainer that missed a deadline is heard from by this and
 * takes part again from the next step, except after a sketch or factor of a step whose bases are
 * committed: it will go on to send its contribution, and a step begun anew must not mistake that for its
 * own.
 */
export function refuseWork(draft: Draft, event: WorkEvent): Draft {
  const { state } = draft;
  const { trainerId, step } = event;
  if (event.type === 'evaluationReceived') return refuseEvaluation(draft, event);
  if (step > state.step + 1) return refuseBreach(draft, event);
  if (step === state.step + 1) {
    if (isMember(state, trainerId)) {
      return remark(draft, `${describeWork(event)} from ${trainerId} is here already; ignored`);
    }
    const willContribute = event.type !== 'contributionReceived' && state.refreshedStep === step;
    if (willContribute && findTrainer(state, trainerId)?.status === 'lagging') {
      return remark(draft, `${describeWork(event)} from ${trainerId} came late; ignored`);
    }
  }
  const reason =
    step <= state.step
      ? `it is late, the run has committed ${plural(state.step, 'step')}`
      : currentStep(state) === step
        ? `step ${step} goes on without ${trainerId}`
        : `step ${step} is not being worked on now`;
  return remark(
    markHeard(emit(draft, { type: 'rejectStep', trainerId, step, reason }), trainerId),
    `${describeWork(event)} from ${trainerId} is rejected: ${reason}`,
  );
}

function refuseEvaluation(draft: Draft, event: EventOf<'evaluationReceived'>): Draft {
  if (event.step > draft.state.step) return refuseBreach(draft, event);
  return remark(
    markHeard(draft, event.trainerId),
    `${describeWork(event)} from ${event.trainerId} is not awaited; ignored`,
  );
}

/** Whether the trainer has (or had, and has answered) a share of the step being worked on. */
export function isMember(state: RunState, trainerId: string): boolean {
  const { phase } = state;
  switch (phase.phase) {
    case 'sketching':
    case 'factorising':
    case 'collecting':
    case 'committing':
      return hasId(phase.shards, trainerId);
    default:
      return false;
  }
}
