/**
 * What all optimizer rules share on the way from a direction in the subspace to the new weight.
 * optimizer/reference.ts is the whole step in plain f64.
 *   torch:         W <- W (1 - lr wd);  W <- W - alpha lift(d)
 *   galore_torch:  W <- W - alpha lift(d);  W <- W (1 - lr wd)
 * alpha (`scale`) is 1 for slots without a basis; rules multiply it into d.
 */
import * as tf from '@tensorflow/tfjs-core';
import { TensorShapeError } from '../errors.ts';
import type { Semantics } from './optimizer/bias-correction.ts';
import { lift, liftCore } from './projection/project-lift.ts';
import { hasBasis, matrixShape, type Slot } from './slot.ts';

/** What multiplies a slot's update: its own scale or, without one, GaLore's alpha for a slot that is compressed and 1 for one that is not. */
export function scaleOf(slot: Slot, hyper: { readonly scale: number }): number {
  return slot.scale ?? (slot.rank === undefined ? 1 : hyper.scale);
}

/**
 * A direction of the subspace as one of the weight: PD, DP' or UDV'. Of a slot without a basis it is the
 * direction itself. A new tensor or the one that was given.
 * @throws TensorShapeError if the slot needs a basis and has none
 */
export function liftOf(slot: Slot, direction: tf.Tensor, basis: tf.Tensor2D | null): tf.Tensor {
  if (!hasBasis(slot)) return direction;
  if (basis === null) throw new TensorShapeError(`${slot.name} is projected but has no basis`);
  const low = direction as tf.Tensor2D;
  return slot.policy === 'two-sided'
    ? liftCore(low, basis, matrixShape(slot)[0])
    : lift(low, basis, slot.side);
}

/** W minus the change, with decoupled weight decay in the order the semantics ask for. A new tensor. */
export function updatedWeight(
  weight: tf.Tensor,
  change: tf.Tensor,
  hyper: { readonly learningRate: number; readonly weightDecay: number; readonly semantics: Semantics },
): tf.Tensor {
  const kept = 1 - hyper.learningRate * hyper.weightDecay;
  if (kept === 1) return tf.sub(weight, change);
  return tf.tidy(() =>
    hyper.semantics === 'torch' ? tf.sub(tf.mul(weight, kept), change) : tf.mul(tf.sub(weight, change), kept),
  );
}
