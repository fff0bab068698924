/** Numbers as they are: 4 bytes each, IEEE 754 single precision. */
import { ProtocolError } from '../../errors.ts';
import { CLOSE_CODES } from '../../protocol/close-codes.ts';
import type { RandomKey } from '../../random.ts';
import { chunk, CHUNK, groupsOf, kernels, padGroup } from './kernels.ts';
import { MAX_MAGNITUDE } from '../../protocol/limits.ts';
import { findNotFinite, MAX_MAGNITUDE_BITS, notFinite, tooLarge } from './finite.ts';
import type { TensorCodec, TensorReader, TensorWriter } from './tensor-codec.ts';

const chunkBytes = new Uint8Array(chunk.values.buffer, chunk.values.byteOffset, chunk.values.byteLength);

export const f32Codec: TensorCodec = {
  name: 'f32',
  encodedBytes: (count) => 4 * count,
  encode(values, _key, into) {
    if (findNotFinite(values) >= 0) throw notFinite(values);
    const bytes = into ?? new Uint8Array(4 * values.length);
    bytes.set(new Uint8Array(values.buffer, values.byteOffset, bytes.length));
    return bytes;
  },
  writer: write,
  open,
  check(bytes, count) {
    checkMagnitudes(aligned(bytes, count));
  },
  decode(bytes, count, into = new Float32Array(count)) {
    checkLength(bytes, count);
    const values = into.subarray(0, count);
    new Uint8Array(values.buffer, values.byteOffset, values.byteLength).set(bytes);
    checkFinite(values);
    return values;
  },
  decodeRange: (bytes, count, start, end, out) => open(bytes, count).read(start, end, out),
};

function write(count: number, _key: RandomKey, into?: Uint8Array): TensorWriter {
  const bytes = into ?? new Uint8Array(4 * count);
  const values = new Float32Array(bytes.buffer, bytes.byteOffset, count);
  return {
    bytes,
    write(start, length) {
      const part = chunk.values.subarray(0, length);
      if (findNotFinite(part) >= 0) throw notFinite(part, start, count);
      values.set(part, start);
    },
  };
}

function open(bytes: Uint8Array, count: number): TensorReader {
  checkLength(bytes, count);
  let numbers: Float32Array | null = null;
  return {
    read(start, end, out) {
      numbers ??= aligned(bytes, count); // may be a copy
      out.set(numbers.subarray(start, end));
    },
    accumulate(start, weight) {
      const length = Math.min(CHUNK, count - start);
      chunkBytes.set(bytes.subarray(4 * start, 4 * (start + length)));
      padGroup(length);
      kernels.accumulateValues(groupsOf(length), weight);
    },
  };
}

function aligned(bytes: Uint8Array, count: number): Float32Array {
  checkLength(bytes, count);
  return bytes.byteOffset % 4 === 0
    ? new Float32Array(bytes.buffer, bytes.byteOffset, count)
    : new Float32Array(new Uint8Array(bytes).buffer);
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

function checkMagnitudes(values: Float32Array): void {
  const bits = new Int32Array(values.buffer, values.byteOffset, values.length);
  let largest = 0;
  for (let i = 0; i < bits.length; i++) {
    const magnitude = bits[i]! & 0x7fffffff; // in the order of the numbers, NaN last
    if (magnitude > largest) largest = magnitude;
  }
  if (largest <= MAX_MAGNITUDE_BITS) return;
  checkFinite(values);
  const index = values.findIndex((value) => Math.abs(value) > MAX_MAGNITUDE);
  throw tooLarge(`number ${index} of ${values.length}`, values[index]!);
}

function malformed(reason: string): ProtocolError {
  return new ProtocolError(CLOSE_CODES.MALFORMED_MESSAGE.code, reason);
}
