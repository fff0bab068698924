/**
 * The answers of a step's members, and when they are whole: then they are one answer to the coordinator. An answer that
 * is not wanted is refused.
 */
import { membersOf } from '../../coordinator/core/assignment.ts';
import { byTrainerId } from '../../coordinator/core/draft.ts';
import type { Received } from '../../coordinator/core/state.ts';
import type { FactorOrder, GatewayState, StepState } from './gateway-state.ts';
import type { EventOf, Turn } from './turn.ts';

/** The step, if it is the one under way and the trainer has a part in it. */
export function workOf({ work }: GatewayState, trainerId: string, step: number): StepState | null {
  const isMember = work?.step === step && work.shards.some((shard) => shard.trainerId === trainerId);
  return isMember ? work : null;
}

/** Whether the trainer has answered in this phase. */
export function isHere({ received }: StepState, trainerId: string): boolean {
  return received.some((each) => each.trainerId === trainerId);
}

/** The members that have not. */
export function missingFrom(work: StepState): readonly string[] {
  return membersOf(work.shards).filter((trainerId) => !isHere(work, trainerId));
}

/** Its phase begins, and the time of it. */
export function enter(turn: Turn, work: StepState): void {
  const isAwaiting = work.phase !== 'waiting' && work.phase !== 'answered';
  const hasLimit = isAwaiting && work.patienceMs > 0;
  const deadlineMs = hasLimit ? turn.state.nowMs + work.patienceMs : null;
  turn.patch({ work: { ...work, deadlineMs } });
}

/** A member's answer of this phase. */
export function takeAnswer(turn: Turn, work: StepState, answer: Received): void {
  turn.patch({ work: { ...work, received: [...work.received, answer].sort(byTrainerId) } });
  settle(turn);
}

/** Sends the answer that is whole. */
export function settle(turn: Turn): void {
  const { work } = turn.state;
  if (work === null) return;
  const { step, round, shards, received, phase } = work;
  const giveUp = (): void => turn.reconnect(`no trainer of step ${step} is left`);
  if (phase === 'answered') return;
  if (shards.length === 0 && received.length === 0 && turn.ready.length === 0) return giveUp();
  if (phase === 'collecting') {
    if (missingFrom(work).length === 0) sendContribution(turn, work);
    return;
  }
  if (phase === 'sketching' && missingFrom(work).length > 0) return;
  if (shards.length === 0) return giveUp();
  if (phase === 'sketching') {
    enter(turn, { ...work, phase: 'waiting' });
    turn.emit({ type: 'sendSketches', step, round, received });
  }
  if (phase === 'factorising') sendFactors(turn, work);
}

function sendContribution(turn: Turn, work: StepState): void {
  const { step, shards, received } = work;
  enter(turn, { ...work, phase: 'answered' });
  const counted = received.filter(({ tokens }) => tokens > 0);
  const used = shards.filter(({ trainerId }) => counted.some((each) => each.trainerId === trainerId));
  turn.emit({ type: 'sendContribution', step, received: counted, shards: used });
}

/** Each order is answered by itself. */
function sendFactors(turn: Turn, work: StepState): void {
  const { step, round } = work;
  const isDue = ({ jobs, isSent }: FactorOrder): boolean => !isSent && jobs.every(({ isDone }) => isDone);
  const due = work.orders.filter(isDue);
  const orders = work.orders.map((order) => (isDue(order) ? { ...order, isSent: true } : order));
  const phase = orders.every(({ isSent }) => isSent) ? 'waiting' : 'factorising';
  turn.patch({ work: { ...work, orders, phase } });
  for (const { jobs } of due) turn.emit({ type: 'sendFactors', step, round, jobs });
}

/** An answer that is late, or was never asked for. `round`: of the refresh; Infinity: it is a contribution. */
export function refuse(
  turn: Turn,
  event: EventOf<'sketchReceived' | 'factorReceived' | 'contributionReceived'>,
  round: number,
): void {
  const { trainerId, step, type } = event;
  const { committedStep, trainers } = turn.state;
  const work = workOf(turn.state, trainerId, step);
  const isAhead =
    work !== null && work.phase !== 'answered' && (round > work.round || work.phase === 'waiting');
  const isRepeated = work !== null && isHere(work, trainerId);
  if ((step > committedStep + 1 || isAhead) && !isRepeated) {
    return turn.expel(trainerId, 'UNEXPECTED_MESSAGE', `${type} of step ${step} was not asked for`);
  }
  const reason = step <= committedStep ? 'it is late' : `step ${step} goes on without ${trainerId}`;
  turn.emit({ type: 'rejectStep', trainerId, step, reason });
  const isLagging = trainers.some((each) => each.trainerId === trainerId && each.status === 'lagging');
  if (type === 'contributionReceived' && isLagging) turn.setStatus([trainerId], 'ready');
}
