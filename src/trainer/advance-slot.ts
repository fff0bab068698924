/** One optimizer step of one slot: its weight in the store, its state and its basis give way to the next. */
import * as tf from '@tensorflow/tfjs-core';
import { tensorsOf, type Hyperparameters, type RuleState } from '../galore/optimizer/rule.ts';
import { ruleFor } from '../galore/optimizer/rules.ts';
import type { Slot } from '../galore/slot.ts';
import { roundingKey, storeWeight } from './int8-weight.ts';
import type { WeightStore } from './model/weights.ts';

/** What is kept of a slot beside its weight. */
export interface SlotOptimizer {
  readonly state: RuleState;
  /** null: the slot has none, or its rule makes its first in this step. */
  readonly basis: tf.Tensor2D | null;
}

/**
 * Takes the step. Uses up the payload, the old state and, where the rule moves it, the old basis.
 * @param seed of the run, for the dice of int8 weights
 */
export function advanceSlot(
  weights: WeightStore,
  slot: Slot,
  payload: tf.Tensor,
  { state, basis }: SlotOptimizer,
  hyper: Hyperparameters,
  seed: number,
): SlotOptimizer {
  const weight = weights.part(slot.name);
  const next = ruleFor(slot.rule).step({ slot, weight, payload, state, basis, hyper });
  tf.dispose([payload, ...tensorsOf(state)]);
  storeWeight(weights, slot, next.weight, roundingKey(seed, hyper.step, slot));
  if (next.basis === undefined) return { state: next.state, basis };
  basis?.dispose();
  return { state: next.state, basis: next.basis };
}
