/**
 * What Fira and APOLLO share: Adam in the subspace of a gradient that came whole, and by how much it
 * lengthens each channel. Sources: Fira, arXiv 2410.01623, equation 8; APOLLO, arXiv 2412.05270,
 * equation 4 and their reference code.
 */
import * as tf from '@tensorflow/tfjs-core';
import { TensorShapeError } from '../../errors.ts';
import { carryMoments } from '../projection/transport.ts';
import { matrixShape, type ProjectedSlot } from '../slot.ts';
import { project } from '../projection/project-lift.ts';
import { adamwStep, momentsOf, type Moments } from './adamw.ts';
import { stepSizes } from './bias-correction.ts';
import type { CarryInput, RuleInput, RuleState } from './rule.ts';

/** A step of Adam on R; the weight's part in it is the rule's. */
export interface SubspaceAdam extends Moments {
  /** The gradient, `[m, n]`. */
  readonly gradient: tf.Tensor2D;
  readonly basis: tf.Tensor2D;
  /** R. */
  readonly low: tf.Tensor2D;
  /** N = M / (sqrt(V) + eps), of R's shape. */
  readonly normalised: tf.Tensor2D;
  /** s = lr sqrt(1 - b2^t) / (1 - b1^t). */
  readonly stepSize: number;
}

/**
 * Projects the gradient and steps Adam on it.
 * @throws TensorShapeError if the slot has no basis yet
 */
export function subspaceAdam(slot: ProjectedSlot, input: RuleInput): SubspaceAdam {
  const { basis, state, hyper } = input;
  if (basis === null) throw new TensorShapeError(`${slot.name} is projected but has no basis`);
  const gradient = input.payload as tf.Tensor2D;
  const low = project(gradient, basis, slot.side, tf.matMul);
  // N is wanted by itself also when the learning rate is 0: the step is made at rate 1 and divided out.
  const unit = stepSizes(1, hyper.betas, hyper.eps, hyper.step, hyper.semantics).stepSize;
  const { m, v, direction } = adamwStep(low, momentsOf(state), { ...hyper, learningRate: 1 }, 1 / unit);
  const normalised = direction as tf.Tensor2D;
  return { gradient, basis, low, normalised, m, v, stepSize: hyper.learningRate * unit };
}

/**
 * The axis that a channel's sum runs over: 0 (a channel is a column) for side left, 1 (a row) for side
 * right. As in the references rows also where R is square, that is at full rank of a square matrix.
 */
export function channelAxis(slot: ProjectedSlot): 0 | 1 {
  const [m, n] = matrixShape(slot);
  return slot.side === 'right' || (m === n && slot.rank === m) ? 1 : 0;
}

const TINY = 1e-8;

/**
 * ||N_j|| / (||R_j|| + 1e-8) of each channel j, `[1, n]` or `[m, 1]`; of the whole matrix, `[1, 1]`, when
 * the axis is null.
 */
export function channelScale(normalised: tf.Tensor2D, low: tf.Tensor2D, axis: 0 | 1 | null): tf.Tensor2D {
  return tf.tidy(() => {
    const lengths = tf.sqrt(channelSquares(normalised, axis));
    return tf.div(lengths, tf.add(tf.sqrt(channelSquares(low, axis)), TINY));
  });
}

/** Squared norms of the channels, of the shape of `channelScale`. */
export function channelSquares(x: tf.Tensor2D, axis: 0 | 1 | null): tf.Tensor2D {
  return tf.tidy(() => tf.sum<tf.Tensor2D>(tf.square(x), axis ?? [0, 1], true));
}

/** The square root of the sum of all numbers, `[1]`; rounding below zero counts as zero. */
export function rootOfSum(squares: tf.Tensor): tf.Tensor1D {
  return tf.tidy(() => tf.reshape(tf.sqrt(tf.relu(tf.sum(squares))), [1]));
}

/** The moments by the rule given; the norm of the last update does not depend on the basis. */
export function carryWithNorm(input: CarryInput): RuleState {
  const { m, v } = carryMoments(momentsOf(input.state), input);
  return { m, v, norm: tf.clone(input.state['norm'] as tf.Tensor) };
}
