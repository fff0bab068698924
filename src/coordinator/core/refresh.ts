/**
 * The refresh: rounds of sketches from every member, summed in the shell and factorised on members.
 * A round goes on with the sketches that are there; a factor that does not come is asked of another.
 * See docs/coordinator-core.md, "Refresh".
 */
import { leaveUnanswered, takeAnswer } from './answers.ts';
import { membersOf } from './assignment.ts';
import { endWait } from './attendance.ts';
import {
  emit,
  enter,
  isPast,
  nameSome,
  plural,
  remark,
  shellFault,
  totalTokens,
  type Draft,
  type EventOf,
  type PhaseEvent,
  type PhaseOf,
} from './draft.ts';
import { isMember, refuseBreach, refuseWork } from './late.ts';
import { describeOutlier, judgeNorms } from './outliers.ts';
import type { FactorJob } from './state.ts';
import {
  deadlineAfterAnswer,
  deadlineMs,
  leaveBehind,
  quorumOf,
  stepQuorum,
  whyOver,
  type Wait,
} from './step-policy.ts';
import { abandonStep, enterSketching, isMissingAny, missingFrom } from './stepping.ts';

export function advanceSketching(draft: Draft, phase: PhaseOf<'sketching'>, event: PhaseEvent): Draft {
  switch (event.type) {
    case 'sketchReceived': {
      const { trainerId, step, round } = event;
      if (step !== phase.step || !isMember(draft.state, trainerId)) return refuseWork(draft, event);
      if (round > phase.round) return refuseBreach(draft, event);
      const isHere = phase.received.has(trainerId);
      if (round < phase.round || isHere) return refuseWork(draft, event);
      return settleSketches(...takeAnswer(draft, phase, { ...event, lossSum: 0 }), 'lost');
    }
    case 'trainerLost': {
      const shards = phase.shards.filter((shard) => shard.trainerId !== event.trainerId);
      return settleSketches(draft, { ...phase, shards }, 'lost');
    }
    case 'factorReceived':
      return isAhead(draft, phase, event) ? refuseBreach(draft, event) : refuseWork(draft, event);
    case 'contributionReceived':
      return isOwnStep(draft, phase, event) ? refuseBreach(draft, event) : refuseWork(draft, event);
    case 'evaluationReceived':
      return refuseWork(draft, event);
    case 'ticked': {
      if (isPast(draft.state, phase.deadlineMs)) return settleSketches(draft, phase, 'late');
      const { step, round, shards } = phase;
      const missing = missingFrom(shards, phase.received);
      const here = membersOf(shards).length - missing.length;
      return remark(
        draft,
        `step ${step}: refresh round ${round} has ${here} of ${shards.length} sketches; waiting for ${nameSome(missing)}`,
      );
    }
    case 'recordCommitted':
    case 'recordFailed':
      return shellFault(`a record was committed while step ${phase.step} was sketching`);
    default:
      return event satisfies never;
  }
}

