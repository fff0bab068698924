/**
 * A codec of linear codes in blocks (linear.ts) with stochastic rounding, which keeps the expectation:
 * E[decode(encode(x))] = x. Layout: the scales of all blocks, then all codes. int8.ts and int4.ts are made of it.
 */
import { ProtocolError } from '../../errors.ts';
import { CLOSE_CODES } from '../../protocol/close-codes.ts';
import type { RandomKey } from '../../random.ts';
import { bf16Bits } from './bf16-number.ts';
import { MAX_MAGNITUDE } from '../../protocol/limits.ts';
import { INFINITY_BITS, notFinite, tooLarge } from './finite.ts';
import { chunk, CHUNK, linearKernels, type WireFormat } from './kernels.ts';
import { maxScale } from './linear.ts';
import type { CodecName, TensorCodec, TensorReader, TensorWriter } from './tensor-codec.ts';

/** The codec of a format, which must be one of kernels.ts. */
export function blockCodec(name: CodecName, format: WireFormat): TensorCodec {
  const codec = new BlockCodec(name, format);
  return {
    name,
    encodedBytes: (count) => codec.encodedBytes(count),
    encode(values, key, into) {
      const writer = codec.writer(values.length, key, into);
      for (let start = 0; start < values.length; start += CHUNK) {
        const part = values.subarray(start, start + CHUNK);
        chunk.values.set(part);
        writer.write(start, part.length);
      }
      return writer.bytes;
    },
    writer: (count, key, into) => codec.writer(count, key, into),
    open: (bytes, count) => codec.open(bytes, count),
    check(bytes, count) {
      codec.check(bytes, count); // finite scales make finite numbers
    },
    decode(bytes, count, into = new Float32Array(count)) {
      const values = into.subarray(0, count);
      codec.open(bytes, count).read(0, count, values);
      return values;
    },
    decodeRange: (bytes, count, start, end, out) => codec.open(bytes, count).read(start, end, out),
  };
}

class BlockCodec {
  readonly #name: CodecName;
  readonly #format: WireFormat;
  readonly #kernels;
  readonly #scaleBytes: 2 | 4;
  readonly #maxScale: number;

  constructor(name: CodecName, format: WireFormat) {
    this.#name = name;
    this.#format = format;
    this.#kernels = linearKernels(format);
    this.#scaleBytes = format.scale === 'bf16' ? 2 : 4;
    this.#maxScale = maxScale(format);
  }

  encodedBytes(count: number): number {
    return this.#scaleBytes * this.#blocksOf(count) + this.#codeBytes(count);
  }

