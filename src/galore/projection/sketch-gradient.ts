/** The trainer's side of a refresh round: the product that `sketchPlan` asks for, on tensors. */
import * as tf from '@tensorflow/tfjs-core';
import type { SketchPlan } from './sketch.ts';

/**
 * GF for side `rows`, G'F for side `columns`; without a factor G or G' itself. A new tensor that the
 * caller disposes. Linear in the gradient, so sketches of parts of a batch may be added.
 */
export function sketch(
  gradient: tf.Tensor2D,
  factor: tf.Tensor2D | null,
  plan: Pick<SketchPlan, 'side'>,
): tf.Tensor2D {
  const isTransposed = plan.side === 'columns';
  if (factor === null) return isTransposed ? tf.transpose(gradient) : tf.clone(gradient);
  return tf.matMul(gradient, factor, isTransposed, false);
}
