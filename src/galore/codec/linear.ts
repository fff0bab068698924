/**
 * Linear codes in blocks: scale = f32(largest magnitude of the block / largest code), code =
 * floor(x / scale + u) within +- the largest code, u = 1/2 for the nearest one or uniform in [0, 1) to keep
 * the expectation. The value of a code is code * scale. A scale may be kept as bf16, rounded up so that no number is
 * beyond the largest code. The plain version of what kernels.ts does for the wire.
 */
import { bf16Above, bf16Below } from './bf16-number.ts';
import { INFINITY_BITS, notFinite } from './finite.ts';

/** How many numbers share a scale, and the largest code: 127 for 8 bits, 7 for 4. */
export interface LinearFormat {
  readonly block: number;
  readonly largest: number;
  /** What a scale is kept as; left out: f32. */
  readonly scale?: 'f32' | 'bf16';
}

/** One code a number, one scale a block. */
export interface LinearCodes {
  readonly codes: Int8Array;
  readonly scales: Float32Array;
}

const MAX_F32 = (2 - 2 ** -23) * 2 ** 127;
/** Scales below this have lost digits: such a block is all zeros. */
export const MIN_SCALE = 2 ** -126;

/** Scales above this would overflow f32: of f32 scales the code beyond the largest included. */
export function maxScale({ largest, scale }: LinearFormat): number {
  return scale === 'bf16' ? bf16Below(MAX_F32 / largest) : Math.fround(MAX_F32 / (largest + 1));
}

/**
 * Codes of `values`; `uniform(i)` is the u of number i, by default 1/2.
 * @throws NotFiniteError for NaN or an infinity
 */
export function quantiseLinear(
  values: Float32Array,
  format: LinearFormat,
  uniform: (index: number) => number = () => 0.5,
): LinearCodes {
  const { block, largest } = format;
  const scales = findScales(values, format);
  if (scales === null) throw notFinite(values);
  const codes = new Int8Array(values.length);
  for (let i = 0; i < codes.length; i++) {
    const scale = scales[Math.floor(i / block)]!;
    if (scale === 0) continue;
    const code = Math.floor(values[i]! / scale + uniform(i));
    codes[i] = Math.max(-largest, Math.min(largest, code));
  }
  return { codes, scales };
}

/** The numbers the codes stand for. */
export function restoreLinear({ codes, scales }: LinearCodes, { block }: LinearFormat): Float32Array {
  return Float32Array.from(codes, (code, i) => code * scales[Math.floor(i / block)]!);
}

/** The scale of each block; null if a number is not finite. Magnitudes are compared as integers, NaN largest. */
export function findScales(values: Float32Array, format: LinearFormat): Float32Array | null {
  const scales = new Float32Array(Math.ceil(values.length / format.block));
  const bits = new Int32Array(values.buffer, values.byteOffset, values.length);
  const largestBits = new Int32Array(1);
  const largest = new Float32Array(largestBits.buffer);
  for (let block = 0; block < scales.length; block++) {
    const end = Math.min(bits.length, (block + 1) * format.block);
    let maximum = 0;
    for (let i = block * format.block; i < end; i++) {
      const magnitude = bits[i]! & 0x7fffffff;
      if (magnitude > maximum) maximum = magnitude;
    }
    if (maximum >= INFINITY_BITS) return null;
    largestBits[0] = maximum;
    const exact = Math.fround(largest[0]! / format.largest);
    const scale = format.scale === 'bf16' ? bf16Above(exact) : exact;
    scales[block] = scale < MIN_SCALE ? 0 : Math.min(scale, maxScale(format));
  }
  return scales;
}
