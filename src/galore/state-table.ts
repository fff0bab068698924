/**
 * The training state as a list of named tensors: what a snapshot holds, in the order both sides
 * number it (`Part.tensor` of stream SNAPSHOT). Pure.
 */
import { ruleState, type StateDtype } from './optimizer/rule-state.ts';
import { basisShape, hasBasis, sizeOf, type Slot } from './slot.ts';

/** One tensor of the state. */
export interface StateTensor {
  /** `KIND/NAME`, such as `m/model.norm.weight`. */
  readonly name: string;
  /** `weights`, `basis`, or a kind of the slot's rule (rule-state.ts). */
  readonly kind: string;
  readonly slot: Slot;
  readonly shape: readonly number[];
  readonly dtype: StateDtype;
  readonly totalBytes: number;
}

/**
 * Every tensor of the state after at least one step: all weights, then the optimizer's state, then the
 * bases, each in slot order. Before the first step only the weights exist.
 */
export function stateTensors(slots: readonly Slot[]): readonly StateTensor[] {
  const weights = slots.map((slot) => entry('weights', slot, slot.shape, 'f32'));
  const optimizer = slots.flatMap((slot) =>
    ruleState(slot).map(({ kind, shape, dtype }) => entry(kind, slot, shape, dtype)),
  );
  const bases = slots.filter(hasBasis).map((slot) => entry('basis', slot, basisShape(slot), 'f32'));
  return [...weights, ...optimizer, ...bases];
}

/** Bytes of a state tensor, in memory, on the wire and on disk. */
export function stateBytes(dtype: StateDtype, shape: readonly number[]): number {
  return (dtype === 'f32' ? 4 : 1) * sizeOf(shape);
}

function entry(kind: string, slot: Slot, shape: readonly number[], dtype: StateDtype): StateTensor {
  return { name: `${kind}/${slot.name}`, kind, slot, shape, dtype, totalBytes: stateBytes(dtype, shape) };
}
