/**
 * Fira (arXiv 2410.01623): GaLore's step, and with it what the projection left out of the gradient, each
 * channel lengthened as Adam lengthened it in the subspace. Follows the reference code where the paper
 * differs: alpha P R is taken from G, and the rest is not multiplied by alpha.
 *   S = phi o (G - alpha P R) / l,  W <- W - s (alpha P N + S)      (side left; right is the mirror image)
 */
import * as tf from '@tensorflow/tfjs-core';
import { lift } from '../projection/project-lift.ts';
import { updatedWeight } from '../step-rule.ts';
import { hasBasis, type Side } from '../slot.ts';
import { adamwRule } from './adamw.ts';
import {
  carryWithNorm,
  channelAxis,
  channelScale,
  channelSquares,
  rootOfSum,
  subspaceAdam,
  type SubspaceAdam,
} from './channel-scale.ts';
import { limitGrowth } from './norm-limiter.ts';
import type { OptimizerRule } from './rule.ts';

/** The rule of dense slots with a basis. Slots without one are updated by AdamW. */
export const firaRule: OptimizerRule = {
  step(input) {
    const { slot, weight, state, hyper } = input;
    if (!hasBasis(slot)) return adamwRule.step(input);
    return tf.tidy(() => {
      const adam = subspaceAdam(slot, input);
      const { gradient, basis, low, normalised, m, v, stepSize } = adam;
      const axis = channelAxis(slot);
      const phi = channelScale(normalised, low, axis);
      // phi may move inside the lift, P (phi o R), unless a channel runs along the axis that P acts on.
      const isInside = axis === (slot.side === 'left' ? 0 : 1);
      const rest = isInside ? gradient : withoutSubspace(adam, hyper.scale, slot.side);
      const squares = isInside
        ? residualSquares(adam, hyper.scale, axis, slot.side)
        : channelSquares(rest, axis);
      const { factor, norm } = limitGrowth(
        rootOfSum(tf.mul(squares, tf.square(phi))),
        state['norm'] as tf.Tensor1D,
        hyper.limiter,
      );
      const perChannel = tf.mul(phi, tf.mul(factor, stepSize));
      const adamPart = tf.mul<tf.Tensor2D>(normalised, stepSize * hyper.scale);
      const lowPart = isInside
        ? tf.sub<tf.Tensor2D>(adamPart, tf.mul(low, tf.mul(perChannel, hyper.scale)))
        : adamPart;
      const change = tf.tidy(() => {
        const scaledRest = tf.mul(rest, perChannel);
        return tf.add(lift(lowPart, basis, slot.side), scaledRest);
      });
      return { weight: updatedWeight(weight, change, hyper), state: { m, v, norm } };
    });
  },
  carry: carryWithNorm,
};

/** G - alpha P R */
function withoutSubspace({ gradient, low, basis }: SubspaceAdam, scale: number, side: Side): tf.Tensor2D {
  return tf.tidy(() => tf.sub<tf.Tensor2D>(gradient, lift(tf.mul(low, scale), basis, side)));
}

/**
 * Squared norms of the channels of G - alpha P R without making it, for any basis, orthonormal or not:
 * ||G_j||^2 - 2 alpha ||R_j||^2 + alpha^2 R_j' (P'P) R_j.
 */
function residualSquares(
  { gradient, low, basis }: SubspaceAdam,
  scale: number,
  axis: 0 | 1,
  side: Side,
): tf.Tensor2D {
  return tf.tidy(() => {
    const gram = tf.matMul(basis, basis, true, false); // [r, r]
    const turned = side === 'left' ? tf.matMul(gram, low) : tf.matMul(low, gram);
    const weights = tf.sub(tf.mul(turned, scale * scale), tf.mul(low, 2 * scale));
    return tf.add(channelSquares(gradient, axis), tf.sum<tf.Tensor2D>(tf.mul(low, weights), axis, true));
  });
}
