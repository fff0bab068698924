/**
 * Checkpoints beside the steps: one trainer uploads the state that all share, and each what it alone has, while
 * all go on. All who are asked tell the hash of their weights, so that what is uploaded is what the others have.
 * One at a time; a lost uploader is replaced, and the newer state is taken then. A checkpoint is complete
 * without the local state of a trainer that is gone.
 */
import { endComparison, expectHashes, hashToldBy } from './divergence.ts';
import {
  emit,
  enter,
  expel,
  patch,
  plural,
  readyTrainers,
  remark,
  type Draft,
  type EventOf,
} from './draft.ts';
import { CHECKPOINT_GAPS, pauseAfter } from './pause.ts';
import type { CheckpointJob, Effect, TrainerState } from './state.ts';

/** An uploader of which no piece arrives for this long is dropped; it may be busy with a step before the first. */
export const SNAPSHOT_STALL_MS = 600_000;

/** What a snapshot's trainer, or the shell that writes it, reports. */
export type CheckpointEvent = EventOf<
  'snapshotProgressed' | 'snapshotReceived' | 'checkpointWritten' | 'checkpointFailed'
>;

/** At the end of a step: is a checkpoint due? The one of the last step is made while finishing. */
export function scheduleCheckpoint(draft: Draft): Draft {
  const { plan, step, checkpoint } = draft.state;
  if (plan.checkpointEvery === 0 || step % plan.checkpointEvery !== 0 || step >= plan.totalSteps)
    return draft;
  if (checkpoint === null) return patch(draft, { isCheckpointDue: true });
  return remark(
    draft,
    `the checkpoint of step ${step} is skipped: that of step ${checkpoint.step} is under way`,
  );
}

/** Asks the first ready trainer for a checkpoint that is due. */
export function settleCheckpoint(draft: Draft): Draft {
  const { isCheckpointDue, checkpoint, checkpointedStep, step } = draft.state;
  if (!isCheckpointDue || checkpoint !== null) return draft;
  if (checkpointedStep >= step) return patch(draft, { isCheckpointDue: false });
  const [uploader] = readyTrainers(draft.state);
  return uploader === undefined ? draft : requestCheckpoint(draft, uploader);
}

/** Asks this trainer for its state as it is after the last record, and the others for what they alone have. */
export function requestCheckpoint(draft: Draft, trainerId: string): Draft {
  const { plan, trainers, step, sequence, cursor, refreshedStep, bases, nowMs } = draft.state;
  const isAsked = ({ status }: TrainerState): boolean =>
    // One that is lagging has its local state, too; one that is loading is not asked: it may yet get one.
    plan.hasLocalState ? status !== 'loading' : plan.hashEvery > 0 && status === 'ready';
  const awaited = trainers
    .filter((trainer) => trainer.trainerId === trainerId || isAsked(trainer))
    .map((trainer) => trainer.trainerId);
  const job = { step, trainerId, status: 'requested', awaited, received: [], progressedMs: nowMs } as const;
  const begun = plan.hashEvery > 0 ? expectHashes(draft, awaited) : draft;
  return emit(
    patch(begun, { checkpoint: job, isCheckpointDue: false }),
    { type: 'requestSnapshot', trainerId, step, sequence, cursor, refreshedStep, bases },
    ...awaited
      .filter((other) => other !== trainerId)
      .map((other): Effect => ({ type: 'requestLocalState', trainerId: other, step, sequence })),
  );
}

