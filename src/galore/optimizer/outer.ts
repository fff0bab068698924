/**
 * What is done with the mean displacement D of local steps: the outer optimizer (DiLoCo, arXiv 2311.08105),
 * in the coordinates of the slot's payload, so that its state has the payload's shape and is carried over at
 * a refresh like any moment. -D stands for a gradient:
 *   outer:           W <- W + lr lift(D); with lr 1 the mean of the trainers' weights
 *   outer-nesterov:  U <- mu U + D;  W <- W + lr lift(D + mu U)
 *   outer-adam:      Adam's direction for -D at the rate lr H eta, times the slot's scale
 * lr is the outer learning rate, eta that of the step, H the local steps a displacement stands for: so W decays by
 * H eta wd, for local steps do not decay.
 */
import * as tf from '@tensorflow/tfjs-core';
import { carryFirstMoment } from '../projection/transport.ts';
import { liftOf, scaleOf, updatedWeight } from '../step-rule.ts';
import { adamwRule, adamwStep, momentsOf } from './adamw.ts';
import type { OptimizerRule, RuleInput } from './rule.ts';

/** Averaging. */
export const outerRule: OptimizerRule = {
  step(input) {
    return tf.tidy(() => ({
      weight: moved(input, tf.mul(input.payload, -input.hyper.outer.learningRate)),
      state: {},
    }));
  },
  carry: () => ({}),
};

export const outerNesterovRule: OptimizerRule = {
  step(input) {
    const { payload, state, hyper } = input;
    const { learningRate, momentum } = hyper.outer;
    return tf.tidy(() => {
      const m = tf.add(tf.mul(state['m'] as tf.Tensor, momentum), payload);
      const ahead = tf.add(payload, tf.mul(m, momentum));
      return { weight: moved(input, tf.mul(ahead, -learningRate)), state: { m } };
    });
  },
  carry: (input) => ({ m: carryFirstMoment(input.state['m'] as tf.Tensor, input) }),
};

export const outerAdamRule: OptimizerRule = {
  step(input) {
    const { slot, payload, state, hyper } = input;
    const { learningRate: outer, localSteps } = hyper.outer;
    const learningRate = outer * localSteps * hyper.learningRate;
    return tf.tidy(() => {
      const options = { ...hyper, learningRate };
      const { m, v, direction } = adamwStep(tf.neg(payload), momentsOf(state), options, scaleOf(slot, hyper));
      return { weight: moved(input, direction), state: { m, v } };
    });
  },
  carry: (input) => adamwRule.carry(input),
};

/** The decayed weight minus the lifted direction. */
function moved({ slot, weight, basis, hyper }: RuleInput, direction: tf.Tensor): tf.Tensor {
  const learningRate = hyper.outer.localSteps * hyper.learningRate;
  return updatedWeight(weight, liftOf(slot, direction, basis), { ...hyper, learningRate });
}
