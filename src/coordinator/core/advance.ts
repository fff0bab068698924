/**
 * The coordinator's rules: `advance(state, event)` gives the next state, the commands for the shell and,
 * in words, why nothing happens. Pure: no clock, no sockets, no files. This file deals with what is the
 * same in every phase and hands the rest to the phase's own file. See docs/coordinator-core.md.
 */
import { NOBODY } from './attendance.ts';
import { ById } from './by-id.ts';
import {
  advanceCheckpoint,
  dropStalledUploader,
  loseUploader,
  releaseLate,
  settleCheckpoint,
} from './checkpointing.ts';
import { advanceCollecting } from './collecting.ts';
import { advanceCommitting, stopCommitting } from './committing.ts';
import { forgetHash, receiveHash } from './divergence.ts';
import {
  begin,
  emit,
  expel,
  findTrainer,
  finish,
  markSeen,
  patch,
  patchTrainer,
  remark,
  shellFault,
  stopPausing,
  type Draft,
  type PhaseEvent,
} from './draft.ts';
import { abandonEvaluation, advanceEvaluating } from './evaluation.ts';
import { advanceFinishing, endRun, settleFinishing } from './finishing.ts';
import { acceptReady, admit, dropSilent, remove } from './membership.ts';
import { advanceFactorising, advanceSketching } from './refresh.ts';
import { exclusionOf, noteRefusal } from './refusals.ts';
import type { Cursor, Event, RunPlan, RunState, SlotBasis, Transition } from './state.ts';
import { abandonStep } from './stepping.ts';
import { advanceWaiting, settleWaiting } from './waiting.ts';

/** Where a run stands when the process starts: after its checkpoint and its journal have been read. */
export interface StartingPoint {
  readonly step: number;
  readonly sequence: number;
  readonly refreshedStep: number;
  readonly bases: readonly SlotBasis[];
  readonly cursor: Cursor;
  readonly checkpointedStep: number;
  readonly nowMs: number;
}

/** The state before the first event. No trainer is connected, none is known. */
export function initialState(plan: RunPlan, from: StartingPoint): RunState {
  return {
    plan,
    nowMs: from.nowMs,
    step: from.step,
    sequence: from.sequence,
    refreshedStep: from.refreshedStep,
    bases: from.bases,
    cursor: from.cursor,
    trainers: ById.of([]),
    phase: { phase: 'waiting', notBeforeMs: null },
    checkpoint: null,
    checkpointedStep: from.checkpointedStep,
    isCheckpointDue: false,
    attempts: 0,
    isStopping: false,
    isHurried: false,
    hasStarted: false,
    isResumed: from.sequence > 0,
    resumeAtMs: null,
    attendance: NOBODY,
    hashes: null,
    agreed: null,
    hasTied: false,
    refusals: [],
  };
}

/**
 * The next state, and what to do. Nothing a trainer can send makes it throw; it throws only for events
 * that our own shell must never report, such as a record committed that was not asked for.
 */
export function advance(state: RunState, event: Event): Transition {
  const draft = begin({ ...state, nowMs: Math.max(state.nowMs, event.nowMs) });
  if (state.phase.phase === 'finished') return finish(loseExpelled(afterTheEnd(draft, event)));
  return finish(settle(route(draft, event)));
}

/** What the event itself means. */
function route(draft: Draft, event: Event): Draft {
  const { state } = draft;
  if ('trainerId' in event && event.type !== 'trainerJoined') {
    if (findTrainer(state, event.trainerId) === undefined) return refuseStranger(draft, event);
    draft = markSeen(draft, event.trainerId);
  }
  switch (event.type) {
    case 'trainerJoined': {
      const isReplaced = findTrainer(state, event.trainerId) !== undefined;
      const cleared = isReplaced ? lose(draft, event.trainerId, 'it connected anew') : draft;
      const exclusion = exclusionOf(state, event.trainerId);
      if (exclusion !== null) return expel(cleared, event.trainerId, 'LIMIT_EXCEEDED', exclusion);
      return admit(cleared, event.trainerId);
    }
    case 'trainerReady':
      return acceptReady(draft, event);
    case 'trainerSeen':
      return draft;
    case 'capacityTold':
      return patchTrainer(draft, event.trainerId, { capacity: event.trainers });
    case 'trainerLost': {
      const { trainerId, reason, isRefused = false } = event;
      return lose(isRefused ? noteRefusal(draft, trainerId, reason) : draft, trainerId, reason);
    }
    case 'stateHashReceived':
      return receiveHash(draft, event);
    case 'snapshotProgressed':
    case 'snapshotReceived':
    case 'checkpointWritten':
    case 'checkpointFailed':
      return advanceCheckpoint(draft, event);
    case 'stopRequested':
      return stop(draft);
    case 'ticked':
      // Those who are gone are taken out first: they are lost, not late.
      return advancePhase(loseExpelled(dropStalledUploader(loseExpelled(dropSilent(draft)))), event);
    case 'contributionReceived':
    case 'evaluationReceived':
      if (!isCount(event.tokens) || !Number.isFinite(event.lossSum ?? 0)) return refuseNumbers(draft, event);
      return advancePhase(draft, event);
    case 'sketchReceived':
      if (!isCount(event.tokens)) return refuseNumbers(draft, event);
      return advancePhase(draft, event);
    case 'factorReceived':
    case 'recordCommitted':
    case 'recordFailed':
      return advancePhase(draft, event);
    default:
      return event satisfies never;
  }
}

