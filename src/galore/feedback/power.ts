/**
 * The error feedback of a power slot (docs/algorithm.md, "Power"): the trainer adds its gradient to its error E
 * `[m, n]`; in a tall step Y = EW `[m, r]` is sent and E <- E - YW', in the others R = P'E `[r, n]` and
 * E <- E - PR, with Y and R as the codec rounded them: E keeps what the projection and what the codec left out.
 */
import * as tf from '@tensorflow/tfjs-core';
import { numbersOf } from '../product.ts';
import { isTallStep, type PowerSlot, type Slot } from '../slot.ts';
import { closeBuffer, openBuffer } from './buffer.ts';
import type { FeedbackContext, FeedbackRule, LocalState } from './feedback.ts';
import { errorSpec } from './local-state.ts';

export const powerFeedback: FeedbackRule = {
  add(context, local, gradient, isLast) {
    const slot = requirePower(context.slot);
    const error = tf.tidy(() => tf.keep(tf.add(errorOf(slot, local), numbersOf(gradient))));
    return isLast ? { open: error } : close(slot, error, context);
  },
  payload({ slot, step, state }, local) {
    const { p, w } = factorsOf(state);
    const error = local['open'] as tf.Tensor2D;
    return isTallStep(requirePower(slot), step) ? tf.matMul(error, w) : tf.matMul(p, error, true, false);
  },
  settle(context, local, sent) {
    const slot = requirePower(context.slot);
    const error = tf.tidy(() => {
      const lifted = liftOfPower(slot, context.step, sent as tf.Tensor2D, context.state);
      return tf.keep(tf.sub(local['open'] as tf.Tensor, lifted));
    });
    return close(slot, error, context);
  },
};

/** YW' in a tall step, PR in the others: `[m, n]`. */
export function liftOfPower(
  slot: PowerSlot,
  step: number,
  payload: tf.Tensor2D,
  state: FeedbackContext['state'],
): tf.Tensor2D {
  const { p, w } = factorsOf(state);
  return isTallStep(slot, step) ? tf.matMul(payload, w, false, true) : tf.matMul(p, payload);
}

/** P `[m, r]` and W `[n, r]`, which are in the optimizer's state of the slot. */
export function factorsOf(state: FeedbackContext['state']): { p: tf.Tensor2D; w: tf.Tensor2D } {
  return { p: state['p'] as tf.Tensor2D, w: state['w'] as tf.Tensor2D };
}

function errorOf(slot: PowerSlot, local: LocalState): tf.Tensor {
  return openBuffer(local[errorSpec(slot).kind]!, slot.shape, slot.buffers.feedback);
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
