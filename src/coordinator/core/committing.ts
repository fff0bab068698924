/**
 * A record is being written. Nothing is announced before it is on disk, and nothing but the disk can
 * hold it up, so every other event only changes membership or is answered. While the disk is full the
 * same record is tried again and again; a stop gives it up, as a step that was never announced.
 */
import { announceUpdate } from './divergence.ts';
import {
  emit,
  enter,
  patch,
  isPast,
  remark,
  seconds,
  shellFault,
  type Draft,
  type EventOf,
  type PhaseEvent,
  type PhaseOf,
} from './draft.ts';
import { beginEvaluation } from './evaluation.ts';
import { foldBases, foldNorms } from './refresh-schedule.ts';
import { isMember, refuseBreach, refuseWork } from './late.ts';
import { pauseAfter, pauseNote, RECORD_GAPS } from './pause.ts';
import { forgetRefusals } from './refusals.ts';
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
    case 'recordFailed':
      return failed(draft, phase, event);
    case 'ticked':
      return retry(draft, phase);
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
  if (!isAwaited(draft, phase, { step, kind, sequence })) {
    return shellFault(
      `the ${kind} of step ${step} was committed as record ${sequence} while the ${phase.kind} of step ${phase.step} was to be record ${state.sequence + 1}`,
    );
  }
  const { pause } = phase;
  const said =
    pause === undefined
      ? draft
      : remark(draft, `the run goes on after a pause of ${seconds(state.nowMs - pause.sinceMs)}`);
  const announced = emit(patch(said, { sequence }), { type: 'announceRecord', sequence });
  if (phase.kind === 'update') {
    const { cursor } = phase;
    const known = foldNorms(state.bases, norms);
    const done = forgetRefusals(patch(announced, { step, cursor, bases: known, attempts: 0 }));
    return beginEvaluation(announceUpdate(done));
  }
  const known = foldBases(state.bases, step, bases, state.plan);
  const refreshed = patch(announced, { refreshedStep: step, bases: known });
  if (state.isStopping) return abandonStep(refreshed, step, 'stopped');
  // Generated bases come first: the step itself has yet to begin.
  if (isGenerated(state.plan)) return enter(refreshed, { phase: 'waiting', notBeforeMs: null });
  if (phase.shards.length === 0) return abandonStep(refreshed, step, 'lost');
  return enterCollecting(refreshed, step, phase.shards);
}

function failed(draft: Draft, phase: PhaseOf<'committing'>, event: EventOf<'recordFailed'>): Draft {
  const { step, kind, sequence, reason } = event;
  if (!isAwaited(draft, phase, event)) {
    return shellFault(`the ${kind} of step ${step}, record ${sequence}, failed and was not being written`);
  }
  if (draft.state.isStopping) return abandonStep(remark(draft, reason), step, 'stopped');
  const pause = pauseAfter(phase.pause, reason, draft.state.nowMs, RECORD_GAPS);
  return remark(enter(draft, { ...phase, pause }), pauseNote(pause));
}

function retry(draft: Draft, phase: PhaseOf<'committing'>): Draft {
  const { pause } = phase;
  if (pause === undefined) return remark(draft, `step ${phase.step}: the ${phase.kind} is being written`);
  const noted = remark(draft, pauseNote(pause));
  if (!isPast(draft.state, pause.retryAtMs)) return noted;
  const retrying = enter(noted, { ...phase, pause: { ...pause, retryAtMs: null } });
  return emit(retrying, { type: 'retryRecord', sequence: draft.state.sequence + 1 });
}

/** Stops: a record that is being written is waited for, one for which there is no room is not. */
export function stopCommitting(draft: Draft, phase: PhaseOf<'committing'>): Draft {
  const { step, kind } = phase;
  if (isPaused(phase)) return abandonStep(draft, step, 'stopped');
  return remark(draft, `stopping: the ${kind} of step ${step} is being written`);
}

/** Nothing is being written: the next try has yet to come. */
function isPaused({ pause }: PhaseOf<'committing'>): boolean {
  return pause !== undefined && pause.retryAtMs !== null;
}

/** Whether this is the record being written. */
function isAwaited(
  { state }: Draft,
  phase: PhaseOf<'committing'>,
  record: Pick<EventOf<'recordFailed'>, 'step' | 'kind' | 'sequence'>,
): boolean {
  const isThis = record.step === phase.step && record.kind === phase.kind;
  return isThis && record.sequence === state.sequence + 1 && !isPaused(phase);
}