function advancePhase(draft: Draft, event: PhaseEvent): Draft {
  const { phase } = draft.state;
  switch (phase.phase) {
    case 'waiting':
      return advanceWaiting(draft, phase, event);
    case 'sketching':
      return advanceSketching(draft, phase, event);
    case 'factorising':
      return advanceFactorising(draft, phase, event);
    case 'collecting':
      return advanceCollecting(draft, phase, event);
    case 'committing':
      return advanceCommitting(draft, phase, event);
    case 'evaluating':
      return advanceEvaluating(draft, phase, event);
    case 'finishing':
      return advanceFinishing(draft, phase, event);
    case 'finished':
      return draft;
    default:
      return phase satisfies never;
  }
}

/** What follows from where the event has left us: trainers to take out, a checkpoint, the next step, the end. */
function settle(draft: Draft): Draft {
  let next = loseExpelled(releaseLate(draft));
  const isWriting = next.state.phase.phase === 'committing';
  if (next.state.isHurried && !isWriting) return endRun(next);
  if (next.state.phase.phase !== 'finishing') next = settleCheckpoint(next);
  if (next.state.phase.phase === 'waiting') next = settleWaiting(next);
  const { phase } = next.state;
  return phase.phase === 'finishing' ? settleFinishing(next, phase) : next;
}

/** Closes the connections that are to be closed, and takes their trainers out. */
function loseExpelled(draft: Draft): Draft {
  let next = draft;
  for (;;) {
    const [expulsion, ...expelled] = next.expelled;
    if (expulsion === undefined) return next;
    next = emit({ ...next, expelled }, { type: 'closeConnection', ...expulsion });
    const { trainerId, reason, text } = expulsion;
    if (reason === 'INVALID_CONTRIBUTION') next = noteRefusal(next, trainerId, text);
    if (findTrainer(next.state, trainerId) !== undefined) next = lose(next, trainerId, null);
  }
}

/** A trainer is gone. `reason`: what the notes say about it; null where they have said it already. */
function lose(draft: Draft, trainerId: string, reason: string | null): Draft {
  const said = reason === null ? draft : remark(draft, `${trainerId} is lost: ${reason}`);
  const gone = forgetHash(loseUploader(stopPausing(remove(said, trainerId)), trainerId), trainerId);
  const { nowMs } = gone.state;
  return advancePhase(gone, { type: 'trainerLost', trainerId, reason: reason ?? '', nowMs });
}

/** The first stop ends the run in order, the second one at once. */
function stop(draft: Draft): Draft {
  const { phase, isStopping } = draft.state;
  const stopping = patch(draft, { isStopping: true, isHurried: isStopping });
  switch (phase.phase) {
    case 'sketching':
    case 'factorising':
    case 'collecting':
      return abandonStep(stopping, phase.step, 'stopped');
    case 'committing':
      return stopCommitting(stopping, phase);
    case 'evaluating':
      return abandonEvaluation(stopping, phase);
    default:
      return stopping;
  }
}

/** A message from a trainer that is not in the run. */
function refuseStranger(draft: Draft, event: Event & { readonly trainerId: string }): Draft {
  const { type, trainerId } = event;
  if (type === 'trainerLost') return remark(draft, `${trainerId} is lost: it was not in the run`);
  return expel(draft, trainerId, 'UNEXPECTED_MESSAGE', `${type} from a trainer that has not joined`);
}

function refuseNumbers(
  draft: Draft,
  event: Event & { readonly trainerId: string; readonly tokens: number },
): Draft {
  const loss = 'lossSum' in event ? ` and a loss sum of ${String(event.lossSum)}` : '';
  return expel(draft, event.trainerId, 'INVALID_CONTRIBUTION', `${event.tokens} tokens${loss}`);
}

function afterTheEnd(draft: Draft, event: Event): Draft {
  if (event.type === 'recordCommitted' || event.type === 'recordFailed')
    return shellFault('a record was written after the run had finished');
  const { phase } = draft.state;
  const isOver = phase.phase === 'finished' && phase.outcome === 'completed';
  if (event.type === 'trainerJoined') {
    const reason = isOver ? 'RUN_FINISHED' : 'COORDINATOR_STOPPING';
    return expel(draft, event.trainerId, reason, isOver ? 'the run has ended' : 'the run has stopped');
  }
  return remark(draft, `${event.type} after the run has ended; ignored`);
}

function isCount(tokens: number): boolean {
  return Number.isSafeInteger(tokens) && tokens >= 0;
}
