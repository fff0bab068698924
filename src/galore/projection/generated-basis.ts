/** The bases that every trainer makes for itself from the seed of the run (random-basis.ts), by slot. */
import { basisShape, matrixShape, type ProjectedSlot } from '../slot.ts';
import { gaussianBasis, randomBasis } from './random-basis.ts';
import { stackPair } from './two-sided.ts';

/** `random`: orthonormal columns (GoLore). `gaussian`: normal numbers of variance 1/r (Flora, APOLLO). */
export type GeneratedSource = 'random' | 'gaussian';

/** The basis of a slot in the refresh of step `step`, row-major, of shape `basisShape(slot)`. */
export function generatedBasis(
  source: GeneratedSource,
  seed: number,
  step: number,
  slot: ProjectedSlot,
): Float32Array {
  const make = source === 'random' ? randomBasis : gaussianBasis;
  if (slot.policy !== 'two-sided') return make(seed, step, slot.index, basisShape(slot)[0], slot.rank);
  const [m, n] = matrixShape(slot);
  // The numbers of the two streams differ by the slot's place, of which there are at most 2^13.
  const right = make(seed, step, slot.index + 2 ** 16, n, slot.rank);
  return stackPair({ left: make(seed, step, slot.index, m, slot.rank), right });
}
