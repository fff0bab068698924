/**
 * The held-out loss after a step, measured by the ready trainers. The part of one that is lost, or late after a
 * quorum, goes to another; at the deadline the result is reported over what arrived.
 */
import { membersOf } from './assignment.ts';
import { scheduleCheckpoint } from './checkpointing.ts';
import {
  byTrainerId,
  emit,
  enter,
  isPast,
  nameSome,
  plural,
  readyTrainers,
  remark,
  shellFault,
  totalTokens,
  type Draft,
  type PhaseEvent,
  type PhaseOf,
} from './draft.ts';
import { refuseBreach, refuseWork } from './late.ts';
import { shardAmong } from './pace.ts';
import type { Effect, RunPlan, Shard } from './state.ts';
import { deadlineAfterAnswer, deadlineMs, leaveBehind, quorumOf, whyOver, type Wait } from './step-policy.ts';

/** Whether the held-out loss is measured after this step. */
export function isEvaluationDue(plan: RunPlan, step: number): boolean {
  const { evaluationSequences, evaluationEvery, totalSteps, isLocal } = plan;
  if (evaluationSequences === 0 && !isLocal) return false;
  return step === totalSteps || (evaluationEvery > 0 && step % evaluationEvery === 0);
}

/** After an update: evaluates if it is time to, else ends the step. */
export function beginEvaluation(draft: Draft): Draft {
  const { plan, step, isStopping } = draft.state;
  if (isStopping || !isEvaluationDue(plan, step)) return endStep(draft);
  const members = readyTrainers(draft.state);
  if (members.length === 0) {
    return endStep(remark(draft, `the evaluation of step ${step} is left out: no trainer is ready`));
  }
  const heldOut = Array.from({ length: plan.evaluationSequences }, (_, i) => i);
  const shards = shardAmong(draft.state, members, heldOut);
  const evaluating = {
    phase: 'evaluating',
    step,
    shards,
    received: [],
    deadlineMs: deadlineMs(draft.state),
  } as const;
  return shards.reduce((next, shard) => emit(next, assignEvaluation(step, shard)), enter(draft, evaluating));
}

export function advanceEvaluating(draft: Draft, phase: PhaseOf<'evaluating'>, event: PhaseEvent): Draft {
  switch (event.type) {
    case 'evaluationReceived': {
      const { trainerId, step, tokens, lossSum, correct } = event;
      const answered = phase.shards.find((shard) => shard.trainerId === trainerId);
      if (step !== phase.step || answered === undefined) return refuseWork(draft, event);
      const shards = phase.shards.filter((shard) => shard !== answered);
      const part = { trainerId, tokens, lossSum, ...(correct === undefined ? {} : { correct }) };
      const received = [...phase.received, part].sort(byTrainerId);
      const next = { ...phase, shards, received };
      const untilMs = deadlineAfterAnswer(draft.state, waitOf(draft, phase), doneBy(phase), doneBy(next));
      return settleEvaluations(draft, { ...next, deadlineMs: untilMs });
    }
    case 'trainerLost':
      return settleEvaluations(...handOn(draft, phase, event.trainerId));
    case 'sketchReceived':
    case 'factorReceived':
    case 'contributionReceived':
      // Nobody has been given the next step yet.
      return event.step > phase.step ? refuseBreach(draft, event) : refuseWork(draft, event);
    case 'ticked': {
      if (isPast(draft.state, phase.deadlineMs)) return goOnWithoutLate(draft, phase);
      const missing = membersOf(phase.shards);
      const parts = phase.received.length + phase.shards.length;
      return remark(
        draft,
        `evaluating step ${phase.step}: ${phase.received.length} of ${parts} parts are here; waiting for ${nameSome(missing)}`,
      );
    }
    case 'recordCommitted':
    case 'recordFailed':
      return shellFault(`a record was committed while step ${phase.step} was being evaluated`);
    default:
      return event satisfies never;
  }
}

/** Leaves off evaluating, because a stop was asked for. */
export function abandonEvaluation(draft: Draft, phase: PhaseOf<'evaluating'>): Draft {
  return endStep(remark(draft, `the evaluation of step ${phase.step} is left off`));
}

