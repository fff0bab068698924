/**
 * A record is being written. Nothing is announced before it is on disk, and nothing but the disk can
 * hold it up, so every other event only changes membership or is answered.
 */
import { announceUpdate } from './divergence.ts';
import {
  emit,
  enter,
  patch,
  remark,
  shellFault,
  type Draft,
  type EventOf,
  type PhaseEvent,
  type PhaseOf,
} from './draft.ts';
import { beginEvaluation } from './evaluation.ts';
import { foldBases, foldNorms } from './refresh-schedule.ts';
import { isMember, refuseBreach, refuseWork } from './late.ts';
import { abandonStep, enterCollecting, isGenerated } from './stepping.ts';

export function advanceCommitting(draft: Draft, phase: PhaseOf<'committing'>, event: PhaseEvent): Draft {
  switch (event.type) {
    case 'recordCommitted':
      return committed(draft, phase, event);
    case 'trainerLost': {
      if (phase.kind === 'update') return draft;
      const shards = phase.shards.filter((shard) => shard.trainerId !== event.trainerId);
      return enter(draft, { ...phase, shards });
    }
    case 'contributionReceived': {
      const isEarly =
        phase.kind === 'basis' && event.step === phase.step && isMember(draft.state, event.trainerId);
      return isEarly ? refuseBreach(draft, event) : refuseWork(draft, event);
    }
    case 'sketchReceived':
    case 'factorReceived':
    case 'evaluationReceived':
      return refuseWork(draft, event);
    case 'ticked':
      return remark(draft, `step ${phase.step}: the ${phase.kind} is being written`);
    default:
      return event satisfies never;
  }
}

function committed(
  draft: Draft,
  phase: PhaseOf<'committing'>,
  { step, kind, sequence, bases = [], norms = [] }: EventOf<'recordCommitted'>,
): Draft {
  const { state } = draft;
  if (step !== phase.step || kind !== phase.kind || sequence !== state.sequence + 1) {
    return shellFault(
      `the ${kind} of step ${step} was committed as record ${sequence} while the ${phase.kind} of step ${phase.step} was to be record ${state.sequence + 1}`,
    );
  }
  const announced = emit(patch(draft, { sequence }), { type: 'announceRecord', sequence });
  if (phase.kind === 'update') {
    const { cursor } = phase;
    const known = foldNorms(state.bases, norms);
    return beginEvaluation(announceUpdate(patch(announced, { step, cursor, bases: known, attempts: 0 })));
  }
  const known = foldBases(state.bases, step, bases, state.plan);
  const refreshed = patch(announced, { refreshedStep: step, bases: known });
  if (state.isStopping) return abandonStep(refreshed, step, 'stopped');
  // Generated bases come first: the step itself has yet to begin.
  if (isGenerated(state.plan)) return enter(refreshed, { phase: 'waiting', notBeforeMs: null });
  if (phase.shards.length === 0) return abandonStep(refreshed, step, 'lost');
  return enterCollecting(refreshed, step, phase.shards);
}
