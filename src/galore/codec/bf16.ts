/** Numbers as bf16, the upper half of an f32, rounded to the nearest; 2 bytes each, relative error 0.2 %. */
import { ProtocolError } from '../../errors.ts';
import { CLOSE_CODES } from '../../protocol/close-codes.ts';
import type { RandomKey } from '../../random.ts';
import { bf16Number } from './bf16-number.ts';
import { INFINITY_BITS, MAX_MAGNITUDE_BITS, notFinite, tooLarge } from './finite.ts';
import { chunk, CHUNK, groupsOf, kernels, padGroup } from './kernels.ts';
import type { TensorCodec, TensorReader, TensorWriter } from './tensor-codec.ts';

const INFINITY_UPPER_BITS = 0x7f80;
const numbers = new Uint16Array(chunk.codes.buffer, chunk.codes.byteOffset, CHUNK);
const words = new Uint32Array(chunk.codes.buffer, chunk.codes.byteOffset, CHUNK / 2);

export const bf16Codec: TensorCodec = {
  name: 'bf16',
  encodedBytes: (count) => 2 * count,
  encode(values, key, into) {
    const writer = write(values.length, key, into);
    for (let start = 0; start < values.length; start += CHUNK) {
      const part = values.subarray(start, start + CHUNK);
      chunk.values.set(part);
      writer.write(start, part.length);
    }
    return writer.bytes;
  },
  writer: write,
  open,
  check(bytes, count) {
    checkLength(bytes, count);
    for (let start = 0; start < count; start += CHUNK) {
      load(bytes, start, count);
      checkMagnitudes(start, Math.min(CHUNK, count - start), count);
    }
  },
  decode(bytes, count, into = new Float32Array(count)) {
    const values = into.subarray(0, count);
    open(bytes, count).read(0, count, values);
    return values;
  },
  decodeRange: (bytes, count, start, end, out) => open(bytes, count).read(start, end, out),
};

function write(count: number, _key: RandomKey, into?: Uint8Array): TensorWriter {
  const bytes = into ?? new Uint8Array(2 * count);
  return {
    bytes,
    write(start, length) {
      padGroup(length);
      if (kernels.toBf16(groupsOf(length)) >= INFINITY_BITS) throw notFinite(chunk.values, start, count);
      bytes.set(chunk.codes.subarray(0, 2 * length), 2 * start);
    },
  };
}

function open(bytes: Uint8Array, count: number): TensorReader {
  checkLength(bytes, count);
  return {
    read(start, end, out) {
      for (let from = start; from < end;) {
        const first = from - (from % CHUNK);
        const to = Math.min(end, first + CHUNK);
        kernels.fromBf16(load(bytes, first, count));
        out.set(chunk.values.subarray(from - first, to - first), from - start);
        from = to;
      }
    },
    accumulate(start, weight) {
      const groups = load(bytes, start, count);
      kernels.fromBf16(groups);
      kernels.accumulateValues(groups, weight);
    },
  };
}

/** Copies the chunk at `start` into the chunk; returns the number of groups. @throws ProtocolError for NaN or an infinity */
function load(bytes: Uint8Array, start: number, count: number): number {
  const length = Math.min(CHUNK, count - start);
  const groups = groupsOf(length);
  chunk.codes.set(bytes.subarray(2 * start, 2 * (start + length)));
  chunk.codes.fill(0, 2 * length, 2 * 256 * groups);
  let found = 0;
  for (let i = 0; i < 128 * groups; i++) found |= infinitesOf(words[i]!);
  if (found !== 0) throw notFiniteAt(start, length, count);
  return groups;
}

/** Not 0 if the exponent of one of the two numbers is all ones: adding one to it carries into the sign's place. */
function infinitesOf(word: number): number {
  return ((word & 0x7f807f80) + 0x00800080) & 0x80008000;
}

function notFiniteAt(start: number, length: number, count: number): ProtocolError {
  const index = numbers
    .subarray(0, length)
    .findIndex((bits) => (bits & INFINITY_UPPER_BITS) === INFINITY_UPPER_BITS);
  return malformed(`number ${start + index} of ${count} is not finite`);
}

/** Of the finite numbers in the chunk. */
function checkMagnitudes(start: number, length: number, count: number): void {
  for (let i = 0; i < length; i++) {
    if ((numbers[i]! & 0x7fff) <= MAX_MAGNITUDE_BITS >>> 16) continue; // in the order of the numbers
    throw tooLarge(`number ${start + i} of ${count}`, bf16Number(numbers[i]!));
  }
}

function checkLength(bytes: Uint8Array, count: number): void {
  if (bytes.length === 2 * count) return;
  throw malformed(`${count} numbers as bf16 take ${2 * count} bytes, not ${bytes.length}`);
}

function malformed(reason: string): ProtocolError {
  return new ProtocolError(CLOSE_CODES.MALFORMED_MESSAGE.code, reason);
}
