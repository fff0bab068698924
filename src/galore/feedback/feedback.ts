/**
 * Error feedback: what of a gradient did not travel stays with the trainer and is sent later (Karimireddy et
 * al., arXiv 1901.09847). One rule for each kind; rules.ts finds them. The parts of all trainers are summed, not
 * averaged: a trainer adds its gradient times its share of the batch, so that everything that was ever sent
 * and everything that is still kept add up to the sum of all gradients.
 */
import type * as tf from '@tensorflow/tfjs-core';
import type { RandomKey } from '../../random.ts';
import type { RuleState } from '../optimizer/rule.ts';
import type { ProjectedSlot, Slot } from '../slot.ts';

/** What is kept of a slot, by kind, as local-state.ts lists it. Private to the trainer: no record changes it. */
export type LocalState = Readonly<Record<string, tf.Tensor | Uint8Array>>;

/** What stays the same while a slot's contribution of one step is made. */
export interface FeedbackContext<S extends Slot = Slot> {
  readonly slot: S;
  readonly step: number;
  /** Shared by all trainers: the basis that the slot's gradient is projected with, or null, and its optimizer state. */
  readonly basis: tf.Tensor2D | null;
  readonly state: RuleState;
  /** Multiplies the gradient: the trainer's part of the step's tokens. */
  readonly share: number;
  /** For the dice of a buffer of reduced precision; another for each gradient. */
  readonly key: RandomKey;
}

/** A new basis of a slot, and maybe another rank. */
export interface SlotBasisChange {
  readonly oldSlot: ProjectedSlot;
  readonly oldBasis: tf.Tensor2D;
  readonly newSlot: ProjectedSlot;
  readonly newBasis: tf.Tensor2D;
}

export interface FeedbackRule {
  /**
   * Adds a gradient, maybe a factor of product.ts, times the share (tensors of the result are new, the caller disposes both). `isLast` says that `payload` and
   * `settle` follow: until then the result may be kept in any precision.
   */
  add(context: FeedbackContext, local: LocalState, gradient: tf.Tensor, isLast: boolean): LocalState;
  /** What is to be sent of it, `payloadShape`; a new tensor. */
  payload(context: FeedbackContext, local: LocalState): tf.Tensor;
  /** What is left when `sent`, the payload as its receivers decode it, has left. */
  settle(context: FeedbackContext, local: LocalState, sent: tf.Tensor): LocalState;
  /**
   * What a refresh makes its sketches of, `gradient` included; left out: of the gradient alone. The basis is then that of
   * everything the trainers have kept, whose sketches are summed like what they send of it. A new tensor.
   */
  accumulated?(
    context: Pick<FeedbackContext, 'slot' | 'share'>,
    local: LocalState,
    gradient: tf.Tensor,
  ): tf.Tensor;
  /** The same for a new basis, as far as it can hold it; left out: no basis is behind what is kept. New tensors. */
  carry?(change: SlotBasisChange, local: LocalState): LocalState;
}
