/** The one answer that a gateway makes of those of its trainers, but for its tensors. Pure. */
import type { EvaluationPart, Received, Shard } from '../../coordinator/core/state.ts';
import type { ContributionMessage, EvaluationMessage, Member } from '../../protocol/messages.ts';

/**
 * The Contribution of these trainers together; without any, the empty one.
 * @param isWeighed whether contributions count by something else than their tokens
 */
export function summedContribution(
  step: number,
  received: readonly Received[],
  shards: readonly Shard[],
  isWeighed: boolean,
): Omit<ContributionMessage, 'checksum'> {
  const kind = 'contribution';
  if (received.length === 0) return { kind, step, tokens: 0, lossSum: 0 };
  const tokens = sumOf(received, (each) => each.tokens);
  const members = received.map(({ trainerId, tokens: own, weight = own }): Member => {
    const positions = shards.find((shard) => shard.trainerId === trainerId)?.positions ?? [];
    return { trainerId, tokens: own, positions, ...(weight === own ? {} : { weight }) };
  });
  const weight = sumOf(received, (each) => each.weight ?? each.tokens);
  return { kind, step, tokens, ...lossOf(received, tokens), ...(isWeighed ? { weight } : {}), members };
}

/** Of those that tell theirs, as if the mean of the others were the same. */
function lossOf(
  received: readonly Received[],
  tokens: number,
): Pick<ContributionMessage, 'lossSum' | 'isLossWithheld'> {
  const told = received.filter(({ lossSum }) => lossSum !== null);
  if (told.length === 0) return { lossSum: 0, isLossWithheld: true };
  const lossSum = sumOf(told, (each) => each.lossSum!);
  if (told.length === received.length) return { lossSum };
  return { lossSum: (lossSum / sumOf(told, (each) => each.tokens)) * tokens };
}

/** The Evaluation of these parts together. A trainer that keeps its loss to itself has told of no token. */
export function summedEvaluation(step: number, parts: readonly EvaluationPart[]): EvaluationMessage {
  const tokens = sumOf(parts, (part) => part.tokens);
  if (tokens === 0) return { kind: 'evaluation', step, tokens, lossSum: 0, isLossWithheld: true };
  const correct = parts.every((part) => part.correct === undefined)
    ? {}
    : { correct: sumOf(parts, (part) => part.correct ?? 0) };
  return { kind: 'evaluation', step, tokens, lossSum: sumOf(parts, (part) => part.lossSum), ...correct };
}

function sumOf<T>(items: readonly T[], numberOf: (item: T) => number): number {
  return items.reduce((sum, item) => sum + numberOf(item), 0);
}
