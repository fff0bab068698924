/**
 * SUMO (arXiv 2505.24749): momentum in the subspace, made orthogonal exactly: every direction of the
 * momentum gets the same length, which Muon's five Newton-Schulz steps only approach.
 *   M <- mu M + R,  O = U V' of M,  W <- W - lr alpha sqrt(max(m, n)) P O / l      (side left)
 * sqrt(max(m, n)) is the paper's; it makes the numbers of O about 1, as Adam's are, so that lr and alpha
 * mean what they mean for GaLore. The paper adds G - P P'G to the update as it is; only R travels here, so
 * that part is left out.
 */
import * as tf from '@tensorflow/tfjs-core';
import { carryFirstMoment } from '../projection/transport.ts';
import { hasBasis, matrixShape } from '../slot.ts';
import { liftOf, updatedWeight } from '../step-rule.ts';
import { adamwRule } from './adamw.ts';
import { channelSquares, rootOfSum } from './channel-scale.ts';
import { limitGrowth } from './norm-limiter.ts';
import { polarFactor } from './polar-factor.ts';
import type { OptimizerRule } from './rule.ts';

/** The rule of one-sided slots. Slots without a basis are updated by AdamW. */
export const sumoRule: OptimizerRule = {
  step(input) {
    const { slot, weight, payload, state, basis, hyper } = input;
    if (!hasBasis(slot)) return adamwRule.step(input);
    return tf.tidy(() => {
      const m = tf.add<tf.Tensor2D>(tf.mul(state['m'] as tf.Tensor, hyper.momentum), payload);
      const orthogonal = tf.mul<tf.Tensor2D>(polarFactor(m), Math.sqrt(Math.max(...matrixShape(slot))));
      const length = rootOfSum(channelSquares(orthogonal, null));
      const { factor, norm } = limitGrowth(length, state['norm'] as tf.Tensor1D, hyper.limiter);
      const direction = tf.mul(orthogonal, tf.mul(factor, hyper.learningRate * hyper.scale));
      return { weight: updatedWeight(weight, liftOf(slot, direction, basis), hyper), state: { m, norm } };
    });
  },
  carry(input) {
    const m = carryFirstMoment(input.state['m'] as tf.Tensor, input);
    return { m, norm: tf.clone(input.state['norm'] as tf.Tensor) };
  },
};
