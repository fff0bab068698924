/**
 * What an optimizer rule is: from a slot's summed payload to its next weight, on tensors. One file per
 * rule; rules.ts finds them by name. optimizer/reference.ts has AdamW's in plain f64.
 */
import type * as tf from '@tensorflow/tfjs-core';
import type { BasisChange, MomentsRule } from '../projection/transport.ts';
import type { Slot } from '../slot.ts';
import type { Semantics } from './bias-correction.ts';

/**
 * A slot's state by kind, as `ruleState` lists it. f32 states are tensors; u8 states are plain arrays,
 * which no engine needs to know.
 */
export type RuleState = Readonly<Record<string, tf.Tensor | Uint8Array>>;

/** The numbers of one step; the same for every slot. */
export interface Hyperparameters {
  /** t, from 1. */
  readonly step: number;
  readonly learningRate: number;
  readonly betas: readonly [number, number];
  readonly eps: number;
  readonly semantics: Semantics;
  readonly weightDecay: number;
  /** GaLore's alpha; multiplies the lifted direction of slots with a basis. */
  readonly scale: number;
  /** SGD's and SUMO's mu. */
  readonly momentum: number;
  readonly nesterov: boolean;
  /** Growth of the update's norm from step to step that Fira, APOLLO and SUMO allow. */
  readonly limiter: number;
  readonly adafactor: AdafactorOptions;
  /** Greatest root mean square of a power slot's update, before the learning rate. */
  readonly updateClip: number;
  /** Of the run, for the dice of states of reduced precision. */
  readonly seed: number;
  readonly outer: OuterOptions;
}

/** The numbers of the rules that take displacements, after local steps (outer.ts). */
export interface OuterOptions {
  readonly learningRate: number;
  /** Nesterov's mu. */
  readonly momentum: number;
  /** H: optimizer steps that one displacement stands for. */
  readonly localSteps: number;
}

/** The numbers of Adafactor (Shazeer & Stern, arXiv 1804.04235), by the names of its reference code. */
export interface AdafactorOptions {
  readonly eps: readonly [number, number];
  readonly clip_threshold: number;
  readonly decay_rate: number;
  /** 0: no momentum. */
  readonly beta1: number;
  readonly scale_parameter: boolean;
  readonly relative_step: boolean;
}

/**
 * What a rule is given. It disposes nothing of it, but may write over weight and state: the caller
 * disposes them and reads them no more. Clones of them, the payload and the basis stay as they are.
 */
export interface RuleInput {
  readonly slot: Slot;
  readonly weight: tf.Tensor;
  /** The summed contribution, of shape `payloadShape(slot)`. */
  readonly payload: tf.Tensor;
  readonly state: RuleState;
  /** Of shape `basisShape(slot)`; null for a slot without one. */
  readonly basis: tf.Tensor2D | null;
  readonly hyper: Hyperparameters;
}

/** A slot after a step: tensors of its own, none shared with the input. */
export interface RuleResult {
  readonly weight: tf.Tensor;
  readonly state: RuleState;
  /** Only from rules that move the basis themselves (basis source `power`). */
  readonly basis?: tf.Tensor2D;
}

/** The state of a slot at a refresh. */
export interface CarryInput {
  readonly slot: Slot;
  readonly state: RuleState;
  readonly change: BasisChange;
  readonly moments: MomentsRule;
  /** t of the last step. */
  readonly completedSteps: number;
  readonly betas: readonly [number, number];
}

export interface OptimizerRule {
  /** One step of one slot. */
  step(input: RuleInput): RuleResult;
  /** The state in a new basis (its rank may differ). New tensors; the old state stays the caller's. */
  carry(input: CarryInput): RuleState;
}

/** The tensors of a state, for disposing them. */
export function tensorsOf(state: RuleState): tf.Tensor[] {
  return Object.values(state).filter((value): value is tf.Tensor => !(value instanceof Uint8Array));
}
