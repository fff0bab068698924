/**
 * A slot's whole optimizer step on tensors, from the summed contribution to the new weight.
 * optimizer/reference.ts is the same rule in plain f64.
 *   torch:         W <- W (1 - lr wd);  W <- W - alpha lift(d)
 *   galore_torch:  W <- W - alpha lift(d);  W <- W (1 - lr wd)
 * d is Adam's direction; alpha (`scale`) is 1 for slots that travel dense.
 */
import * as tf from '@tensorflow/tfjs-core';
import { TensorShapeError } from '../errors.ts';
import { adamwStep, type AdamwOptions, type Moments } from './optimizer/adamw.ts';
import { lift } from './projection/project-lift.ts';
import type { Slot } from './slot.ts';

/** The numbers of one step; the same for every slot. */
export interface Hyperparameters extends AdamwOptions {
  readonly weightDecay: number;
  /** GaLore's alpha. */
  readonly scale: number;
}

/** A slot after a step. */
export interface UpdatedSlot extends Moments {
  readonly weight: tf.Tensor;
}

/**
 * Applies one summed contribution: `low` is R for a projected slot (with its basis), the gradient for
 * a dense one. Disposes nothing it was given; the three results are new.
 */
export function applyUpdate(
  weight: tf.Tensor,
  slot: Slot,
  low: tf.Tensor,
  moments: Moments,
  basis: tf.Tensor2D | null,
  hyper: Hyperparameters,
): UpdatedSlot {
  const isProjected = slot.policy === 'one-sided';
  if (isProjected && basis === null) throw new TensorShapeError(`${slot.name} is projected but has no basis`);
  return tf.tidy(() => {
    const { m, v, direction } = adamwStep(low, moments, hyper, isProjected ? hyper.scale : 1);
    const change =
      isProjected && basis !== null ? lift(direction as tf.Tensor2D, basis, slot.side) : direction;
    return { weight: decayAndSubtract(weight, change, hyper), m, v };
  });
}

function decayAndSubtract(weight: tf.Tensor, change: tf.Tensor, hyper: Hyperparameters): tf.Tensor {
  const kept = 1 - hyper.learningRate * hyper.weightDecay;
  if (kept === 1) return tf.sub(weight, change);
  return tf.tidy(() =>
    hyper.semantics === 'torch' ? tf.sub(tf.mul(weight, kept), change) : tf.mul(tf.sub(weight, change), kept),
  );
}