export function advanceFactorising(draft: Draft, phase: PhaseOf<'factorising'>, event: PhaseEvent): Draft {
  switch (event.type) {
    case 'factorReceived': {
      const { trainerId, step, round, slots } = event;
      if (step !== phase.step || !isMember(draft.state, trainerId)) return refuseWork(draft, event);
      if (round < phase.round) return refuseWork(draft, event);
      const own = phase.jobs.filter((job) => job.trainerId === trainerId && isSameSet(job.slots, slots));
      if (round > phase.round || own.length === 0) return refuseBreach(draft, event);
      if (own.every((job) => job.isDone)) return refuseWork(draft, event);
      const jobs = phase.jobs.map((job) => (own.includes(job) ? { ...job, isDone: true } : job));
      const [before, now] = [doneMembers(phase.jobs), doneMembers(jobs)];
      const untilMs = deadlineAfterAnswer(draft.state, factorWait(draft, phase), before, now);
      return settleFactors(draft, { ...phase, jobs, deadlineMs: untilMs });
    }
    case 'trainerLost':
      return dropFactorisers(draft, phase, [event.trainerId], 'lost');
    case 'sketchReceived':
      return isOwnStep(draft, phase, event) && event.round > phase.round
        ? refuseBreach(draft, event)
        : refuseWork(draft, event);
    case 'contributionReceived':
      return isOwnStep(draft, phase, event) ? refuseBreach(draft, event) : refuseWork(draft, event);
    case 'evaluationReceived':
      return refuseWork(draft, event);
    case 'ticked': {
      if (isPast(draft.state, phase.deadlineMs)) return dropLateFactorisers(draft, phase);
      const open = phase.jobs.filter((job) => !job.isDone);
      const missing = membersOf(open);
      const done = phase.jobs.length - open.length;
      return remark(
        draft,
        `step ${phase.step}: refresh round ${phase.round} has ${done} of ${phase.jobs.length} factor jobs; waiting for ${nameSome(missing)}`,
      );
    }
    case 'recordCommitted':
    case 'recordFailed':
      return shellFault(`a record was committed while step ${phase.step} was factorising`);
    default:
      return event satisfies never;
  }
}

/** Deals the slots out one by one, so that the numbers differ by at most one; jobs in the members' order. */
export function dealSlots(slots: readonly number[], members: readonly string[]): readonly FactorJob[] {
  // Who comes after the last slot has none.
  return members.slice(0, slots.length).map((trainerId, k) => ({
    trainerId,
    slots: slots.filter((_, i) => i % members.length === k),
    isDone: false,
  }));
}

/** Once every remaining member's sketch is there, or the others are waited for no longer: sum and factorise. */
function settleSketches(draft: Draft, phase: PhaseOf<'sketching'>, cause: 'lost' | 'late'): Draft {
  const { step, round, slots, shards, received } = phase;
  if (shards.length === 0) return abandonStep(draft, step, cause);
  if (isMissingAny(phase)) {
    if (!isPast(draft.state, phase.deadlineMs)) return enter(draft, phase);
    const missing = missingFrom(shards, received);
    const what = `step ${step}, refresh round ${round}`;
    return settleSketches(...leaveUnanswered(draft, phase, missing, what), 'late');
  }
  if (totalTokens(received) === 0) {
    // Contributions would be as empty: the sequences are the same.
    return abandonStep(draft, step, 'fruitless');
  }
  const jobs = dealSlots(slots, membersOf(shards));
  const isFinal = round === draft.state.plan.refreshRounds;
  const { kept: weights, outliers } = judgeNorms(
    draft.state.plan.outliers,
    received.filter(({ tokens }) => tokens > 0),
  );
  const factorising = enter(endWait(draft), {
    phase: 'factorising',
    step,
    round,
    slots,
    shards,
    jobs,
    deadlineMs: deadlineMs(draft.state),
  });
  const told = outliers.reduce((next, outlier) => {
    const end = outlier.action === 'clip' ? 'is clipped' : 'does not count';
    const note = `step ${step}: the sketch of ${outlier.trainerId} ${end}: ${describeOutlier(outlier)}`;
    return remark(next, note);
  }, factorising);
  const summed = emit(told, { type: 'sumSketches', step, round, weights });
  return jobs.reduce((next, job) => emit(next, assignFactors(step, round, job, isFinal)), summed);
}

/** Members that have done all of their jobs. */
function doneMembers(jobs: readonly FactorJob[]): number {
  const open = membersOf(jobs.filter((job) => !job.isDone));
  return membersOf(jobs).length - open.length;
}

/** A quorum of those who have jobs, or so many that, without the others, there is still a quorum of the step. */
function factorWait({ state }: Draft, { deadlineMs: untilMs, jobs, shards }: PhaseOf<'factorising'>): Wait {
  const [busy, members] = [membersOf(jobs).length, membersOf(shards).length];
  const spare = members - stepQuorum(state, members);
  return { deadlineMs: untilMs, quorum: Math.max(quorumOf(state.plan, busy), busy - spare) };
}

