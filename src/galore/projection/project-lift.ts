/**
 * Into the subspace and back (GaLore, arXiv 2403.03507, section 4). The side is always given: the
 * reference guesses it from shapes and is wrong for some. The basis P has orthonormal columns.
 * Results are new tensors that the caller disposes.
 */
import * as tf from '@tensorflow/tfjs-core';
import { TensorShapeError } from '../../errors.ts';
import { numbersOf, product, productFactor } from '../product.ts';
import { hasBasis, type Side, type Slot } from '../slot.ts';

/**
 * How the projections below multiply. `product` is for what a trainer makes of its own gradients; what
 * every trainer has to make alike, of a summed gradient or a weight, takes `tf.matMul`: always f32.
 */
export type Multiply = (
  a: tf.Tensor2D,
  b: tf.Tensor2D,
  transposeA?: boolean,
  transposeB?: boolean,
) => tf.Tensor2D;

/** R = P'G for side left, `[r, n]`; R = GP for side right, `[m, r]`. */
export function project(
  gradient: tf.Tensor2D,
  basis: tf.Tensor2D,
  side: Side,
  multiply: Multiply = product,
): tf.Tensor2D {
  return side === 'left' ? multiply(basis, gradient, true, false) : multiply(gradient, basis);
}

/** PR for side left, RP' for side right: `[m, n]`. Adjoint of `project`. */
export function lift(low: tf.Tensor2D, basis: tf.Tensor2D, side: Side): tf.Tensor2D {
  return side === 'left' ? tf.matMul(basis, low) : tf.matMul(low, basis, false, true);
}

/** The core U'GV, `[r, r]`; `basis` is U `[m, r]` above V `[n, r]`. */
export function projectCore(
  gradient: tf.Tensor2D,
  basis: tf.Tensor2D,
  multiply: Multiply = product,
): tf.Tensor2D {
  return tf.tidy(() => {
    const [u, v] = splitBases(basis, gradient.shape[0]);
    if (multiply === product) return product(productFactor(u, gradient, true, false), v);
    return multiply(multiply(u, gradient, true, false), v);
  });
}

/** UCV', `[m, n]`, with `rows` = m. Adjoint of `projectCore`. */
export function liftCore(core: tf.Tensor2D, basis: tf.Tensor2D, rows: number): tf.Tensor2D {
  return tf.tidy(() => {
    const [u, v] = splitBases(basis, rows);
    return tf.matMul(tf.matMul(u, core), v, false, true);
  });
}

function splitBases(basis: tf.Tensor2D, rows: number): [tf.Tensor2D, tf.Tensor2D] {
  return [tf.slice(basis, [0, 0], [rows, -1]), tf.slice(basis, [rows, 0], [-1, -1])];
}

/** What travels of a gradient, which may be a factor: R, the core, or (policies `dense` and `row-sparse`) itself, as a new tensor. */
export function payloadOf(
  slot: Slot,
  gradient: tf.Tensor,
  basis: tf.Tensor2D | null,
  multiply: Multiply = product,
): tf.Tensor {
  if (slot.policy === 'dense' || slot.policy === 'row-sparse') return numbersOf(gradient);
  if (!hasBasis(slot) || basis === null) throw new TensorShapeError(`${slot.name} has no basis yet`);
  const matrix = gradient as tf.Tensor2D;
  return slot.policy === 'two-sided'
    ? projectCore(matrix, basis, multiply)
    : project(matrix, basis, slot.side, multiply);
}
