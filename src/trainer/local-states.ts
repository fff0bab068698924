/**
 * What a trainer keeps for itself, slot by slot: of its gradients to send later (galore/feedback), and the state of
 * its local steps (galore/displacement.ts). A step's changes are
 * proposed while its contribution is made and become real when its record counts this trainer in, even if the
 * connection was lost in between. A step that was given up, or went on without this trainer, leaves no trace.
 * Checkpoints hold what is kept, so that a run that goes on from one loses nothing of it.
 */
import * as tf from '@tensorflow/tfjs-core';
import { codecFor } from '../galore/codec/codec.ts';
import { COUNT_KIND, displacementSlot, innerState } from '../galore/displacement.ts';
import type { LocalState, SlotBasisChange } from '../galore/feedback/feedback.ts';
import { localState } from '../galore/feedback/local-state.ts';
import { feedbackOf } from '../galore/feedback/rules.ts';
import { withMeans, type AveragingOptions } from '../galore/moment-average.ts';
import { tensorsOf, type CarryInput } from '../galore/optimizer/rule.ts';
import { ruleFor } from '../galore/optimizer/rules.ts';
import { zeroOf, zerosOf } from '../galore/optimizer/zeros.ts';
import { carriesSums, momentsIn, sizeOf, tensorLength, type MomentKind, type Slot } from '../galore/slot.ts';
import { localTensors } from '../galore/state-table.ts';
import type { EncodedTensor, StateArray, StateValue } from './replica.ts';

/** How the run carries moments over to a new basis. */
export type CarryOptions = Pick<CarryInput, 'moments' | 'betas'>;

export class LocalStates {
  readonly #kept = new Map<number, LocalState>();
  readonly #proposed = new Map<number, LocalState>();
  /** The step of the proposals. */
  #step = 0;

