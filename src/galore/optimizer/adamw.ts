/**
 * One Adam step on whatever a slot's payload is: the projected gradient R or a dense gradient.
 * Weight decay is not done here but in step-rule.ts. GaLore: arXiv 2403.03507, algorithm 2.
 */
import * as tf from '@tensorflow/tfjs-core';
import { fusedAdamw, fusedDirection, hasFusedAdamw, type FusedAdamwOptions } from '../fused-adamw.ts';
import { carryMoments } from '../projection/transport.ts';
import { hasBasis } from '../slot.ts';
import { liftOf, scaleOf, updatedWeight } from '../step-rule.ts';
import { stepSizes, type Semantics } from './bias-correction.ts';
import type { OptimizerRule, RuleState } from './rule.ts';

export type { Semantics } from './bias-correction.ts';

/** First and second moment, of the payload's shape. */
export interface Moments {
  readonly m: tf.Tensor;
  readonly v: tf.Tensor;
}

/** The numbers of one Adam step. */
export interface AdamwOptions {
  /** t, from 1. */
  readonly step: number;
  readonly learningRate: number;
  readonly betas: readonly [number, number];
  readonly eps: number;
  readonly semantics: Semantics;
}

/** New moments, and what is to be subtracted from the weight (after lifting, for a projected slot). */
export interface AdamwResult extends Moments {
  readonly direction: tf.Tensor;
}

/**
 * M = b1 M + (1 - b1) R, V = b2 V + (1 - b2) R o R, direction = scale * stepSize * M / (sqrt(V) + eps)
 * (`stepSizes` has the two numbers). `scale` is GaLore's alpha for a projected slot, 1 for a dense one.
 * All three results are new tensors; at most three more of their size exist at a time.
 */
export function adamwStep(
  gradient: tf.Tensor,
  moments: Moments,
  options: AdamwOptions,
  scale: number = 1,
): AdamwResult {
  const { step, learningRate, betas, semantics } = options;
  const [beta1, beta2] = betas;
  const { stepSize, eps } = stepSizes(learningRate, betas, options.eps, step, semantics);
  const m = tf.tidy(() => tf.add(tf.mul(moments.m, beta1), tf.mul(gradient, 1 - beta1)));
  const v = tf.tidy(() => {
    const squared = tf.tidy(() => tf.mul(tf.square(gradient), 1 - beta2));
    return tf.add(tf.mul(moments.v, beta2), squared);
  });
  const direction = tf.tidy(() => {
    const ratio = tf.tidy(() => {
      const denominator = tf.tidy(() => tf.add(tf.sqrt(v), eps));
      return tf.div(m, denominator);
    });
    return tf.mul(ratio, stepSize * scale);
  });
  return { m, v, direction };
}

/** The rule for plain and projected slots alike; also for the core between two bases. */
export const adamwRule: OptimizerRule = {
  step({ slot, weight, payload, state, basis, hyper }) {
    const moments = momentsOf(state);
    return tf.tidy(() => {
      if (!hasBasis(slot) && hasFusedAdamw() && hyper.weightDecay === 0) {
        const options = fusedOptions(hyper);
        const stepSize = options.stepSize * scaleOf(slot, hyper);
        const { weight: next, m, v } = fusedAdamw(weight, payload, moments, { ...options, stepSize });
        return { weight: next, state: { m, v } };
      }
      const { m, v, direction } = hasFusedAdamw()
        ? fusedDirection(payload, moments, fusedOptions(hyper), scaleOf(slot, hyper))
        : adamwStep(payload, moments, hyper, scaleOf(slot, hyper));
      return { weight: updatedWeight(weight, liftOf(slot, direction, basis), hyper), state: { m, v } };
    });
  },
  carry(input) {
    return { ...carryMoments(momentsOf(input.state), input) };
  },
};

function fusedOptions({ learningRate, betas, eps, step, semantics }: AdamwOptions): FusedAdamwOptions {
  return { betas, ...stepSizes(learningRate, betas, eps, step, semantics) };
}

/** The two moments of a state that has them as f32. */
export function momentsOf(state: RuleState): Moments {
  return { m: state['m'] as tf.Tensor, v: state['v'] as tf.Tensor };
}
