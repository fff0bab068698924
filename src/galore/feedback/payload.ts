/**
 * The error feedback of a payload that is rounded coarsely: what the codec left out of R (or of the core, or of a
 * whole gradient) is added to the next one. What is outside of the subspace is lost, as without feedback.
 */
import * as tf from '@tensorflow/tfjs-core';
import { payloadOf } from '../projection/project-lift.ts';
import { hasBasis } from '../slot.ts';
import type { FeedbackContext, FeedbackRule } from './feedback.ts';

export const payloadFeedback: FeedbackRule = {
  add({ slot, basis }, local, gradient) {
    const needsBasis = hasBasis(slot) && slot.policy !== 'dense';
    return tf.tidy(() => ({
      residual: tf.keep(tf.add(residualOf(local), payloadOf(slot, gradient, needsBasis ? basis : null))),
    }));
  },
  payload: (_context, local) => tf.clone(residualOf(local)),
  settle: (_context: FeedbackContext, local, sent) => ({ residual: tf.sub(residualOf(local), sent) }),
};

function residualOf(local: Readonly<Record<string, tf.Tensor | Uint8Array>>): tf.Tensor {
  return local['residual'] as tf.Tensor;
}
