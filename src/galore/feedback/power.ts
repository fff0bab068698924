/**
 * The error feedback of a power slot (docs/algorithm.md, "Power"): the trainer adds its gradient to its error E
 * `[m, n]`; in a tall step Y = EW `[m, r]` is sent and E <- E - YW', in the others R = P'E `[r, n]` and
 * E <- E - PR, with Y and R as the codec rounded them: E keeps what the projection and what the codec left out.
 *
 * With the kernels of power-kernels.ts the sum is never made: the gradient stays until what is left is encoded.
 */
import * as tf from '@tensorflow/tfjs-core';
import {
  hasPowerKernels,
  settleError,
  sketchError,
  type LiftFactors,
  type OpenError,
} from '../power-kernels.ts';
import { numbersOf } from '../product.ts';
import { isTallStep, matrixShape, type PowerSlot, type Slot } from '../slot.ts';
import { closeBuffer, openBuffer } from './buffer.ts';
import type { FeedbackContext, FeedbackRule, LocalState } from './feedback.ts';
import { errorSpec } from './local-state.ts';

export const powerFeedback: FeedbackRule = {
  add(context, local, gradient, isLast) {
    const slot = requirePower(context.slot);
    const kept = local[errorSpec(slot).kind];
    if (kept instanceof Uint8Array && hasPowerKernels()) {
      if (isLast) return { ...local, gradient: tf.keep(tf.clone(gradient)) };
      const open = { error: kept, gradient, share: context.share };
      return tf.tidy(() => settleBytes(open, nothing(slot), context));
    }
    const error = tf.tidy(() => {
      const share = tf.mul(numbersOf(gradient), context.share);
      return tf.keep(tf.add(openBuffer(kept!, slot.shape, slot.buffers.feedback), share));
    });
    return isLast ? { open: error } : close(slot, error, context);
  },
  payload(context, local) {
    const { p, w } = factorsOf(context.state);
    const isTall = isTallStep(requirePower(context.slot), context.step);
    const open = openErrorOf(context, local);
    if (open !== null) return sketchError(open, isTall ? w : p, isTall);
    const error = local['open'] as tf.Tensor2D;
    return isTall ? tf.matMul(error, w) : tf.matMul(p, error, true, false);
  },
  settle(context, local, sent) {
    const slot = requirePower(context.slot);
    const factors = liftFactors(slot, context.step, sent as tf.Tensor2D, context.state);
    const open = openErrorOf(context, local);
    if (open !== null) return settleBytes(open, factors, context);
    const error = tf.tidy(() => tf.keep(tf.sub(local['open'] as tf.Tensor, liftOfPower(factors))));
    return close(slot, error, context);
  },
};

/** What lifts a payload: YW' in a tall step, PR in the others. Nothing is new. */
export function liftFactors(
  slot: PowerSlot,
  step: number,
  payload: tf.Tensor2D,
  state: FeedbackContext['state'],
): LiftFactors {
  const { p, w } = factorsOf(state);
  const isTall = isTallStep(slot, step);
  return isTall ? { left: payload, right: w, isTall } : { left: p, right: payload, isTall };
}

/** The lifted payload `[m, n]`. */
export function liftOfPower({ left, right, isTall }: LiftFactors): tf.Tensor2D {
  return tf.matMul(left, right, false, isTall);
}

/** P `[m, r]` and W `[n, r]`, which are in the optimizer's state of the slot. */
export function factorsOf(state: FeedbackContext['state']): { p: tf.Tensor2D; w: tf.Tensor2D } {
  return { p: state['p'] as tf.Tensor2D, w: state['w'] as tf.Tensor2D };
}

/** Null: the sum was made. */
function openErrorOf({ slot, share }: FeedbackContext, local: LocalState): OpenError | null {
  const gradient = local['gradient'] as tf.Tensor | undefined;
  if (gradient === undefined) return null;
  return { error: local[errorSpec(requirePower(slot)).kind] as Uint8Array, gradient, share };
}

function settleBytes(open: OpenError, factors: LiftFactors, { slot, key }: FeedbackContext): LocalState {
  return { [errorSpec(requirePower(slot)).kind]: settleError(open, factors, key) };
}

/** What lifts to nothing. */
function nothing(slot: PowerSlot): LiftFactors {
  const [m, n] = matrixShape(slot);
  return { left: tf.zeros([m, 0]), right: tf.zeros([0, n]), isTall: false };
}

function close(slot: PowerSlot, error: tf.Tensor, { key }: FeedbackContext): LocalState {
  const value = closeBuffer(error, slot.buffers.feedback, key);
  error.dispose();
  return { [errorSpec(slot).kind]: value };
}

function requirePower(slot: Slot): PowerSlot {
  if (slot.policy !== 'power') throw new RangeError(`${slot.name} does not travel as power`);
  return slot;
}
