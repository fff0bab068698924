/** States before anything was learnt. New tensors, which the caller disposes. */
import * as tf from '@tensorflow/tfjs-core';
import { sizeOf } from '../slot.ts';
import type { StateSpec } from './rule-state.ts';
import type { RuleState } from './rule.ts';

/** Zeros for one state tensor. */
export function zeroOf({ shape, dtype }: Pick<StateSpec, 'shape' | 'dtype'>): tf.Tensor | Uint8Array {
  return dtype === 'u8' ? new Uint8Array(sizeOf(shape)) : tf.zeros([...shape]);
}

/** Zeros for all of `specs`, by kind. */
export function zerosOf(specs: readonly StateSpec[]): RuleState {
  return Object.fromEntries(specs.map((spec) => [spec.kind, zeroOf(spec)]));
}
