/**
 * APOLLO and APOLLO-Mini (arXiv 2412.05270): Adam on a random projection of the gradient, only to learn
 * how long the update of each channel (Mini: of the whole matrix) has to be; its direction is the
 * gradient's own.
 *   s_j = ||N_j|| / (||R_j|| + 1e-8),  W <- W - s sqrt(alpha) (s_j o G) / l
 * The reference can multiply by sqrt(alpha) before its limiter (`scale_front`); that changes the 1e-8
 * in the limiter's denominator and nothing else.
 */
import * as tf from '@tensorflow/tfjs-core';
import { updatedWeight } from '../step-rule.ts';
import { hasBasis } from '../slot.ts';
import { adamwRule } from './adamw.ts';
import {
  carryWithNorm,
  channelAxis,
  channelScale,
  channelSquares,
  rootOfSum,
  subspaceAdam,
} from './channel-scale.ts';
import { limitGrowth } from './norm-limiter.ts';
import type { OptimizerRule } from './rule.ts';

/** One scale a channel. */
export const apolloRule: OptimizerRule = apollo('channel');

/** One scale a matrix. */
export const apolloMiniRule: OptimizerRule = apollo('matrix');

/** The rule of dense slots with a basis. Slots without one are updated by AdamW. */
function apollo(scaleOf: 'channel' | 'matrix'): OptimizerRule {
  return {
    step(input) {
      const { slot, weight, state, hyper } = input;
      if (!hasBasis(slot)) return adamwRule.step(input);
      return tf.tidy(() => {
        const { gradient, low, normalised, m, v, stepSize } = subspaceAdam(slot, input);
        const axis = scaleOf === 'channel' ? channelAxis(slot) : null;
        const scales = channelScale(normalised, low, axis);
        const { factor, norm } = limitGrowth(
          rootOfSum(tf.mul(channelSquares(gradient, axis), tf.square(scales))),
          state['norm'] as tf.Tensor1D,
          hyper.limiter,
        );
        const perChannel = tf.mul(scales, tf.mul(factor, stepSize * Math.sqrt(hyper.scale)));
        const change = tf.mul(gradient, perChannel);
        return { weight: updatedWeight(weight, change, hyper), state: { m, v, norm } };
      });
    },
    carry: carryWithNorm,
  };
}