  /** What is kept of a slot, with the changes of the step under way; zeros before the first. Not the caller's to dispose. */
  get(slot: Slot): LocalState {
    const state = this.#proposed.get(slot.index) ?? this.#kept.get(slot.index);
    if (state !== undefined) return state;
    const zero = zerosOf(localState(slot));
    tensorsOf(zero).forEach((tensor) => tf.keep(tensor));
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
  carry(change: SlotBasisChange, options: CarryOptions): void {
    const { index } = change.newSlot;
    disposeOf(this.#proposed.get(index));
    this.#proposed.delete(index);
    const kept = this.#kept.get(index);
    if (kept === undefined) return;
    const carried = {
      ...carriedInner(change, kept, options),
      ...feedbackOf(change.newSlot)?.carry?.(change, kept),
    };
    if (Object.keys(carried).length === 0) return;
    disposeOf(kept);
    this.#kept.set(index, carried);
  }

  /**
   * The record of a step came. False: what was kept is of an earlier step than the contribution that counts (this
   * process did not make it), so it is no good; it is all zeros now.
   * @param isCounted whether a contribution of this trainer is in the record
   */
  decide(step: number, isCounted: boolean): boolean {
    if (!isCounted) {
      this.#rollback();
      return true;
    }
    if (step !== this.#step) {
      const isGood = this.#kept.size === 0;
      this.dispose();
      return isGood;
    }
    for (const [index, state] of this.#proposed) {
      disposeOf(this.#kept.get(index));
      this.#kept.set(index, state);
    }
    this.#proposed.clear();
    return true;
  }

  /**
   * The record of a step has means of moments: they take the place of this trainer's own.
   * @param tensors of the update, by slot
   * @param share of the step that the record's members did: what slots that carry sums were multiplied by
   */
  takeMeans(
    slots: readonly Slot[],
    step: number,
    tensors: ReadonlyMap<number, EncodedTensor>,
    share: number,
    options: AveragingOptions,
  ): void {
    for (const slot of slots) {
      const kinds = momentsIn(slot, step);
      if (kinds.length === 0) continue;
      const means = meansOf(slot, step, kinds, tensors.get(slot.index)!, carriesSums(slot) ? share : 1);
      const kept = this.get(slot);
      const next = withMeans(slot, kept, means, step, options);
      const stay = tensorsOf(next);
      tf.dispose([...means.values(), ...tensorsOf(kept).filter((tensor) => !stay.includes(tensor))]);
      this.#kept.set(slot.index, next);
    }
  }

  /** Takes over what a checkpoint has of this trainer: all of `localTensors`, by name. */
  restore(slots: readonly Slot[], values: ReadonlyMap<string, StateArray>): void {
    this.dispose();
    for (const slot of slots) {
      const specs = localState(slot);
      if (specs.length === 0) continue;
      const state = specs.map(({ kind, shape }) => {
        const value = values.get(`${kind}/${slot.name}`)!;
        return [kind, value instanceof Uint8Array ? value : tf.keep(tf.tensor(value, [...shape]))] as const;
      });
      this.#kept.set(slot.index, Object.fromEntries(state));
    }
  }

  /** Handles on what is kept after the last record, in the order of `localTensors`; none if that is all zeros. */
  clone(slots: readonly Slot[]): StateValue[] {
    return this.#kept.size === 0 ? [] : this.#clone(slots, new Map());
  }

  /** The same as it will be if the step under way counts. */
  cloneProposed(slots: readonly Slot[]): StateValue[] {
    return this.#kept.size + this.#proposed.size === 0 ? [] : this.#clone(slots, this.#proposed);
  }

  #clone(slots: readonly Slot[], first: ReadonlyMap<number, LocalState>): StateValue[] {
    return localTensors(slots).map((tensor) => {
      const { index } = tensor.slot;
      const value = (first.get(index) ?? this.#kept.get(index))?.[tensor.kind];
      if (value === undefined) return zeroOf(tensor);
      return value instanceof tf.Tensor ? tf.clone(value) : value;
    });
  }

  dispose(): void {
    this.#rollback();
    for (const state of this.#kept.values()) disposeOf(state);
    this.#kept.clear();
    this.#step = 0;
  }

  #rollback(): void {
    for (const state of this.#proposed.values()) disposeOf(state);
    this.#proposed.clear();
  }
}

/** The state of a slot's local steps in the new basis; nothing if there are none. */
function carriedInner(
  { oldBasis, newSlot, newBasis }: SlotBasisChange,
  kept: LocalState,
  options: CarryOptions,
): LocalState {
  const count = kept[COUNT_KIND];
  if (newSlot.inner === undefined || !(count instanceof tf.Tensor)) return {};
  const specs = innerState(newSlot).filter(({ kind }) => kind !== COUNT_KIND);
  const state = Object.fromEntries(specs.map(({ kind }) => [kind, kept[kind]!]));
  const carried = ruleFor(newSlot.inner).carry({
    slot: newSlot,
    state,
    change: { oldBasis, newBasis, side: newSlot.side },
    completedSteps: count.dataSync()[0]!,
    ...options,
  });
  return { ...carried, [COUNT_KIND]: tf.clone(count) };
}

/** The moments of a slot's tensor of an update, which lie behind the payload. New tensors. */
function meansOf(
  slot: Slot,
  step: number,
  kinds: readonly MomentKind[],
  { codec, bytes }: EncodedTensor,
  share: number,
): ReadonlyMap<MomentKind, tf.Tensor> {
  const { shape } = displacementSlot(slot);
  const values = codecFor(codec).decode(bytes, tensorLength(slot, step));
  return new Map(
    kinds.map((kind, i) => {
      const part = values.slice((1 + i) * sizeOf(shape), (2 + i) * sizeOf(shape));
      return [kind, tf.tensor(share === 1 ? part : part.map((value) => value / share), [...shape])];
    }),
  );
}

function disposeOf(state: LocalState | undefined): void {
  tf.dispose(tensorsOf(state ?? {}));
}
