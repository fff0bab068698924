/**
 * A step of the coordinator's: its sequences are split among the trainers that are ready, and a member that is lost or
 * too slow is gone on without.
 */
import { membersOf, shardEqually } from '../../coordinator/core/assignment.ts';
import { nameSome } from '../../coordinator/core/draft.ts';
import type { Shard } from '../../coordinator/core/state.ts';
import { enter, isHere, missingFrom, refuse, settle, takeAnswer, workOf } from './answering.ts';
import type { StepState } from './gateway-state.ts';
import { handOnJobs } from './refreshing.ts';
import type { EventOf, Turn } from './turn.ts';
import { dropWork } from './voiding.ts';

/** Of the time that the coordinator gives, so that what is here arrives before it gives the gateway up. */
const PATIENCE_SHARE = 0.9;

export function beginStep(turn: Turn, event: EventOf<'stepAssigned'>): void {
  const { step, positions, refreshSlots, deadlineMs } = event;
  dropWork(turn, `step ${step} begins`);
  const members = turn.ready;
  if (members.length === 0) return turn.reconnect(`no trainer is ready for step ${step}`);
  const shards: readonly Shard[] =
    positions === null
      ? members.map((trainerId) => ({ trainerId, positions: [] }))
      : shardEqually(positions, members);
  const patienceMs = Math.floor(PATIENCE_SHARE * deadlineMs);
  const phase = refreshSlots.length > 0 ? 'waiting' : 'collecting';
  const begun = { step, shards, phase, patienceMs } as const;
  enter(turn, { ...begun, round: 0, received: [], orders: [], deadlineMs: null });
  for (const shard of shards) turn.emit({ type: 'assignStep', step, ...shard });
  settle(turn);
}

export function takeContribution(turn: Turn, event: EventOf<'contributionReceived'>): void {
  const { trainerId, step, tokens, lossSum, weight } = event;
  const work = workOf(turn.state, trainerId, step);
  if (work?.phase !== 'collecting' || isHere(work, trainerId)) return refuse(turn, event, Infinity);
  const told = weight === undefined ? {} : { weight };
  takeAnswer(turn, work, { trainerId, tokens, lossSum, ...told });
}

/** The refresh of the step is over: contributions come next. */
export function takeBases(turn: Turn, step: number): void {
  const { work } = turn.state;
  if (work?.step !== step || work.phase === 'answered') return;
  enter(turn, { ...work, phase: 'collecting', received: [], orders: [] });
  settle(turn);
}

export function endStep(turn: Turn, step: number): void {
  const { work } = turn.state;
  turn.patch({ committedStep: step, work: null });
  if (work === null) return;
  turn.emit({ type: 'discardStaged', step: work.step });
  if (work.phase !== 'answered') beLate(turn, work);
}

/** The step went on without us. Those who have not answered will, with an empty contribution. */
function beLate(turn: Turn, work: StepState): void {
  const late = work.phase === 'collecting' ? missingFrom(work) : membersOf(work.shards);
  turn.setStatus(late, 'lagging');
  turn.remark(`step ${work.step} went on without ${nameSome(late)}`);
  // By this the coordinator knows that it can count on us again.
  if (turn.ready.length === 0) return;
  turn.emit({ type: 'sendContribution', step: work.step, received: [], shards: [] });
}

/** Past the deadline the step goes on without those who are missing. */
export function leaveBehind(turn: Turn): void {
  const { work, nowMs } = turn.state;
  if (work === null || work.deadlineMs === null || nowMs < work.deadlineMs) return;
  const missing =
    work.phase === 'factorising'
      ? membersOf(work.orders.flatMap(({ jobs }) => jobs.filter(({ isDone }) => !isDone)))
      : missingFrom(work);
  // With no answer at all there is nothing to go on with: it is for the coordinator to decide.
  if (missing.length === work.shards.length) return turn.patch({ work: { ...work, deadlineMs: null } });
  turn.remark(`step ${work.step} goes on without ${nameSome(missing)}`);
  turn.setStatus(missing, 'lagging');
  for (const trainerId of missing) dropMember(turn, trainerId);
}

/** Its part in the step comes back, unless its contribution is here. */
export function dropMember(turn: Turn, trainerId: string): void {
  const { work } = turn.state;
  if (work === null || work.phase === 'answered') return;
  if (work.phase === 'collecting' && isHere(work, trainerId)) return;
  const shards = work.shards.filter((shard) => shard.trainerId !== trainerId);
  const orders = handOnJobs(turn, work, trainerId, membersOf(shards));
  turn.patch({ work: { ...work, shards, orders } });
  settle(turn);
}
