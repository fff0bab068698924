/**
 * The trainers whose mean is taken, for rules that choose by distances (Krum): one pass over everything that was
 * sent, a tensor at a time, and then the contributions of the chosen with weights that sum to one again. Pure.
 */
import { Distances } from '../galore/aggregate/krum.ts';
import { openParts, type EncodedPart } from '../galore/aggregate/mean.ts';
import type { Aggregation } from '../galore/aggregate/rules.ts';
import type { WeightedTensors } from './update-sums.ts';

/** What all trainers sent of one tensor, in the order of the contributions. */
export interface ComparedTensor {
  readonly parts: readonly EncodedPart[];
  readonly count: number;
}

/**
 * Places of the chosen, ascending; null: the rule does not choose.
 * @param tensors are read one by one
 */
export function chooseTrainers(
  aggregation: Aggregation,
  trainers: number,
  tensors: Iterable<ComparedTensor>,
): readonly number[] | null {
  if (aggregation.by !== 'distance') return null;
  const distances = new Distances(trainers);
  for (const { parts, count } of tensors) distances.add(openParts(parts, count), count);
  return aggregation.choose(distances);
}

/** The contributions of the chosen alone: what counted for all of a step counts for it still. */
export function onlyOf(
  contributions: readonly WeightedTensors[],
  chosen: readonly number[],
): readonly WeightedTensors[] {
  const kept = chosen.map((place) => contributions[place]!);
  const share = kept.reduce((sum, { weight, scale = 1 }) => sum + weight / scale, 0);
  return kept.map(({ weight, scale = 1, tensors }) => ({
    weight: weight / share,
    scale: scale / share,
    tensors,
  }));
}