function dropLateFactorisers(draft: Draft, phase: PhaseOf<'factorising'>): Draft {
  const missing = membersOf(phase.jobs.filter((job) => !job.isDone));
  const why = whyOver(draft.state, factorWait(draft, phase), doneMembers(phase.jobs), missing);
  const note = `step ${phase.step}, refresh round ${phase.round}, factors: ${why}`;
  return dropFactorisers(remark(leaveBehind(draft, missing), note), phase, missing, 'late');
}

/** Once every job is done: the next round, or the new bases go to the journal. */
function settleFactors(draft: Draft, phase: PhaseOf<'factorising'>): Draft {
  const { step, round, slots, shards, jobs } = phase;
  if (jobs.some((job) => !job.isDone)) {
    return isPast(draft.state, phase.deadlineMs) ? dropLateFactorisers(draft, phase) : enter(draft, phase);
  }
  if (round < draft.state.plan.refreshRounds) {
    return enterSketching(draft, { step, round: round + 1, slots, shards, jobs });
  }
  const { cursor } = draft.state;
  const committing = { phase: 'committing', step, kind: 'basis', shards, received: [], cursor } as const;
  return emit(enter(draft, committing), { type: 'commitBases', step, slots, jobs });
}

/** Gives the open jobs of trainers that are gone or late to the members with the fewest open slots. */
function dropFactorisers(
  draft: Draft,
  phase: PhaseOf<'factorising'>,
  gone: readonly string[],
  cause: 'lost' | 'late',
): Draft {
  const { step, round } = phase;
  const shards = phase.shards.filter((shard) => !gone.includes(shard.trainerId));
  if (shards.length === 0) return abandonStep(draft, step, cause);
  const isFinal = round === draft.state.plan.refreshRounds;
  let next = draft;
  let jobs = phase.jobs.filter((job) => job.isDone || !gone.includes(job.trainerId));
  const orphans = phase.jobs.filter((job) => !job.isDone && gone.includes(job.trainerId));
  for (const { trainerId: from, slots } of orphans) {
    const job = { trainerId: leastLoaded(membersOf(shards), jobs), slots, isDone: false };
    jobs = [...jobs, job];
    next = remark(
      emit(next, assignFactors(step, round, job, isFinal)),
      `step ${step}: ${job.trainerId} factorises ${plural(slots.length, 'slot')} in place of ${from}`,
    );
  }
  const renewed = orphans.length > 0 ? deadlineMs(draft.state) : phase.deadlineMs;
  return settleFactors(next, { ...phase, shards, jobs, deadlineMs: renewed });
}

function leastLoaded(members: readonly string[], jobs: readonly FactorJob[]): string {
  const openSlots = (trainerId: string): number =>
    jobs
      .filter((job) => job.trainerId === trainerId && !job.isDone)
      .reduce((sum, job) => sum + job.slots.length, 0);
  return members.reduce((best, candidate) => (openSlots(candidate) < openSlots(best) ? candidate : best));
}

function assignFactors(step: number, round: number, { trainerId, slots }: FactorJob, isFinal: boolean) {
  return { type: 'assignFactors', trainerId, step, round, slots, isFinal } as const;
}

/** From a member and about the step being worked on. */
function isOwnStep(
  draft: Draft,
  phase: { readonly step: number },
  event: { readonly trainerId: string; readonly step: number },
): boolean {
  return event.step === phase.step && isMember(draft.state, event.trainerId);
}

/** A factor of a round that has not come to its factorisation. */
function isAhead(draft: Draft, phase: PhaseOf<'sketching'>, event: EventOf<'factorReceived'>): boolean {
  return isOwnStep(draft, phase, event) && event.round >= phase.round;
}

function isSameSet(a: readonly number[], b: readonly number[]): boolean {
  const inA = new Set(a);
  return a.length === b.length && b.every((slot) => inA.has(slot));
}
