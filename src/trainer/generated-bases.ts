/** Bases that every trainer makes alike from the run's seed, in the form in which others come over the wire. Pure. */
import { bytesOf } from '../array-bytes.ts';
import { generatedBasis } from '../galore/projection/generated-basis.ts';
import type { ProjectedSlot } from '../galore/slot.ts';
import type { RunShape } from '../run-shape.ts';
import type { EncodedTensor } from './replica.ts';

/** @throws Error in a run whose bases come otherwise */
export function generateBases(
  { basis: source, slots }: RunShape,
  seed: number,
  step: number,
  indices: readonly number[],
): ReadonlyMap<number, EncodedTensor> {
  if (source !== 'random' && source !== 'gaussian') {
    throw new Error(`bases of source ${source} are not made here`);
  }
  return new Map(
    indices.map((index) => {
      const values = generatedBasis(source, seed, step, slots[index] as ProjectedSlot);
      return [index, { codec: 'f32', bytes: bytesOf(values) }];
    }),
  );
}
