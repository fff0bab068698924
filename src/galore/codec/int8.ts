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
import type { RandomKey } from '../../random.ts';
import { notFinite } from './finite.ts';
import { blocksOf, chunk, CHUNK, INT8_BLOCK, kernels, MAX_SCALE } from './kernels.ts';
import type { TensorCodec, TensorReader, TensorWriter } from './tensor-codec.ts';

const INFINITY_BITS = 0x7f800000;

export const int8Codec: TensorCodec = {
  name: 'int8',
  encodedBytes: (count) => 4 * blocksOf(count) + count,
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
    open(bytes, count); // finite scales make finite numbers
  },
  decode(bytes, count, into = new Float32Array(count)) {
    const values = into.subarray(0, count);
    open(bytes, count).read(0, count, values);
    return values;
  },
  decodeRange: (bytes, count, start, end, out) => open(bytes, count).read(start, end, out),
};

function write(count: number, { low, high }: RandomKey, into?: Uint8Array): TensorWriter {
  const blocks = blocksOf(count);
  const bytes = into ?? new Uint8Array(4 * blocks + count);
  const scales = new Float32Array(bytes.buffer, bytes.byteOffset, blocks);
  const codes = new Int8Array(bytes.buffer, bytes.byteOffset + 4 * blocks, count);
  return {
    bytes,
    write(start, length) {
      const chunkBlocks = blocksOf(length);
      chunk.values.fill(0, length, chunkBlocks * INT8_BLOCK); // the rest of the last block
      if (kernels.scales(chunkBlocks) >= INFINITY_BITS) throw notFinite(chunk.values, start, count);
      kernels.quantise(chunkBlocks, start, low, high);
      scales.set(chunk.scales.subarray(0, chunkBlocks), start / INT8_BLOCK);
      codes.set(chunk.codes.subarray(0, length), start);
    },
  };
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

  /** Copies codes and scales into the chunk; returns the number of blocks. */
  const load = (start: number): number => {
    const end = Math.min(count, start + CHUNK);
    const firstBlock = start / INT8_BLOCK;
    const chunkBlocks = blocksOf(end - start);
    chunk.scales.set(scales.subarray(firstBlock, firstBlock + chunkBlocks));
    chunk.codes.set(codes.subarray(start, end));
    chunk.codes.fill(0, end - start, chunkBlocks * INT8_BLOCK);
    return chunkBlocks;
  };
  return {
    read(start, end, out) {
      for (let from = start; from < end;) {
        const first = from - (from % CHUNK);
        const to = Math.min(end, first + CHUNK);
        const chunkBlocks = load(first);
        let values: Float32Array | Float64Array = chunk.values;
        if (out instanceof Float32Array) kernels.decode(chunkBlocks);
        else {
          values = chunk.sums.fill(0);
          kernels.accumulate(chunkBlocks, 1);
        }
        out.set(values.subarray(from - first, to - first), from - start);
        from = to;
      }
    },
    accumulate(start, weight) {
      kernels.accumulate(load(start), weight);
    },
  };
}

function malformed(reason: string): ProtocolError {
  return new ProtocolError(CLOSE_CODES.MALFORMED_MESSAGE.code, reason);
}
