/**
 * The error feedback of whole gradients: the trainer adds its gradient to its error E `[m, n]`, sends the product of
 * E with a factor F that all trainers have, and keeps what the projection and what the codec left out.
 *   power (docs/algorithm.md, "Power"): F is W `[n, r]` in tall steps, P `[m, r]` in the others
 *   one-sided ("Feedback of gradients"): F is the basis; at a refresh the new one is made of all that is kept
 *   tall, side right:    Y = EF is sent, E <- E - YF'
 *   the others:          R = F'E is sent, E <- E - FR                with Y and R as the codec rounded them
 *
 * With the kernels of power-kernels.ts the sum is never made: the gradient stays until what is left is encoded.
 */
import * as tf from '@tensorflow/tfjs-core';
import { TensorShapeError } from '../../errors.ts';
import {
  hasPowerKernels,
  settleError,
  sketchError,
  type LiftFactors,
  type OpenError,
} from '../power-kernels.ts';
import { numbersOf } from '../product.ts';
import { isTallStep, keepsError, matrixShape, type ErrorSlot, type Slot } from '../slot.ts';
import { closeBuffer, openBuffer } from './buffer.ts';
import type { FeedbackContext, FeedbackRule, LocalState } from './feedback.ts';
import { errorSpec } from './local-state.ts';
import { factorsOf, liftOfPower } from './power.ts';

export const gradientFeedback: FeedbackRule = {
  add(context, local, gradient, isLast) {
    const slot = requireError(context.slot);
    const kept = local[errorSpec(slot).kind];
    if (kept instanceof Uint8Array && slot.buffers.feedback === 'int8' && hasPowerKernels()) {
      if (isLast) return { ...local, gradient: tf.keep(tf.clone(gradient)) };
      const open = { error: kept, gradient, share: context.share };
      return tf.tidy(() => settleBytes(open, nothing(slot), context));
    }
    const error = tf.keep(sumOf(context, local, gradient));
    return isLast ? { open: error } : close(slot, error, context);
  },
  payload(context, local) {
    const { factor, isTall } = factorOf(context);
    const open = openErrorOf(context, local);
    if (open !== null) return sketchError(open, factor, isTall);
    const error = local['open'] as tf.Tensor2D;
    return isTall ? tf.matMul(error, factor) : tf.matMul(factor, error, true, false);
  },
  settle(context, local, sent) {
    const lift = liftOf(context, sent as tf.Tensor2D);
    const open = openErrorOf(context, local);
    if (open !== null) return settleBytes(open, lift, context);
    const error = tf.tidy(() => tf.keep(tf.sub(local['open'] as tf.Tensor, liftOfPower(lift))));
    return close(requireError(context.slot), error, context);
  },
  accumulated: sumOf,
};

/** E with the gradient. */
function sumOf(
  { slot, share }: Pick<FeedbackContext, 'slot' | 'share'>,
  local: LocalState,
  gradient: tf.Tensor,
): tf.Tensor {
  const { shape, buffers } = requireError(slot);
  const kept = local[errorSpec(requireError(slot)).kind]!;
  return tf.tidy(() => tf.add(openBuffer(kept, shape, buffers.feedback), tf.mul(numbersOf(gradient), share)));
}

/** F, and whether it stands on the right. */
function factorOf({ slot, step, basis, state }: FeedbackContext): { factor: tf.Tensor2D; isTall: boolean } {
  if (slot.policy === 'power') {
    const { p, w } = factorsOf(state);
    const isTall = isTallStep(slot, step);
    return { factor: isTall ? w : p, isTall };
  }
  const { side } = requireError(slot) as Exclude<ErrorSlot, { policy: 'power' }>;
  if (basis === null) throw new TensorShapeError(`${slot.name} has no basis yet`);
  return { factor: basis, isTall: side === 'right' };
}

function liftOf(context: FeedbackContext, sent: tf.Tensor2D): LiftFactors {
  const { factor, isTall } = factorOf(context);
  return isTall ? { left: sent, right: factor, isTall } : { left: factor, right: sent, isTall };
}

/** Null: the sum was made. */
function openErrorOf({ slot, share }: FeedbackContext, local: LocalState): OpenError | null {
  const gradient = local['gradient'] as tf.Tensor | undefined;
  if (gradient === undefined) return null;
  return { error: local[errorSpec(requireError(slot)).kind] as Uint8Array, gradient, share };
}

function settleBytes(open: OpenError, factors: LiftFactors, { slot, key }: FeedbackContext): LocalState {
  return { [errorSpec(requireError(slot)).kind]: settleError(open, factors, key) };
}

/** What lifts to nothing. */
function nothing(slot: ErrorSlot): LiftFactors {
  const [m, n] = matrixShape(slot);
  return { left: tf.zeros([m, 0]), right: tf.zeros([0, n]), isTall: false };
}

function close(slot: ErrorSlot, error: tf.Tensor, { key }: FeedbackContext): LocalState {
  const value = closeBuffer(error, slot.buffers.feedback, key);
  error.dispose();
  return { [errorSpec(slot).kind]: value };
}

function requireError(slot: Slot): ErrorSlot {
  if (!keepsError(slot)) throw new RangeError(`${slot.name} keeps no error of its gradient`);
  return slot;
}