function settleEvaluations(draft: Draft, phase: PhaseOf<'evaluating'>): Draft {
  if (phase.shards.length === 0) return endEvaluation(draft, phase);
  return isPast(draft.state, phase.deadlineMs) ? goOnWithoutLate(draft, phase) : enter(draft, phase);
}

/** Trainers that have measured all that they were given. */
function doneBy({ shards, received }: PhaseOf<'evaluating'>): number {
  return askedOf({ shards, received }).length - membersOf(shards).length;
}

function askedOf({
  shards,
  received,
}: Pick<PhaseOf<'evaluating'>, 'shards' | 'received'>): readonly string[] {
  return membersOf([...shards, ...received]);
}

/** A quorum of those who were asked. */
function waitOf({ state }: Draft, phase: PhaseOf<'evaluating'>): Wait {
  return { deadlineMs: phase.deadlineMs, quorum: quorumOf(state.plan, askedOf(phase).length) };
}

/** After a quorum there are others who can measure the parts of the late ones; otherwise they are left out. */
function goOnWithoutLate(draft: Draft, phase: PhaseOf<'evaluating'>): Draft {
  const missing = membersOf(phase.shards);
  const wait = waitOf(draft, phase);
  const note = `the evaluation of step ${phase.step}: ${whyOver(draft.state, wait, doneBy(phase), missing)}`;
  const left = remark(leaveBehind(draft, missing), note);
  if (doneBy(phase) < wait.quorum) return endEvaluation(left, phase);
  const renewed = { ...phase, deadlineMs: deadlineMs(draft.state) };
  return settleEvaluations(
    ...missing.reduce<Handed>(([next, rest], id) => handOn(next, rest, id), [left, renewed]),
  );
}

function endEvaluation(draft: Draft, phase: PhaseOf<'evaluating'>): Draft {
  const { step, received } = phase;
  const tokens = totalTokens(received);
  if (tokens === 0) {
    return endStep(remark(draft, `the evaluation of step ${step} has no result: no token was measured`));
  }
  return endStep(emit(draft, { type: 'reportEvaluation', step, parts: received }));
}

type Handed = readonly [Draft, PhaseOf<'evaluating'>];

/** Gives a trainer's open parts to the ready trainers with the fewest open sequences. */
function handOn(draft: Draft, phase: PhaseOf<'evaluating'>, trainerId: string): Handed {
  const { step } = phase;
  const candidates = readyTrainers(draft.state);
  let shards = phase.shards.filter((shard) => shard.trainerId !== trainerId);
  let next = draft;
  for (const orphan of phase.shards.filter((shard) => shard.trainerId === trainerId)) {
    const heir = draft.state.plan.isLocal ? undefined : leastLoaded(candidates, shards);
    if (heir === undefined) {
      const what = draft.state.plan.isLocal
        ? 'the held-out data'
        : plural(orphan.positions.length, 'held-out sequence');
      next = remark(next, `left out: ${what} of ${trainerId}`);
      continue;
    }
    const shard = { trainerId: heir, positions: orphan.positions };
    shards = [...shards, shard];
    next = remark(
      emit(next, assignEvaluation(step, shard)),
      `${heir} evaluates ${plural(shard.positions.length, 'sequence')} in place of ${trainerId}`,
    );
  }
  return [next, { ...phase, shards }];
}

function leastLoaded(candidates: readonly string[], shards: readonly Shard[]): string | undefined {
  const openSequences = (trainerId: string): number =>
    shards
      .filter((shard) => shard.trainerId === trainerId)
      .reduce((sum, shard) => sum + shard.positions.length, 0);
  return candidates.reduce<string | undefined>(
    (best, candidate) =>
      best === undefined || openSequences(candidate) < openSequences(best) ? candidate : best,
    undefined,
  );
}

function assignEvaluation(step: number, shard: Shard): Effect {
  return { type: 'assignEvaluation', trainerId: shard.trainerId, step, sequences: shard.positions };
}

/** The step is over: a checkpoint may be due, and the next step begins when it can (see advance.ts). */
function endStep(draft: Draft): Draft {
  return enter(scheduleCheckpoint(draft), { phase: 'waiting', notBeforeMs: null });
}
