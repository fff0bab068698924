/** The factors of a power slot: what its payloads are made with, and lifted with. Nothing here is a new tensor but the lift. */
import * as tf from '@tensorflow/tfjs-core';
import type { LiftFactors } from '../power-kernels.ts';
import { isTallStep, type PowerSlot } from '../slot.ts';
import type { FeedbackContext } from './feedback.ts';

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
