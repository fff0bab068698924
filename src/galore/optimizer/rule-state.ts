/**
 * The optimizer rules by name, and the state each keeps of a slot: what a snapshot holds and what the
 * memory tables count. Pure: the coordinator reads it too. The rules themselves are in rule.ts.
 */
import { WEIGHT_GROUP } from '../int8-weight.ts';
import { bufferSpec } from '../feedback/buffer-spec.ts';
import { hasBasis, matrixShape, sizeOf, subspaceShape, type PowerSlot, type Slot } from '../slot.ts';

/** One way to turn a slot's summed payload into its next weight. */
export const RULE_NAMES = [
  'adamw',
  'adamw-8bit',
  'adafactor',
  'adafactor-momentum',
  'sgd',
  'sgd-momentum',
  'sumo',
  'fira',
  'apollo',
  'apollo-mini',
  'ldadam',
  'power',
  'outer',
  'outer-nesterov',
  'outer-adam',
] as const;

export type RuleName = (typeof RULE_NAMES)[number];

/** Every kind of state there is; a checkpoint knows a tensor by it. */
export const STATE_KINDS: readonly string[] = [
  'm',
  'v',
  'm_codes',
  'm_scales',
  'v_codes',
  'v_scales',
  'v_row',
  'v_col',
  'norm',
  'error',
  'w_codes',
  'w_scales',
  'w_zeros',
  'p',
  'w',
];

/** What a state tensor is made of: 32-bit floats, or one byte a number (codes of a block-wise quantiser). */
export type StateDtype = 'f32' | 'u8';

/** What a state tensor of this kind is made of. */
export function dtypeOfKind(kind: string): StateDtype {
  return kind.endsWith('_codes') ? 'u8' : 'f32';
}

/** One state tensor of a slot. All start as zeros. */
export interface StateSpec {
  /** Such as `m`; unique within the slot. */
  readonly kind: string;
  readonly shape: readonly number[];
  readonly dtype: StateDtype;
}

/** Numbers that share a scale in 8-bit states. */
export const STATE_BLOCK = 256;

/** 8-bit states of fewer numbers stay f32 (bitsandbytes' min_8bit_size). */
export const MIN_8BIT_SIZE = 4096;

/** The state `slot.rule` keeps of a slot, in the order it is stored. */
export function ruleState(slot: Slot): readonly StateSpec[] {
  if (slot.policy === 'frozen') return [];
  const shape = subspaceShape(slot);
  switch (slot.rule) {
    case 'adamw':
    case 'outer-adam':
      return moments(shape);
    case 'adamw-8bit':
      return sizeOf(shape) < MIN_8BIT_SIZE ? moments(shape) : eightBitMoments(sizeOf(shape));
    case 'adafactor':
      return factoredMoment(shape);
    case 'adafactor-momentum':
      return [...factoredMoment(shape), f32('m', shape)];
    case 'sgd':
    case 'outer':
      return [];
    case 'sgd-momentum':
    case 'outer-nesterov':
      return [f32('m', shape)];
    case 'sumo':
      return hasBasis(slot) ? [f32('m', shape), f32('norm', [1])] : moments(shape);
    case 'fira':
    case 'apollo':
    case 'apollo-mini':
      return hasBasis(slot) ? [...moments(shape), f32('norm', [1])] : moments(shape);
    case 'ldadam':
      return hasBasis(slot) ? [...moments(shape), f32('error', slot.shape)] : moments(shape);
    case 'power':
      return slot.policy === 'power' ? powerState(slot) : moments(shape);
  }
}

/** What the first moment of a power slot is called: by what it is kept as. */
export function momentKind({ shape, buffers }: PowerSlot): string {
  return bufferSpec('m', shape, buffers.moment).kind;
}

function powerState(slot: PowerSlot): readonly StateSpec[] {
  const [m, n] = matrixShape(slot);
  return [
    bufferSpec('m', slot.shape, slot.buffers.moment),
    f32('v_row', [m]),
    f32('v_col', [n]),
    f32('p', [m, slot.rank]),
    f32('w', [n, slot.rank]),
  ];
}

/** What a weight is kept as, where that is not the f32 numbers themselves. */
export function weightState({ weights, shape }: Slot): readonly StateSpec[] {
  if (weights === undefined) return [];
  const groups = [Math.ceil(sizeOf(shape) / WEIGHT_GROUP)];
  return [
    { kind: 'w_codes', shape: [sizeOf(shape)], dtype: 'u8' },
    f32('w_scales', groups),
    f32('w_zeros', groups),
  ];
}

function f32(kind: string, shape: readonly number[]): StateSpec {
  return { kind, shape, dtype: 'f32' };
}

function moments(shape: readonly number[]): readonly StateSpec[] {
  return [f32('m', shape), f32('v', shape)];
}

function eightBitMoments(count: number): readonly StateSpec[] {
  const blocks = [Math.ceil(count / STATE_BLOCK)];
  return [
    { kind: 'm_codes', shape: [count], dtype: 'u8' },
    f32('m_scales', blocks),
    { kind: 'v_codes', shape: [count], dtype: 'u8' },
    f32('v_scales', blocks),
  ];
}

/** Row and column means for a matrix, all of it for a vector. */
function factoredMoment(shape: readonly number[]): readonly StateSpec[] {
  const [rows = 0, cols] = shape;
  return cols === undefined ? [f32('v', shape)] : [f32('v_row', [rows]), f32('v_col', [cols])];
}
