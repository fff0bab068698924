/**
 * Bases that nobody sends: every trainer makes them from the seed, with equal bits on every machine (only
 * + - * / and square roots in a fixed order). Row-major f32.
 */
import { derive } from '../../random.ts';
import { orthonormalise } from './factorise.ts';
import { portableNormal } from './portable-normal.ts';
import { signMatrix } from './sketch.ts';

/**
 * An orthonormal `[rows, rank]` basis in a random direction (GoLore, arXiv 2410.11289: late in training, when the
 * gradient is mostly noise, its leading subspace is that of the noise). Columns of signs, orthonormalised;
 * E[PP'] = (rank / rows) I. Costs 4 rows rank^2 operations. @throws TensorShapeError if rank > rows
 */
export function randomBasis(
  seed: number,
  step: number,
  slotIndex: number,
  rows: number,
  rank: number,
): Float32Array {
  const key = derive(seed, 'random-basis', step, slotIndex);
  return Float32Array.from(orthonormalise(signMatrix(key, rows, rank), rows, rank));
}

/**
 * A `[rows, rank]` matrix of independent normal numbers of variance 1 / rank, NOT orthonormal (Flora, arXiv 2402.03293;
 * APOLLO, arXiv 2412.05270): E[PP'] = I, and |P'x| is about |x|.
 */
export function gaussianBasis(
  seed: number,
  step: number,
  slotIndex: number,
  rows: number,
  rank: number,
): Float32Array {
  const key = derive(seed, 'gaussian-basis', step, slotIndex);
  const deviation = 1 / Math.sqrt(rank);
  const basis = new Float32Array(rows * rank);
  for (let i = 0; i < basis.length; i++) basis[i] = portableNormal(key, i) * deviation;
  return basis;
}
