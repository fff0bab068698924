/**
 * What happens to a slot's moments when its basis changes. GaLore keeps the numbers though they then
 * belong to other directions; `transport` carries them over by LDAdam's rule (arXiv 2410.16103, its
 * generalised projection-aware step), which does not depend on the signs of the basis vectors.
 */
import * as tf from '@tensorflow/tfjs-core';
import { TensorShapeError } from '../../errors.ts';
import type { Moments } from '../optimizer/adamw.ts';
import { biasCorrection } from '../optimizer/bias-correction.ts';
import type { Side } from '../slot.ts';

export type { Moments } from '../optimizer/adamw.ts';

/** `keep`: the reference's (the rank must stay); `reset`: zeros; `transport`: LDAdam's rule. */
export type MomentsRule = 'keep' | 'reset' | 'rotate' | 'transport' | 'adarank';

/** Two bases of one slot, `[d, r_old]` and `[d, r_new]`. */
export interface BasisChange {
  readonly oldBasis: tf.Tensor2D;
  readonly newBasis: tf.Tensor2D;
  readonly side: Side;
}

/**
 * The moments in the new basis; new tensors, the old ones stay the caller's. With C = P_new' P_old
 * `[r_new, r_old]`, c1 = 1 - b1^t, c2 = 1 - b2^t, t = `completedSteps`, for side left:
 *   M <- C M;  V <- c2 |(C o C)(V/c2 - (M/c1)^2) + (C M/c1)^2|.
 * The right side is the mirror image. Before the first step there is nothing to carry: zeros.
 */
export function transportMoments(
  moments: Moments,
  change: BasisChange,
  rule: MomentsRule,
  completedSteps: number,
  betas: readonly [number, number],
): Moments {
  const oldRank = change.oldBasis.shape[1];
  const newRank = change.newBasis.shape[1];
  if (rule === 'keep') {
    if (oldRank !== newRank) {
      throw new TensorShapeError(`moments of rank ${oldRank} cannot be kept at rank ${newRank}`);
    }
    return { m: tf.clone(moments.m), v: tf.clone(moments.v) };
  }
  if (rule === 'reset' || completedSteps === 0) {
    const [rows = 0, cols = 0] = moments.m.shape;
    const shape: [number, number] = change.side === 'left' ? [newRank, cols] : [rows, newRank];
    return { m: tf.zeros(shape), v: tf.zeros(shape) };
  }
  const c1 = biasCorrection(betas[0], completedSteps);
  const c2 = biasCorrection(betas[1], completedSteps);
  return tf.tidy(() => {
    const overlap: tf.Tensor = tf.matMul(change.newBasis, change.oldBasis, true, false); // C, [r_new, r_old]
    const rotate = (x: tf.Tensor, c: tf.Tensor): tf.Tensor =>
      change.side === 'left' ? tf.matMul(c, x) : tf.matMul(x, c, false, true);
    const m = rotate(moments.m, overlap);
    const variance = tf.sub(tf.div(moments.v, c2), tf.square(tf.div(moments.m, c1)));
    const second = tf.add(rotate(variance, tf.square(overlap)), tf.square(tf.div(m, c1)));
    return { m, v: tf.mul(tf.abs(second), c2) };
  });
}
