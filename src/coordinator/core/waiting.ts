/**
 * Between steps: begins the next one as soon as there are enough trainers, or the end of the run.
 */
import { readyTrainers, remark, shellFault, type Draft, type PhaseEvent, type PhaseOf } from './draft.ts';
import { enterFinishing } from './finishing.ts';
import { refuseWork } from './late.ts';
import { describeExclusions } from './refusals.ts';
import { decideStart, limitPatience } from './step-policy.ts';
import { startStep } from './stepping.ts';

export function advanceWaiting(draft: Draft, _phase: PhaseOf<'waiting'>, event: PhaseEvent): Draft {
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
      return shellFault('a record was committed while the run was waiting');
    default:
      return event satisfies never;
  }
}

/** Called after every event that leaves the run waiting. */
export function settleWaiting(draft: Draft): Draft {
  const { plan, step, isStopping, hasStarted, checkpointedStep } = draft.state;
  if (isStopping) return enterFinishing(draft);
  if (step >= plan.totalSteps) {
    // A run resumed after its last step may lack only the checkpoint, for which it needs a trainer.
    const canFinish = hasStarted || checkpointedStep >= step || readyTrainers(draft.state).length > 0;
    if (canFinish) return enterFinishing(draft);
    const note = `waiting: all ${step} steps are done; 0 of 1 trainers are ready to give the last checkpoint`;
    return remark(draft, note);
  }
  const limited = limitPatience(draft);
  const { canStart, note } = decideStart(limited.state);
  return canStart ? startStep(limited) : remark(limited, `${note}${describeExclusions(limited.state)}`);
}
