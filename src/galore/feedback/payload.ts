/**
 * The error feedback of a payload that is rounded coarsely: what the codec left out of R (or of the core, or of a
 * whole gradient) is added to the next one. What is outside of the subspace is lost, as without feedback, and so is
 * what is kept when a new basis comes: it was said in the old one.
 */
import * as tf from '@tensorflow/tfjs-core';
import { payloadOf } from '../projection/project-lift.ts';
import { payloadShape, type Slot } from '../slot.ts';
import type { FeedbackRule, LocalState } from './feedback.ts';

export const payloadFeedback: FeedbackRule = {
  state: (slot) => [{ kind: 'residual', shape: shapeOf(slot), dtype: 'f32' }],
  add({ slot, basis, share }, local, gradient) {
    return tf.tidy(() => {
      const part = tf.mul(payloadOf(slot, gradient, basis), share);
      return { residual: tf.keep(tf.add(residualOf(local), part)) };
    });
  },
  payload: (_context, local) => tf.clone(residualOf(local)),
  settle: (_context, local, sent) => ({ residual: tf.tidy(() => tf.keep(tf.sub(residualOf(local), sent))) }),
};

function residualOf(local: LocalState): tf.Tensor {
  return local['residual'] as tf.Tensor;
}

/** Of these slots the shape is the same in every step. */
function shapeOf(slot: Slot): readonly number[] {
  return payloadShape(slot, 1);
}
