/**
 * The training state as a list of named tensors: what a snapshot holds, in the order both sides
 * number it (`Part.tensor` of stream SNAPSHOT). Pure.
 */
import { localState } from './feedback/local-state.ts';
import { ruleState, weightState, type StateDtype } from './optimizer/rule-state.ts';
import { basisShape, hasBasis, sizeOf, type Slot } from './slot.ts';

/** One tensor of the state. */
export interface StateTensor {
  /** `KIND/NAME`, such as `m/model.norm.weight`. */
  readonly name: string;
  /** `weights`, `basis`, or a kind of the slot's rule or weight (rule-state.ts). */
  readonly kind: string;
  readonly slot: Slot;
  readonly shape: readonly number[];
  readonly dtype: StateDtype;
  readonly totalBytes: number;
}

/**
 * Every tensor of the state after at least one step: all weights as f32, then what int8 weights are kept as and
 * the optimizer's state, then the bases, each in slot order. Before the first step only the weights exist.
 */
export function stateTensors(slots: readonly Slot[]): readonly StateTensor[] {
  const weights = slots.map((slot) => entry('weights', slot, slot.shape, 'f32'));
  const optimizer = slots.flatMap((slot) =>
    [...weightState(slot), ...ruleState(slot)].map(({ kind, shape, dtype }) =>
      entry(kind, slot, shape, dtype),
    ),
  );
  const bases = slots.filter(hasBasis).map((slot) => entry('basis', slot, basisShape(slot), 'f32'));
  return [...weights, ...optimizer, ...bases];
}

/** What names of `localTensors` begin with where they are among those of the state all share. */
export const LOCAL_PREFIX = 'local/';

/** Every tensor of the state that each trainer has for itself (local-state.ts), in slot order; not part of the state above. */
export function localTensors(slots: readonly Slot[]): readonly StateTensor[] {
  return slots.flatMap((slot) =>
    localState(slot).map(({ kind, shape, dtype }) => entry(kind, slot, shape, dtype)),
  );
}

/** Bytes of a state tensor, in memory, on the wire and on disk. */
export function stateBytes(dtype: StateDtype, shape: readonly number[]): number {
  return (dtype === 'f32' ? 4 : 1) * sizeOf(shape);
}

/** A tensor of the state, as a checkpoint stores it. */
export interface StateBytes {
  /** In the state table, such as `m/model.norm.weight`. */
  readonly name: string;
  readonly bytes: Uint8Array;
}

/** A state tensor that comes from elsewhere. */
export interface GivenTensor {
  readonly name: string;
  readonly codec: StateDtype;
  readonly totalBytes: number;
}

/**
 * Why tensors are not the state of these slots after `step`, in words, or null. All must be ones that there
 * are, and whole. Weights alone are the state before the first step; after it nothing may be missing: what is
 * would silently begin anew.
 */
export function stateFault(
  slots: readonly Slot[],
  given: readonly GivenTensor[],
  step: number,
): string | null {
  const isFirst = step === 0 && given.every(({ name }) => name.startsWith('weights/'));
  return tableFault(stateTensors(slots), given, (name) => !isFirst || name.startsWith('weights/'));
}

/** The same of a trainer's own state, which is whole or not there at all. */
export function localFault(slots: readonly Slot[], given: readonly GivenTensor[]): string | null {
  return given.length === 0 ? null : tableFault(localTensors(slots), given, () => true);
}

function tableFault(
  tensors: readonly StateTensor[],
  given: readonly GivenTensor[],
  isNeeded: (name: string) => boolean,
): string | null {
  const table = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  const missing = new Set(table.keys());
  for (const { name, codec, totalBytes } of given) {
    const expected = table.get(name);
    if (expected === undefined) return `the snapshot has ${name}, which this run has not`;
    if (codec !== expected.dtype || totalBytes !== expected.totalBytes) {
      const right = `${expected.totalBytes} of ${expected.dtype}`;
      return `${name} of the snapshot is ${totalBytes} bytes of ${codec}, not ${right}`;
    }
    missing.delete(name);
  }
  const lost = [...missing].find(isNeeded);
  return lost === undefined ? null : `the snapshot has no ${lost}`;
}

function entry(kind: string, slot: Slot, shape: readonly number[], dtype: StateDtype): StateTensor {
  return { name: `${kind}/${slot.name}`, kind, slot, shape, dtype, totalBytes: stateBytes(dtype, shape) };
}
