/** How a layer hands out the gradients of its weights. */
import type * as tf from '@tensorflow/tfjs-core';

/**
 * Receives a gradient as soon as it is known, by the weight's name within the layer. Ownership passes
 * with it. Never called inside a `tf.tidy` of the layer, so what the receiver makes is the receiver's;
 * and only after the layer's last use of the weight, so the receiver may replace the weight.
 */
export type Emit = (name: string, gradient: tf.Tensor) => void;

/** Whether a gradient is used, by the weight's name within the layer: what nobody wants is not computed. */
export type Wants = (name: string) => boolean;
