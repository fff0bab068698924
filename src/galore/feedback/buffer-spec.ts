/** How a buffer (buffer.ts) is listed in a slot's state. Pure: the coordinator reads it too. */
import { codecFor } from '../codec/codec.ts';
import type { StateSpec } from '../optimizer/rule-state.ts';
import { sizeOf, type BufferDtype } from '../slot.ts';

/** The state of a buffer named `kind`: one tensor. */
export function bufferSpec(kind: string, shape: readonly number[], dtype: BufferDtype): StateSpec {
  if (dtype === 'f32') return { kind, shape, dtype: 'f32' };
  return { kind: `${kind}_codes`, shape: [codecFor(dtype).encodedBytes(sizeOf(shape))], dtype: 'u8' };
}
