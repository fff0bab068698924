/**
 * Bases that every trainer makes for itself from the seed of the run: nothing of them travels. The same
 * on every machine: integers decide, and the few floating-point operations are those of one engine.
 */
import { derive, randomNormal } from '../../random.ts';
import { basisShape, matrixShape, type ProjectedSlot } from '../slot.ts';
import { orthonormalise } from './factorise.ts';

/** `random`: orthonormal columns, uniform among all (GoLore). `gaussian`: variance 1/r (Flora, APOLLO). */
export type GeneratedSource = 'random' | 'gaussian';

/** The basis of a slot in the refresh of step `step`, row-major, of shape `basisShape(slot)`. */
export function generatedBasis(
  source: GeneratedSource,
  seed: number,
  step: number,
  slot: ProjectedSlot,
): Float32Array {
  const [rows, columns] = basisShape(slot);
  const key = derive(seed, source, step, slot.index);
  const normals = Float64Array.from({ length: rows * columns }, (_, i) => randomNormal(key, i));
  if (source === 'gaussian') return Float32Array.from(normals, (value) => value / Math.sqrt(columns));
  if (slot.policy !== 'two-sided') return Float32Array.from(orthonormalise(normals, rows, columns));
  // U above V: each is orthonormal by itself.
  const [m, n] = matrixShape(slot);
  const upper = orthonormalise(normals.subarray(0, m * columns), m, columns);
  const lower = orthonormalise(normals.subarray(m * columns), n, columns);
  return Float32Array.from([...upper, ...lower]);
}
