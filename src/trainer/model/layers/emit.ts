/** How a layer hands out the gradients of its weights. */
import type * as tf from '@tensorflow/tfjs-core';

/**
 * Receives a gradient as soon as it is known, by the weight's name within the layer. Ownership passes
 * with it. Never called inside a `tf.tidy` of the layer, so what the receiver makes is the receiver's;
 * and only after the layer's last use of the weight, so the receiver may replace the weight.
 */
export type Emit = (name: string, gradient: tf.Tensor) => void;

/** Gives a gradient to the callback of the model's caller (model.ts), and disposes it unless it was kept. */
export function handOut(
  onGradient: (name: string, gradient: tf.Tensor) => void,
  name: string,
  gradient: tf.Tensor,
): void {
  try {
    onGradient(name, gradient);
  } finally {
    if (!gradient.kept) gradient.dispose();
  }
}

/** Whether the gradient of the weight of that name is used; default: every one is. */
export type Wants = (name: string) => boolean;
