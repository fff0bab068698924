/**
 * The contributions of a step come in. It commits when every remaining member's is here, or with those that
 * are when the others are waited for no longer (step-policy.ts); what is not used goes back to the cursor.
 */
import { leaveUnanswered, takeAnswer } from './answers.ts';
import { membersOf, spendPositions } from './assignment.ts';
import { endWait } from './attendance.ts';
import { hasId } from './by-id.ts';
import {
  emit,
  enter,
  isPast,
  nameSome,
  remark,
  shellFault,
  totalTokens,
  type Draft,
  type EventOf,
  type PhaseEvent,
  type PhaseOf,
} from './draft.ts';
import { isMember, refuseWork } from './late.ts';
import { describeOutlier, judgeNorms, type Outlier } from './outliers.ts';
import { abandonStep, isMissingAny, missingFrom } from './stepping.ts';

export function advanceCollecting(draft: Draft, phase: PhaseOf<'collecting'>, event: PhaseEvent): Draft {
  switch (event.type) {
    case 'contributionReceived': {
      const { trainerId, step } = event;
      if (step !== phase.step || !isMember(draft.state, trainerId)) return refuseWork(draft, event);
      if (phase.received.has(trainerId)) return refuseWork(draft, event);
      return settleContributions(...takeAnswer(draft, withoutUnused(phase, event), event), 'lost');
    }
    case 'trainerLost': {
      // One whose contribution is here whole still counts.
      if (phase.received.has(event.trainerId)) return draft;
      const shards = phase.shards.filter((shard) => shard.trainerId !== event.trainerId);
      return settleContributions(draft, { ...phase, shards }, 'lost');
    }
    case 'sketchReceived':
    case 'factorReceived':
    case 'evaluationReceived':
      return refuseWork(draft, event);
    case 'ticked': {
      if (isPast(draft.state, phase.deadlineMs)) return settleContributions(draft, phase, 'late');
      const { step, received, shards } = phase;
      const missing = missingFrom(shards, received);
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

/** What a gateway was given and has no contribution of comes back with the step. */
function withoutUnused(
  phase: PhaseOf<'collecting'>,
  { trainerId, used }: EventOf<'contributionReceived'>,
): PhaseOf<'collecting'> {
  if (used === undefined) return phase;
  const isUsed = new Set(used);
  const shards = phase.shards.map((shard) =>
    shard.trainerId === trainerId
      ? { trainerId, positions: shard.positions.filter((position) => isUsed.has(position)) }
      : shard,
  );
  return { ...phase, shards };
}

/** Once every remaining member's contribution is there, or the others are waited for no longer: sum and journal them. */
function settleContributions(draft: Draft, phase: PhaseOf<'collecting'>, cause: 'lost' | 'late'): Draft {
  const { step, shards } = phase;
  if (shards.length === 0) return abandonStep(draft, step, cause);
  if (isMissingAny(phase)) {
    if (!isPast(draft.state, phase.deadlineMs)) return enter(draft, phase);
    const missing = missingFrom(shards, phase.received);
    return settleContributions(...leaveUnanswered(draft, phase, missing, `step ${step}`), 'late');
  }
  if (totalTokens(phase.received) === 0) {
    return abandonStep(draft, step, 'fruitless');
  }
  const { kept: received, outliers } = judgeNorms(
    draft.state.plan.outliers,
    phase.received.filter(({ tokens }) => tokens > 0),
  );
  const used = shards.filter(({ trainerId }) => hasId(received, trainerId));
  const positions = used.flatMap((shard) => shard.positions);
  const { cursor: before, plan } = draft.state;
  const cursor = spendPositions(before, plan.batchSequences, positions);
  const committing = { phase: 'committing', step, kind: 'update', shards, received, cursor } as const;
  const ended = enter(endWait(draft), committing);
  const { assigned, late, waitMs } = ended.state.attendance;
  const attendance = { assigned, late, waitMs };
  const told = outliers.length === 0 ? {} : { outliers };
  const commit = { type: 'commitUpdate', step, received, shards: used, cursor, attendance, ...told } as const;
  return outliers.reduce(tellOutlier(step), emit(ended, commit));
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
