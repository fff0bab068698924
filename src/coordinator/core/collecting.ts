/**
 * The contributions of a step come in. It commits when every remaining member's is here, or at the
 * deadline with those that are; what is not used goes back to the cursor.
 */
import { membersOf, spendPositions } from './assignment.ts';
import {
  byTrainerId,
  emit,
  enter,
  isPast,
  markLagging,
  nameSome,
  remark,
  shellFault,
  totalTokens,
  type Draft,
  type PhaseEvent,
  type PhaseOf,
} from './draft.ts';
import { isMember, refuseWork } from './late.ts';
import { describeOutlier, judgeNorms, type Outlier } from './outliers.ts';
import { stopClock, stopClocksLate } from './pace.ts';
import { abandonStep, missingFrom } from './stepping.ts';

export function advanceCollecting(draft: Draft, phase: PhaseOf<'collecting'>, event: PhaseEvent): Draft {
  switch (event.type) {
    case 'contributionReceived': {
      const { trainerId, step, tokens, lossSum, norm } = event;
      if (step !== phase.step || !isMember(draft.state, trainerId)) return refuseWork(draft, event);
      const isHere = phase.received.some((received) => received.trainerId === trainerId);
      if (isHere) return refuseWork(draft, event);
      const newest = { trainerId, tokens, lossSum, ...(norm === undefined ? {} : { norm }) };
      const received = [...phase.received, newest].sort(byTrainerId);
      return settleContributions(stopClock(draft, trainerId), { ...phase, received }, 'lost');
    }
    case 'trainerLost': {
      // One whose contribution is here whole still counts.
      const isHere = phase.received.some((received) => received.trainerId === event.trainerId);
      if (isHere) return draft;
      const shards = phase.shards.filter((shard) => shard.trainerId !== event.trainerId);
      return settleContributions(draft, { ...phase, shards }, 'lost');
    }
    case 'sketchReceived':
    case 'factorReceived':
    case 'evaluationReceived':
      return refuseWork(draft, event);
    case 'ticked': {
      const missing = missingFrom(phase.shards, phase.received);
      if (isPast(draft.state, phase.deadlineMs)) {
        const shards = phase.shards.filter((shard) => !missing.includes(shard.trainerId));
        const note = `step ${phase.step}: the deadline passed without ${nameSome(missing)}`;
        const late = stopClocksLate(markLagging(draft, missing), missing);
        return settleContributions(remark(late, note), { ...phase, shards }, 'late');
      }
      const { step, received, shards } = phase;
      return remark(
        draft,
        `step ${step}: ${received.length} of ${membersOf(shards).length} contributions are here; waiting for ${nameSome(missing)}`,
      );
    }
    case 'recordCommitted':
    case 'recordFailed':
      return shellFault(`a record was committed while step ${phase.step} was collecting`);
    default:
      return event satisfies never;
  }
}

/** Once every remaining member's contribution is there: sum and journal them. */
function settleContributions(draft: Draft, phase: PhaseOf<'collecting'>, cause: 'lost' | 'late'): Draft {
  const { step, shards } = phase;
  if (shards.length === 0) return abandonStep(draft, step, cause);
  if (missingFrom(shards, phase.received).length > 0) return enter(draft, phase);
  if (totalTokens(phase.received) === 0) {
    return abandonStep(draft, step, 'fruitless');
  }
  const { kept: received, outliers } = judgeNorms(
    draft.state.plan.outliers,
    phase.received.filter(({ tokens }) => tokens > 0),
  );
  const used = shards.filter((shard) => received.some(({ trainerId }) => trainerId === shard.trainerId));
  const positions = used.flatMap((shard) => shard.positions);
  const { cursor: before, plan } = draft.state;
  const cursor = spendPositions(before, plan.batchSequences, positions);
  const committing = { phase: 'committing', step, kind: 'update', shards, received, cursor } as const;
  const told = outliers.length === 0 ? {} : { outliers };
  const commit = { type: 'commitUpdate', step, received, shards: used, cursor, ...told } as const;
  return outliers.reduce(tellOutlier(step), emit(enter(draft, committing), commit));
}

/** One that is left out is told to drop its work; its sequences are not among those that were used. */
function tellOutlier(step: number): (draft: Draft, outlier: Outlier) => Draft {
  return (draft, outlier) => {
    const { trainerId, action } = outlier;
    const reason = describeOutlier(outlier);
    if (action === 'clip') return remark(draft, `step ${step}: ${trainerId} is clipped: ${reason}`);
    const rejected = emit(draft, { type: 'rejectStep', trainerId, step, reason });
    return remark(rejected, `step ${step}: ${trainerId} is left out: ${reason}`);
  };
}
