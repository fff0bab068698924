/** The bases that every trainer makes for itself from the seed of the run (random-basis.ts), by slot. */
import { basisShape, type ProjectedSlot } from '../slot.ts';
import { gaussianBasis, randomBasis } from './random-basis.ts';

/** `random`: orthonormal columns (GoLore). `gaussian`: normal numbers of variance 1/r (Flora, APOLLO). */
export type GeneratedSource = 'random' | 'gaussian';

/** The basis of a slot in the refresh of step `step`, row-major, of shape `basisShape(slot)`. */
export function generatedBasis(
  source: GeneratedSource,
  seed: number,
  step: number,
  slot: ProjectedSlot,
): Float32Array {
  const [rows, rank] = basisShape(slot);
  const make = source === 'random' ? randomBasis : gaussianBasis;
  return make(seed, step, slot.index, rows, rank);
}
