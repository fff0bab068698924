/**
 * The end of a run: all steps are done or a stop was asked for. A checkpoint of the last committed step
 * is made if there is none; what it cannot cover is in the journal, so nothing is lost without it.
 */
import { requestCheckpoint } from './checkpointing.ts';
import {
  emit,
  enter,
  isPast,
  nameSome,
  patch,
  remark,
  shellFault,
  type Draft,
  type PhaseEvent,
  type PhaseOf,
} from './draft.ts';
import { refuseWork } from './late.ts';
import { pauseNote } from './pause.ts';
import type { Outcome, RunState, TrainerState } from './state.ts';

/** After a failure the last checkpoint is tried again this often. */
export const LAST_CHECKPOINT_RETRIES = 3;

/** How the run would end now. */
export function outcomeOf(state: RunState): Outcome {
  return state.step >= state.plan.totalSteps ? 'completed' : 'stopped';
}

export function enterFinishing(draft: Draft): Draft {
  return enter(draft, { phase: 'finishing', outcome: outcomeOf(draft.state), tried: [] });
}

export function advanceFinishing(draft: Draft, phase: PhaseOf<'finishing'>, event: PhaseEvent): Draft {
  switch (event.type) {
    case 'sketchReceived':
    case 'factorReceived':
    case 'contributionReceived':
    case 'evaluationReceived':
      return refuseWork(draft, event);
    case 'trainerLost':
    case 'ticked':
      return draft;
    case 'recordCommitted':
    case 'recordFailed':
      return shellFault(`a record was committed while the run was finishing (${phase.outcome})`);
    default:
      return event satisfies never;
  }
}

/** Called after every event: makes the last checkpoint, or ends the run when it is there or cannot be had. */
export function settleFinishing(draft: Draft, phase: PhaseOf<'finishing'>): Draft {
  const { step, checkpoint, checkpointedStep } = draft.state;
  if (checkpoint !== null) {
    const from =
      checkpoint.status === 'writing' ? 'is being written' : `is coming from ${nameSome(checkpoint.awaited)}`;
    return remark(draft, `finishing: the checkpoint of step ${checkpoint.step} ${from}`);
  }
  if (checkpointedStep >= step) return endRun(draft);
  const inJournal = `the checkpoint is of step ${checkpointedStep}, the journal holds the steps up to ${step}`;
  if (phase.pause !== undefined) {
    if (draft.state.isStopping) return endRun(remark(draft, inJournal));
    if (!isPast(draft.state, phase.pause.retryAtMs)) return remark(draft, pauseNote(phase.pause));
  }
  if (phase.tried.length > LAST_CHECKPOINT_RETRIES) {
    return endRun(remark(draft, `${inJournal}: ${phase.tried.length} tries failed`));
  }
  const uploader = chooseUploader(draft.state, phase.tried);
  if (uploader === undefined) return endRun(remark(draft, `${inJournal}: no trainer can give a snapshot`));
  return requestCheckpoint(enter(draft, { ...phase, tried: [...phase.tried, uploader] }), uploader);
}

/** The end, at once. What was still being uploaded or written is given up. */
export function endRun(draft: Draft): Draft {
  const { checkpoint } = draft.state;
  const outcome = outcomeOf(draft.state);
  const over = patch(draft, {
    checkpoint: null,
    isCheckpointDue: false,
    phase: { phase: 'finished', outcome },
  });
  const cleared =
    checkpoint === null ? over : emit(over, { type: 'abandonCheckpoint', step: checkpoint.step });
  return emit(cleared, { type: 'finishRun', outcome });
}

/** Ready trainers before lagging ones, then those not tried yet, then the lowest id. */
function chooseUploader(state: RunState, tried: readonly string[]): string | undefined {
  const rank = ({ trainerId, status }: TrainerState): number =>
    (status === 'ready' ? 0 : 2) + (tried.includes(trainerId) ? 1 : 0);
  const [best] = state.trainers
    .filter(({ status }) => status !== 'loading')
    .sort((a, b) => rank(a) - rank(b));
  return best?.trainerId;
}
