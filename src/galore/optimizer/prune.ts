/**
 * An optimizer's state with its least numbers set to zero: what ReLoRA does when the values that a state belongs to
 * begin anew (Lialin et al. 2023, arXiv 2307.05695, section 3).
 */
import * as tf from '@tensorflow/tfjs-core';
import type { Slot } from '../slot.ts';
import { dtypeOfKind, ruleState } from './rule-state.ts';
import type { RuleState } from './rule.ts';
import { zerosOf } from './zeros.ts';

/**
 * New tensors; the old state stays the caller's. With a share of 1, and for rules that keep codes, all of it is zero.
 * @param share of the numbers of each tensor that become zero
 */
export function prunedState(slot: Slot, state: RuleState, share: number): RuleState {
  const hasCodes = Object.keys(state).some((kind) => dtypeOfKind(kind) === 'u8');
  if (share === 1 || hasCodes) return zerosOf(ruleState(slot));
  return Object.fromEntries(
    Object.entries(state).map(([kind, tensor]) => {
      const values = (tensor as tf.Tensor).dataSync<'float32'>() as Float32Array;
      return [kind, tf.tensor(pruned(values, share), [...(tensor as tf.Tensor).shape])];
    }),
  );
}

/** The numbers whose magnitude is above the quantile `share` of all magnitudes; zero in the place of the others. */
export function pruned(values: Float32Array, share: number): Float32Array {
  const threshold = quantile(values.map(Math.abs), share);
  return values.map((value) => (Math.abs(value) > threshold ? value : 0));
}

/** The quantile of numbers, with linear interpolation between the two next to it, as in NumPy and PyTorch. */
export function quantile(values: Float32Array, share: number): number {
  const sorted = values.toSorted();
  const place = share * (sorted.length - 1);
  const below = Math.floor(place);
  const [low, high] = [sorted[below]!, sorted[Math.min(below + 1, sorted.length - 1)]!];
  return low + (place - below) * (high - low);
}
