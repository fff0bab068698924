/**
 * The rounds of a refresh: every member sketches, and what the coordinator wants factorised is dealt out to the members.
 */
import { membersOf } from '../../coordinator/core/assignment.ts';
import { dealSlots } from '../../coordinator/core/refresh.ts';
import type { FactorJob } from '../../coordinator/core/state.ts';
import { enter, isHere, refuse, settle, takeAnswer, workOf } from './answering.ts';
import type { FactorOrder, StepState } from './gateway-state.ts';
import type { EventOf, Turn } from './turn.ts';

export function askSketches(turn: Turn, { step, round, slots }: EventOf<'sketchesAsked'>): void {
  const { work } = turn.state;
  if (work?.step !== step) return turn.reconnect(`there is no work of step ${step} to sketch`);
  enter(turn, { ...work, phase: 'sketching', round, received: [], orders: [] });
  const trainerIds = membersOf(work.shards);
  turn.emit({ type: 'requestSketches', trainerIds, step, round, slots });
}

export function takeSketch(turn: Turn, event: EventOf<'sketchReceived'>): void {
  const { trainerId, step, round, tokens } = event;
  const work = workOf(turn.state, trainerId, step);
  if (work?.phase !== 'sketching' || work.round !== round || isHere(work, trainerId)) {
    return refuse(turn, event, round);
  }
  takeAnswer(turn, work, { trainerId, tokens, lossSum: 0 });
}

export function askFactors(turn: Turn, { step, round, slots, isFinal }: EventOf<'factorsAsked'>): void {
  const { work } = turn.state;
  if (work?.step !== step) return turn.reconnect(`there is no member of step ${step} to factorise`);
  const jobs = dealSlots(slots, membersOf(work.shards));
  const orders = [...work.orders, { jobs, isFinal, isSent: false }];
  enter(turn, { ...work, phase: 'factorising', round, orders });
  for (const job of jobs) assign(turn, { step, round }, job, isFinal);
  settle(turn);
}

export function takeFactor(turn: Turn, event: EventOf<'factorReceived'>): void {
  const { trainerId, step, round, slots } = event;
  const work = workOf(turn.state, trainerId, step);
  if (work?.phase !== 'factorising' || work.round !== round) return refuse(turn, event, round);
  const isOne = (job: FactorJob): boolean => job.trainerId === trainerId && isSameSet(job.slots, slots);
  const orders = work.orders.map((order) => ({
    ...order,
    jobs: order.jobs.map((job) => (isOne(job) ? { ...job, isDone: true } : job)),
  }));
  turn.patch({ work: { ...work, orders } });
  settle(turn);
}

/** The orders with what the trainer has not done given to the first of the heirs; without one it is dropped. */
export function handOnJobs(
  turn: Turn,
  work: StepState,
  trainerId: string,
  [heir]: readonly string[],
): readonly FactorOrder[] {
  return work.orders.map((order) => ({
    ...order,
    jobs: order.jobs.flatMap((job) => {
      if (job.trainerId !== trainerId || job.isDone) return [job];
      if (heir === undefined) return [];
      const given = { ...job, trainerId: heir };
      assign(turn, work, given, order.isFinal);
      return [given];
    }),
  }));
}

function assign(
  turn: Turn,
  { step, round }: Pick<StepState, 'step' | 'round'>,
  { trainerId, slots }: FactorJob,
  isFinal: boolean,
): void {
  turn.emit({ type: 'assignFactors', trainerId, step, round, slots, isFinal });
}

function isSameSet(a: readonly number[], b: readonly number[]): boolean {
  const inA = new Set(a);
  return a.length === b.length && b.every((slot) => inA.has(slot));
}
