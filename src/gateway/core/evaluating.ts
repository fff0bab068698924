/** Held-out sequences: split among the trainers that are ready; what they measure is one answer. */
import { shardEqually } from '../../coordinator/core/assignment.ts';
import { byTrainerId } from '../../coordinator/core/draft.ts';
import type { Shard } from '../../coordinator/core/state.ts';
import type { EvaluationState } from './gateway-state.ts';
import type { EventOf, Turn } from './turn.ts';

export function askEvaluation(turn: Turn, { job, step, sequences }: EventOf<'evaluationAsked'>): void {
  const members = turn.ready;
  if (members.length === 0) return turn.reconnect('no trainer is ready to evaluate');
  const shards: readonly Shard[] =
    sequences === null
      ? members.map((trainerId) => ({ trainerId, positions: [] }))
      : shardEqually(
          Array.from({ length: sequences }, (_, i) => i),
          members,
        );
  const evaluation = { job, step, shards, received: [], isOwn: sequences === null };
  turn.patch({ evaluations: [...turn.state.evaluations, evaluation] });
  for (const shard of shards) assign(turn, evaluation, shard);
  settle(turn);
}

/** A trainer answers in the order in which it was asked. */
export function takeEvaluation(turn: Turn, event: EventOf<'evaluationReceived'>): void {
  const { trainerId, step, tokens, lossSum, correct } = event;
  const { evaluations } = turn.state;
  const isOfIt = (shard: Shard): boolean => shard.trainerId === trainerId;
  const answered = evaluations.find((each) => each.step === step && each.shards.some(isOfIt));
  if (answered === undefined) return turn.remark(`an evaluation of ${trainerId} is not awaited`);
  const done = answered.shards.find(isOfIt);
  const part = { trainerId, tokens, lossSum, ...(correct === undefined ? {} : { correct }) };
  const next = {
    ...answered,
    shards: answered.shards.filter((shard) => shard !== done),
    received: [...answered.received, part].sort(byTrainerId),
  };
  turn.patch({ evaluations: evaluations.map((each) => (each === answered ? next : each)) });
  settle(turn);
}

/** What a lost trainer was measuring is measured by another; what it has itself, by nobody. */
export function handOnEvaluations(turn: Turn, trainerId: string): void {
  const [heir] = turn.ready;
  const evaluations = turn.state.evaluations.map((evaluation) => {
    const shards = evaluation.shards.flatMap((shard): readonly Shard[] => {
      if (shard.trainerId !== trainerId) return [shard];
      if (heir === undefined || evaluation.isOwn) return [];
      const given = { trainerId: heir, positions: shard.positions };
      assign(turn, evaluation, given);
      return [given];
    });
    return { ...evaluation, shards };
  });
  turn.patch({ evaluations });
  if (heir === undefined && evaluations.length > 0) return turn.reconnect('no trainer is left to evaluate');
  settle(turn);
}

/** Sends what is whole. */
function settle(turn: Turn): void {
  for (const { job, step, shards, received } of turn.state.evaluations) {
    if (shards.length > 0) continue;
    turn.emit({ type: 'sendEvaluation', job, step, parts: received });
    turn.patch({ evaluations: turn.state.evaluations.filter((each) => each.job !== job) });
  }
}

function assign(turn: Turn, { job, step, isOwn }: EvaluationState, { trainerId, positions }: Shard): void {
  const sequences = isOwn ? null : positions;
  turn.emit({ type: 'assignEvaluation', trainerId, job, step, sequences });
}
