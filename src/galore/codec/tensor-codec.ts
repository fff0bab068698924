/** What a codec is: how the numbers of a tensor become bytes on the wire. Pure, little-endian. */
import type { RandomKey } from '../../random.ts';

/** Name of a codec in the configuration. */
export type CodecName = 'f32' | 'bf16' | 'int8' | 'int4';

export interface TensorCodec {
  readonly name: CodecName;
  /** Length of the encoding of `count` numbers. */
  encodedBytes(count: number): number;
  /**
   * The bytes, which may have been written to `into` (encodedBytes long, offset a multiple of 4) and are otherwise
   * a new array. `key` names the stream of the stochastic rounding; f32 and bf16 have no use for it.
   * @throws NotFiniteError for NaN or an infinity.
   */
  encode(values: Float32Array, key: RandomKey, into?: Uint8Array): Uint8Array;
  /** Encodes `count` numbers a chunk at a time; the bytes are those of `encode`, and so is `into`. */
  writer(count: number, key: RandomKey, into?: Uint8Array): TensorWriter;
  /**
   * Opens bytes that came from a peer; they may lie at any offset of their buffer and must not change
   * while the reader is in use.
   * @throws ProtocolError MALFORMED_MESSAGE for a wrong length or impossible scales.
   */
  open(bytes: Uint8Array, count: number): TensorReader;
  /**
   * Says whether every number can be summed and squared, without decoding.
   * @throws ProtocolError MALFORMED_MESSAGE where `open` does, and for a number that is not finite;
   * INVALID_CONTRIBUTION for one beyond MAX_MAGNITUDE.
   */
  check(bytes: Uint8Array, count: number): void;
  /**
   * All numbers, which may have been written to the beginning of `into`.
   * @throws ProtocolError MALFORMED_MESSAGE where `open` does, and for a number that is not finite.
   */
  decode(bytes: Uint8Array, count: number, into?: Float32Array): Float32Array;
  /** Numbers `start` to `end` (not included) into the beginning of `out`; throws as `open` does. */
  decodeRange(
    bytes: Uint8Array,
    count: number,
    start: number,
    end: number,
    out: Float32Array | Float64Array,
  ): void;
}

/** Numbers on their way to bytes, by way of the chunk of kernels.ts. */
export interface TensorWriter {
  /** All bytes, once every chunk was written. */
  readonly bytes: Uint8Array;
  /**
   * Encodes the first `length` numbers of `chunk.values` as those from `start` on, a multiple of CHUNK. Less
   * than a chunk only at the end. The chunk is spent afterwards.
   * @throws NotFiniteError for NaN or an infinity.
   */
  write(start: number, length: number): void;
}

/** Encoded numbers that can be read in pieces. The caller keeps 0 <= start <= end <= count. */
export interface TensorReader {
  /** Writes numbers `start` to `end` to the beginning of `out`. */
  read(start: number, end: number, out: Float32Array | Float64Array): void;
  /** Adds `weight` times the numbers of the chunk that begins at `start`, a multiple of CHUNK, to `chunk.sums`. */
  accumulate(start: number, weight: number): void;
}