  writer(count: number, { low, high }: RandomKey, into?: Uint8Array): TensorWriter {
    const { block } = this.#format;
    const bytes = into ?? new Uint8Array(this.encodedBytes(count));
    const codes = bytes.subarray(this.#scaleBytes * this.#blocksOf(count));
    const writeScales = this.#scaleWriter(bytes, this.#blocksOf(count));
    return {
      bytes,
      write: (start, length) => {
        const blocks = this.#blocksOf(length);
        chunk.values.fill(0, length, blocks * block); // the rest of the last block
        if (this.#kernels.scales(blocks) >= INFINITY_BITS) throw notFinite(chunk.values, start, count);
        this.#kernels.quantise(blocks, start, low, high);
        writeScales(start / block, blocks);
        codes.set(chunk.codes.subarray(0, this.#codeBytes(length)), this.#codeBytes(start));
      },
    };
  }

  open(bytes: Uint8Array, count: number): TensorReader {
    const wanted = this.encodedBytes(count);
    if (bytes.length !== wanted) {
      throw malformed(`${count} numbers as ${this.#name} take ${wanted} bytes, not ${bytes.length}`);
    }
    const scales = this.#scalesOf(bytes, this.#blocksOf(count));
    const codes = bytes.subarray(this.#scaleBytes * scales.length);
    this.#checkCodes(codes, count);
    const load = (start: number): number => this.#load(scales, codes, start, count);
    return {
      read: (start, end, out) => {
        for (let from = start; from < end;) {
          const first = from - (from % CHUNK);
          const to = Math.min(end, first + CHUNK);
          const values = this.#decodeChunk(load(first), out instanceof Float32Array);
          out.set(values.subarray(from - first, to - first), from - start);
          from = to;
        }
      },
      accumulate: (start, weight) => this.#kernels.accumulate(load(start), weight),
    };
  }

  check(bytes: Uint8Array, count: number): void {
    this.open(bytes, count);
    const most = MAX_MAGNITUDE / this.#format.largest;
    const scales = this.#scalesOf(bytes, this.#blocksOf(count));
    const block = scales.findIndex((scale) => scale > most);
    if (block >= 0)
      throw tooLarge(
        `the scale of block ${block} times ${this.#format.largest}`,
        scales[block]! * this.#format.largest,
      );
  }

  #decodeChunk(blocks: number, isNarrow: boolean): Float32Array | Float64Array {
    if (isNarrow) {
      this.#kernels.decode(blocks);
      return chunk.values;
    }
    chunk.sums.fill(0);
    this.#kernels.accumulate(blocks, 1);
    return chunk.sums;
  }

  /** Copies codes and scales of the chunk at `start` into the chunk; returns the number of blocks. */
  #load(scales: Float32Array, codes: Uint8Array, start: number, count: number): number {
    const { block } = this.#format;
    const length = Math.min(CHUNK, count - start);
    const blocks = this.#blocksOf(length);
    chunk.scales.set(scales.subarray(start / block, start / block + blocks));
    const first = this.#codeBytes(start);
    chunk.codes.set(codes.subarray(first, first + this.#codeBytes(length)));
    chunk.codes.fill(0, this.#codeBytes(length), this.#codeBytes(blocks * block));
    return blocks;
  }

  #scaleWriter(bytes: Uint8Array, blocks: number): (first: number, count: number) => void {
    if (this.#scaleBytes === 4) {
      const scales = new Float32Array(bytes.buffer, bytes.byteOffset, blocks);
      return (first, count) => scales.set(chunk.scales.subarray(0, count), first);
    }
    const scales = new Uint16Array(bytes.buffer, bytes.byteOffset, blocks);
    return (first, count) => {
      for (let i = 0; i < count; i++) scales[first + i] = bf16Bits(chunk.scales[i]!); // they are bf16 already
    };
  }

  #scalesOf(bytes: Uint8Array, blocks: number): Float32Array {
    const kept = new Uint8Array(bytes.subarray(0, this.#scaleBytes * blocks)).buffer; // aligned; a Buffer's slice is no copy
    const scales = this.#scaleBytes === 4 ? new Float32Array(kept) : new Float32Array(blocks);
    if (this.#scaleBytes === 2) {
      const bits = new Uint32Array(scales.buffer);
      const upper = new Uint16Array(kept);
      for (let block = 0; block < blocks; block++) bits[block] = upper[block]! << 16;
    }
    for (let block = 0; block < blocks; block++) {
      const scale = scales[block]!;
      if (!(scale >= 0 && scale <= this.#maxScale)) {
        throw malformed(`the scale of block ${block} is ${scale}, not in 0 to ${this.#maxScale}`);
      }
    }
    return scales;
  }

  /** Of 4 bits: -8 is no code, and the half that an odd count leaves over is 0. Of 8 bits every byte is allowed. */
  #checkCodes(codes: Uint8Array, count: number): void {
    if (this.#format.bits === 8) return;
    const words = new Int32Array(chunk.codes.buffer, chunk.codes.byteOffset, chunk.codes.length / 4);
    for (let start = 0; start < codes.length; start += chunk.codes.length) {
      const part = codes.subarray(start, start + chunk.codes.length);
      const used = Math.ceil(part.length / 4);
      words[used - 1] = 0;
      chunk.codes.set(part);
      let found = 0;
      for (let i = 0; i < used; i++) found |= lowestCodes(words[i]!);
      if (found !== 0) throw malformed(`number ${findLowest(codes)} of ${count} has code -8, not -7 to 7`);
    }
    if (count % 2 === 1 && codes[codes.length - 1]! > 0x0f) {
      throw malformed(`the last half byte of ${count} numbers as ${this.#name} is not 0`);
    }
  }

  #blocksOf(count: number): number {
    return Math.ceil(count / this.#format.block);
  }

  #codeBytes(count: number): number {
    return Math.ceil((count * this.#format.bits) / 8);
  }
}

/** Not 0 if one of the eight halves of bytes is 8, the code -8. */
function lowestCodes(word: number): number {
  const others = word ^ 0x88888888; // now a half that is 0 is looked for
  return (others - 0x11111111) & ~others & 0x88888888;
}

/** The first number whose code is -8. */
function findLowest(codes: Uint8Array): number {
  const index = codes.findIndex((byte) => (byte & 0x0f) === 8 || byte >>> 4 === 8);
  return 2 * index + ((codes[index]! & 0x0f) === 8 ? 0 : 1);
}

function malformed(reason: string): ProtocolError {
  return new ProtocolError(CLOSE_CODES.MALFORMED_MESSAGE.code, reason);
}
