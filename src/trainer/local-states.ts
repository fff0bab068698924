/**
 * What a trainer keeps of its gradients to send later (galore/feedback), slot by slot. A step's changes are
 * proposed while its contribution is made and become real when its record counts this trainer in, even if the
 * connection was lost in between. A step that was given up, or went on without this trainer, leaves no trace.
 */
import * as tf from '@tensorflow/tfjs-core';
import type { LocalState, SlotBasisChange } from '../galore/feedback/feedback.ts';
import { feedbackOf } from '../galore/feedback/rules.ts';
import { sizeOf, type Slot } from '../galore/slot.ts';

export class LocalStates {
  readonly #kept = new Map<number, LocalState>();
  readonly #proposed = new Map<number, LocalState>();
  /** The step of the proposals. */
  #step = 0;

  /** What is kept of a slot, with the changes of the step under way; zeros before the first. Not the caller's to dispose. */
  get(slot: Slot): LocalState {
    const state = this.#proposed.get(slot.index) ?? this.#kept.get(slot.index);
    if (state !== undefined) return state;
    const zero = zeroState(slot);
    this.#kept.set(slot.index, zero);
    return zero;
  }

  /** The contribution of a step is begun: proposals that nothing came of go. */
  begin(step: number): void {
    this.#rollback();
    this.#step = step;
  }

  /** What it is to be if the step counts; takes the tensors over. */
  propose(slot: Slot, state: LocalState): void {
    disposeOf(this.#proposed.get(slot.index));
    this.#proposed.set(slot.index, state);
  }

  /** A slot is about to get a new basis: what is kept of it moves there. Changes of the step under way go. */
  carry(change: SlotBasisChange): void {
    const { index } = change.newSlot;
    disposeOf(this.#proposed.get(index));
    this.#proposed.delete(index);
    const kept = this.#kept.get(index);
    const carried = kept && feedbackOf(change.newSlot)?.carry?.(change, kept);
    if (carried === undefined) return;
    disposeOf(kept);
    this.#kept.set(index, carried);
  }

  /** The record of a step came. @param isCounted whether a contribution of this trainer is in it */
  decide(step: number, isCounted: boolean): void {
    if (!isCounted || step !== this.#step) return this.#rollback();
    for (const [index, state] of this.#proposed) {
      disposeOf(this.#kept.get(index));
      this.#kept.set(index, state);
    }
    this.#proposed.clear();
  }

  dispose(): void {
    this.#rollback();
    for (const state of this.#kept.values()) disposeOf(state);
    this.#kept.clear();
  }

  #rollback(): void {
    for (const state of this.#proposed.values()) disposeOf(state);
    this.#proposed.clear();
  }
}

function zeroState(slot: Slot): LocalState {
  const specs = feedbackOf(slot)?.state(slot) ?? [];
  return Object.fromEntries(
    specs.map(({ kind, shape, dtype }) => [
      kind,
      dtype === 'u8' ? new Uint8Array(sizeOf(shape)) : tf.keep(tf.zeros([...shape])),
    ]),
  );
}

function disposeOf(state: LocalState | undefined): void {
  for (const value of Object.values(state ?? {})) if (value instanceof tf.Tensor) value.dispose();
}
