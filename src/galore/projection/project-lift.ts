/**
 * Into the subspace and back (GaLore, arXiv 2403.03507, section 4). The side is always given: the
 * reference guesses it from shapes and is wrong for some. The basis P has orthonormal columns.
 * Results are new tensors that the caller disposes.
 */
import * as tf from '@tensorflow/tfjs-core';
import { product } from '../product.ts';
import type { Side } from '../slot.ts';

/** R = P'G for side left, `[r, n]`; R = GP for side right, `[m, r]`. */
export function project(gradient: tf.Tensor2D, basis: tf.Tensor2D, side: Side): tf.Tensor2D {
  return side === 'left' ? product(basis, gradient, true, false) : product(gradient, basis);
}

/** PR for side left, RP' for side right: `[m, n]`. Adjoint of `project`. */
export function lift(low: tf.Tensor2D, basis: tf.Tensor2D, side: Side): tf.Tensor2D {
  return side === 'left' ? tf.matMul(basis, low) : tf.matMul(low, basis, false, true);
}
