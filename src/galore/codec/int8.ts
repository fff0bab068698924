/**
 * Eight bits a number, with a scale for each block of 256 and stochastic rounding, which keeps the
 * expectation: E[decode(encode(x))] = x. Layout: the scales of all blocks (f32), then all codes (int8);
 * 1.016 bytes a number. The relative error of Gaussian data is about 1 %.
 *
 * scale = f32(largest magnitude of the block / 127), code = floor(x / scale + u) within +-127, u uniform
 * in [0, 1): number i of the stream for element i. The value of a code is code * scale.
 */
import { ProtocolError } from '../../errors.ts';
import { CLOSE_CODES } from '../../protocol/close-codes.ts';
import { mix32 } from '../../random.ts';
import { notFinite, findNotFinite } from './f32.ts';
import { findScales, maxScale, type LinearFormat } from './linear.ts';
import type { TensorCodec, TensorReader } from './tensor-codec.ts';

/** Numbers that share a scale. */
export const INT8_BLOCK = 256;

/** The codes of linear.ts in 8 bits. */
export const INT8_FORMAT: LinearFormat = { block: INT8_BLOCK, largest: 127 };
const MAX_SCALE = maxScale(INT8_FORMAT);

export const int8Codec: TensorCodec = {
  name: 'int8',
  encodedBytes: (count) => 4 * blocksOf(count) + count,
  encode(values, key) {
    const count = values.length;
    const blocks = blocksOf(count);
    const bytes = new Uint8Array(4 * blocks + count);
    const codes = new Int8Array(bytes.buffer, 4 * blocks, count);
    const scales = findScales(values, INT8_FORMAT);
    if (scales === null) throw notFinite(values, findNotFinite(values));
    new Float32Array(bytes.buffer, 0, blocks).set(scales);
    const low = key.low | 0; // as int32 the hash below is integer arithmetic throughout
    const high = key.high | 0;
    for (let block = 0; block < blocks; block++) {
      const scale = scales[block]!;
      if (scale === 0) continue;
      const start = block * INT8_BLOCK;
      quantise(values, codes, start, Math.min(count, start + INT8_BLOCK), scale, low, high);
    }
    return bytes;
  },
  open,
  check(bytes, count) {
    open(bytes, count); // finite scales make finite numbers
  },
  decode(bytes, count) {
    const values = new Float32Array(count);
    open(bytes, count).read(0, count, values);
    return values;
  },
  decodeRange: (bytes, count, start, end, out) => open(bytes, count).read(start, end, out),
};

function blocksOf(count: number): number {
  return Math.ceil(count / INT8_BLOCK);
}

/** Codes of the numbers `start` to `end`, which share `scale`. */
function quantise(
  values: Float32Array,
  codes: Int8Array,
  start: number,
  end: number,
  scale: number,
  low: number,
  high: number,
): void {
  for (let i = start; i < end; i++) {
    const u = mix32((mix32(i ^ low) + high) | 0) / 0x100000000; // randomUniform(key, i)
    const code = Math.floor(values[i]! / scale + u) | 0;
    codes[i] = Math.max(-127, Math.min(127, code));
  }
}

function open(bytes: Uint8Array, count: number): TensorReader {
  const blocks = blocksOf(count);
  if (bytes.length !== 4 * blocks + count) {
    throw malformed(`${count} numbers as int8 take ${4 * blocks + count} bytes, not ${bytes.length}`);
  }
  const scales = new Float32Array(bytes.slice(0, 4 * blocks).buffer);
  for (let block = 0; block < blocks; block++) {
    const scale = scales[block]!;
    if (!(scale >= 0 && scale <= MAX_SCALE)) {
      throw malformed(`the scale of block ${block} is ${scale}, not in 0 to ${MAX_SCALE}`);
    }
  }
  const codes = new Int8Array(bytes.buffer, bytes.byteOffset + 4 * blocks, count);
  return {
    read(start, end, out) {
      forBlocks(start, end, (block, from, to) => {
        const scale = scales[block]!;
        for (let i = from; i < to; i++) out[i - start] = codes[i]! * scale;
      });
    },
    accumulate(start, end, weight, sums) {
      forBlocks(start, end, (block, from, to) => {
        addScaledCodes(sums, from - start, codes, from, to, weight * scales[block]!);
      });
    },
  };
}

/** sums[at + i] += factor * codes[from + i]. Four at a time: twice as fast. */
function addScaledCodes(
  sums: Float64Array,
  at: number,
  codes: Int8Array,
  from: number,
  to: number,
  factor: number,
): void {
  let i = from;
  let j = at;
  for (; i + 4 <= to; i += 4, j += 4) {
    sums[j] = sums[j]! + factor * codes[i]!;
    sums[j + 1] = sums[j + 1]! + factor * codes[i + 1]!;
    sums[j + 2] = sums[j + 2]! + factor * codes[i + 2]!;
    sums[j + 3] = sums[j + 3]! + factor * codes[i + 3]!;
  }
  for (; i < to; i++, j++) sums[j] = sums[j]! + factor * codes[i]!;
}

/** Calls `visit` for each block that overlaps start..end, with the part of the range in it. */
function forBlocks(
  start: number,
  end: number,
  visit: (block: number, from: number, to: number) => void,
): void {
  for (let from = start; from < end;) {
    const block = Math.floor(from / INT8_BLOCK);
    const to = Math.min(end, (block + 1) * INT8_BLOCK);
    visit(block, from, to);
    from = to;
  }
}

function malformed(reason: string): ProtocolError {
  return new ProtocolError(CLOSE_CODES.MALFORMED_MESSAGE.code, reason);
}
