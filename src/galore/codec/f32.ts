/** Numbers as they are: 4 bytes each, IEEE 754 single precision. */
import { NotFiniteError, ProtocolError } from '../../errors.ts';
import { CLOSE_CODES } from '../../protocol/close-codes.ts';
import type { TensorCodec, TensorReader } from './tensor-codec.ts';

const EXPONENT_BITS = 0x7f800000; // all set: NaN or infinity

export const f32Codec: TensorCodec = {
  name: 'f32',
  encodedBytes: (count) => 4 * count,
  encode(values) {
    const bad = findNotFinite(values);
    if (bad >= 0) throw notFinite(values, bad);
    const bytes = new Uint8Array(4 * values.length);
    bytes.set(new Uint8Array(values.buffer, values.byteOffset, bytes.length));
    return bytes;
  },
  open,
  check(bytes, count) {
    checkFinite(aligned(bytes, count));
  },
  decode(bytes, count) {
    checkLength(bytes, count);
    const values = new Float32Array(count);
    new Uint8Array(values.buffer).set(bytes);
    checkFinite(values);
    return values;
  },
  decodeRange: (bytes, count, start, end, out) => open(bytes, count).read(start, end, out),
};

/** The error for a number that cannot be sent. */
export function notFinite(values: Float32Array, index: number): NotFiniteError {
  return new NotFiniteError(
    `number ${index} of ${values.length} is ${values[index]}: the training has diverged; ` +
      'start it anew with a smaller optimizer.lr',
  );
}

/** Index of the first NaN or infinity, or -1. */
export function findNotFinite(values: Float32Array): number {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < bits.length; i++) {
    if ((bits[i]! & EXPONENT_BITS) === EXPONENT_BITS) return i;
  }
  return -1;
}

function open(bytes: Uint8Array, count: number): TensorReader {
  const values = aligned(bytes, count);
  return {
    read(start, end, out) {
      out.set(values.subarray(start, end));
    },
    accumulate(start, end, weight, sums) {
      let i = start;
      let j = 0;
      for (; i + 4 <= end; i += 4, j += 4) {
        sums[j] = sums[j]! + weight * values[i]!;
        sums[j + 1] = sums[j + 1]! + weight * values[i + 1]!;
        sums[j + 2] = sums[j + 2]! + weight * values[i + 2]!;
        sums[j + 3] = sums[j + 3]! + weight * values[i + 3]!;
      }
      for (; i < end; i++, j++) sums[j] = sums[j]! + weight * values[i]!;
    },
  };
}

function aligned(bytes: Uint8Array, count: number): Float32Array {
  checkLength(bytes, count);
  return bytes.byteOffset % 4 === 0
    ? new Float32Array(bytes.buffer, bytes.byteOffset, count)
    : new Float32Array(bytes.slice().buffer);
}

function checkLength(bytes: Uint8Array, count: number): void {
  if (bytes.length !== 4 * count) {
    throw malformed(`${count} numbers as f32 take ${4 * count} bytes, not ${bytes.length}`);
  }
}

function checkFinite(values: Float32Array): void {
  const bad = findNotFinite(values);
  if (bad >= 0) throw malformed(`number ${bad} of ${values.length} is ${values[bad]}`);
}

function malformed(reason: string): ProtocolError {
  return new ProtocolError(CLOSE_CODES.MALFORMED_MESSAGE.code, reason);
}
