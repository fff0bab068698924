/**
 * The error feedback of a payload that is rounded coarsely: what the codec left out of R (or of the core, or of a
 * whole gradient) is added to the next one. What is outside of the subspace is lost, as without feedback.
 */
import * as tf from '@tensorflow/tfjs-core';
import { payloadOf } from '../projection/project-lift.ts';
import { liftOf } from '../step-rule.ts';
import { isFlushed } from '../slot.ts';
import type { FeedbackRule, LocalState } from './feedback.ts';

export const payloadFeedback: FeedbackRule = {
  add({ slot, basis, share }, local, gradient) {
    return tf.tidy(() => {
      const part = tf.mul(payloadOf(slot, gradient, basis), share);
      return { residual: tf.keep(tf.add(residualOf(local), part)) };
    });
  },
  payload: (_context, local) => tf.clone(residualOf(local)),
  settle: (_context, local, sent) => ({ residual: tf.tidy(() => tf.keep(tf.sub(residualOf(local), sent))) }),
  // Of a slot that was flushed it is zero; a trainer that missed that step keeps what the new basis can hold.
  carry({ oldSlot, oldBasis, newSlot, newBasis }, local) {
    if (!isFlushed(oldSlot)) return { residual: tf.clone(residualOf(local)) };
    return tf.tidy(() => ({
      residual: tf.keep(
        payloadOf(newSlot, liftOf(oldSlot, residualOf(local), oldBasis), newBasis, tf.matMul),
      ),
    }));
  },
};

function residualOf(local: LocalState): tf.Tensor {
  return local['residual'] as tf.Tensor;
}