export function advanceCheckpoint(draft: Draft, event: CheckpointEvent): Draft {
  const job = draft.state.checkpoint;
  switch (event.type) {
    case 'snapshotProgressed':
    case 'snapshotReceived': {
      const { trainerId, step } = event;
      if (step > draft.state.step) {
        const text = `a snapshot of step ${step} was not asked for; the run has committed ${plural(draft.state.step, 'step')}`;
        return expel(draft, trainerId, 'UNEXPECTED_MESSAGE', text);
      }
      if (job?.step !== step || !job.awaited.includes(trainerId)) {
        return remark(draft, `the snapshot of step ${step} from ${trainerId} is not awaited; ignored`);
      }
      const progressed = { ...job, progressedMs: draft.state.nowMs };
      if (event.type === 'snapshotProgressed') return patch(draft, { checkpoint: progressed });
      return awaitOthers(draft, { ...progressed, received: [...job.received, trainerId].sort() }, trainerId);
    }
    case 'checkpointWritten': {
      const { step } = event;
      if (job?.step !== step) return remark(draft, `the checkpoint of step ${step} was given up; ignored`);
      const checkpointedStep = Math.max(step, draft.state.checkpointedStep);
      return patch(draft, { checkpoint: null, checkpointedStep });
    }
    case 'checkpointFailed': {
      const { step, reason } = event;
      if (job?.step !== step) return remark(draft, `the checkpoint of step ${step} was given up; ignored`);
      const failed = remark(
        patch(draft, { checkpoint: null }),
        `the checkpoint of step ${step} failed: ${reason}`,
      );
      const { phase, isStopping, nowMs } = draft.state;
      // The steps go on without a checkpoint; the end of the run waits for its own.
      if (event.isDiskFull !== true || phase.phase !== 'finishing' || isStopping) return failed;
      const pause = pauseAfter(phase.pause, reason, nowMs, CHECKPOINT_GAPS);
      return enter(failed, { ...phase, tried: [], pause });
    }
    default:
      return event satisfies never;
  }
}

/** This trainer is waited for no longer; after the last one everything is written. */
function awaitOthers(draft: Draft, job: CheckpointJob, trainerId: string): Draft {
  const awaited = job.awaited.filter((other) => other !== trainerId);
  if (awaited.length > 0) return patch(draft, { checkpoint: { ...job, awaited } });
  const { step, received: trainerIds } = job;
  const compared = endComparison(draft, step);
  if (compared.state.checkpoint === null) return compared; // the uploader's weights are wrong
  const writing = patch(compared, { checkpoint: { ...job, awaited, status: 'writing' } });
  const weightsSha256 = hashToldBy(writing.state, job.trainerId, step);
  return emit(writing, { type: 'writeCheckpoint', step, trainerIds, weightsSha256 });
}

/**
 * Who was left behind is not waited for if there is nothing of its own to be had of it, and another has told the
 * hash of its weights.
 */
export function releaseLate(draft: Draft): Draft {
  const { checkpoint, plan, trainers } = draft.state;
  if (plan.hasLocalState || checkpoint?.status !== 'requested') return draft;
  if (!checkpoint.received.some((trainerId) => trainerId !== checkpoint.trainerId)) return draft;
  const late = trainers.find(
    ({ trainerId, status }) =>
      status === 'lagging' && trainerId !== checkpoint.trainerId && checkpoint.awaited.includes(trainerId),
  );
  return late === undefined ? draft : releaseLate(awaitOthers(draft, checkpoint, late.trainerId));
}

/** A lost trainer can finish no upload. What has arrived whole is written all the same. */
export function loseUploader(draft: Draft, trainerId: string): Draft {
  const { checkpoint } = draft.state;
  if (checkpoint?.awaited.includes(trainerId) !== true) return draft;
  if (checkpoint.trainerId !== trainerId) {
    const text = `the checkpoint of step ${checkpoint.step} goes without what ${trainerId} has`;
    return awaitOthers(remark(draft, text), checkpoint, trainerId);
  }
  const abandoned = emit(draft, { type: 'abandonCheckpoint', step: checkpoint.step });
  return remark(
    patch(abandoned, { checkpoint: null, isCheckpointDue: true }),
    `the checkpoint of step ${checkpoint.step} is given up: ${trainerId} was sending it`,
  );
}

/** Drops uploaders when none of them sends anything, though their connections are alive. */
export function dropStalledUploader(draft: Draft): Draft {
  const { checkpoint, nowMs } = draft.state;
  if (checkpoint?.status !== 'requested') return draft;
  const stalledMs = nowMs - checkpoint.progressedMs;
  if (stalledMs < SNAPSHOT_STALL_MS) return draft;
  const text = `nothing of the snapshot of step ${checkpoint.step} came for ${Math.floor(stalledMs / 1000)} s`;
  return checkpoint.awaited.reduce((next, trainerId) => expel(next, trainerId, 'TIMEOUT', text), draft);
}
