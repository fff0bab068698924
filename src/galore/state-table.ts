/**
 * The training state as a list of named tensors: what a snapshot holds, in the order both sides
 * number it (`Part.tensor` of stream SNAPSHOT). Pure.
 */
import { basisShape, payloadShape, sizeOf, type Slot } from './slot.ts';

/** What a tensor of the state is: the weight, its two moments, its basis. */
export type StateKind = 'weights' | 'm' | 'v' | 'basis';

/** One tensor of the state; all are f32. */
export interface StateTensor {
  /** `KIND/NAME`, such as `m/model.norm.weight`. */
  readonly name: string;
  readonly kind: StateKind;
  readonly slot: Slot;
  readonly shape: readonly number[];
  readonly totalBytes: number;
}

/**
 * Every tensor of the state after at least one step: all weights, then all first moments, second
 * moments and bases, each in slot order. Before the first step only the weights exist.
 */
export function stateTensors(slots: readonly Slot[]): readonly StateTensor[] {
  const tensorsOf = (kind: StateKind): StateTensor[] =>
    slots.flatMap((slot) => {
      const shape = stateShape(kind, slot);
      return shape === null
        ? []
        : [{ name: `${kind}/${slot.name}`, kind, slot, shape, totalBytes: 4 * sizeOf(shape) }];
    });
  return [...tensorsOf('weights'), ...tensorsOf('m'), ...tensorsOf('v'), ...tensorsOf('basis')];
}

function stateShape(kind: StateKind, slot: Slot): readonly number[] | null {
  switch (kind) {
    case 'weights':
      return slot.shape;
    case 'm':
    case 'v':
      return payloadShape(slot);
    case 'basis':
      return slot.policy === 'one-sided' ? basisShape(slot) : null;
  }
}
