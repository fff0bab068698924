/**
 * Gradient descent as torch.optim.SGD has it: weight decay is part of the gradient, M <- mu M + g, and
 * d = lr M, with nesterov d = lr (g + mu M); without momentum d = lr g. Of a slot with a basis g is
 * P'(G + wd W): the gradient of the decayed loss projected as a whole, so that with a square basis and
 * scale 1 it is plain SGD. What of W lies outside the subspace does not decay until a refresh reaches it.
 */
import * as tf from '@tensorflow/tfjs-core';
import { payloadOf } from '../projection/project-lift.ts';
import { carryFirstMoment } from '../projection/transport.ts';
import { liftOf, scaleOf } from '../step-rule.ts';
import type { OptimizerRule, RuleInput } from './rule.ts';

/** With momentum where the slot's state has a first moment. */
export const sgdRule: OptimizerRule = {
  step(input) {
    const { slot, weight, state, basis, hyper } = input;
    const { momentum, nesterov } = hyper;
    return tf.tidy(() => {
      const g = decayedGradient(input);
      const old = state['m'] as tf.Tensor | undefined;
      const m = old === undefined ? undefined : tf.tidy(() => tf.add(tf.mul(old, momentum), g));
      const d = m === undefined ? g : nesterov ? tf.add(g, tf.mul(m, momentum)) : m;
      const rate = hyper.learningRate * scaleOf(slot, hyper);
      const change = liftOf(slot, tf.mul(d, rate), basis);
      return { weight: tf.sub(weight, change), state: m === undefined ? {} : { m } };
    });
  },
  carry(input) {
    const m = input.state['m'] as tf.Tensor | undefined;
    return m === undefined ? {} : { m: carryFirstMoment(m, input) };
  },
};

/** The payload plus the payload that the decay would have sent: in f32, as every trainer must get the same. */
function decayedGradient({ slot, weight, payload, basis, hyper }: RuleInput): tf.Tensor {
  if (hyper.weightDecay === 0) return payload;
  return tf.tidy(() => tf.add(payload, tf.mul(payloadOf(slot, weight, basis, tf.matMul), hyper.weightDecay)));
}
