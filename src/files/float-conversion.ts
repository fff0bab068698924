/**
 * Half, bfloat16 and double values in a file (little-endian) to float32 and back. Pure. To float32 is exact
 * except for F64; what is rounded is rounded to the nearest, and between two to the one whose last bit is 0.
 */

/** Element types that can be read as float32. */
export type FloatDtype = 'F32' | 'F16' | 'BF16' | 'F64';

/** Element types that float32 values can be written as. */
export type StoredDtype = Exclude<FloatDtype, 'F64'>;

/** The greatest number each of them holds. */
export const GREATEST: Readonly<Record<StoredDtype, number>> = {
  F32: 2 ** 128 - 2 ** 104,
  F16: 65504,
  BF16: 2 ** 128 - 2 ** 120,
};

/** Bytes of an element. */
export const FLOAT_BYTES: Readonly<Record<FloatDtype, number>> = { F32: 4, F16: 2, BF16: 2, F64: 8 };

/** Whether `dtype` can be read as float32. */
export function isFloatDtype(dtype: string): dtype is FloatDtype {
  return Object.hasOwn(FLOAT_BYTES, dtype);
}

/** Converts `bytes`, whole elements at any alignment, into `target` from index `first` on. */
export function convertToFloat32(
  dtype: FloatDtype,
  bytes: Uint8Array,
  target: Float32Array,
  first: number,
): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const count = bytes.length / FLOAT_BYTES[dtype];
  const words = new Uint32Array(target.buffer, target.byteOffset + 4 * first, count);
  switch (dtype) {
    case 'F32':
      for (let i = 0; i < count; i++) words[i] = view.getUint32(4 * i, true);
      return;
    case 'BF16':
      for (let i = 0; i < count; i++) words[i] = view.getUint16(2 * i, true) << 16;
      return;
    case 'F16':
      for (let i = 0; i < count; i++) words[i] = halfToFloatBits(view.getUint16(2 * i, true));
      return;
    case 'F64':
      for (let i = 0; i < count; i++) target[first + i] = view.getFloat64(8 * i, true);
      return;
  }
}

/** Bits of the float32 equal to the IEEE half with bits `half`. */
function halfToFloatBits(half: number): number {
  const sign = (half & 0x8000) << 16;
  const exponent = (half >>> 10) & 0x1f;
  const fraction = half & 0x3ff;
  if (exponent === 0x1f) return sign | 0x7f800000 | (fraction << 13);
  if (exponent !== 0) return sign | ((exponent + 112) << 23) | (fraction << 13);
  if (fraction === 0) return sign;
  // A subnormal half, fraction * 2^-24, is a normal float: shift its leading one out of the fraction.
  const shift = Math.clz32(fraction) - 21;
  return sign | ((113 - shift) << 23) | (((fraction << shift) & 0x3ff) << 13);
}

/**
 * Converts `values` into `target`, which has their number of elements of type `dtype`. Returns the index
 * of the first finite value that `dtype` cannot hold (it is beyond the greatest even when rounded), else -1; what
 * `target` holds is then of no use.
 */
export function convertFromFloat32(dtype: StoredDtype, values: Float32Array, target: Uint8Array): number {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const view = new DataView(target.buffer, target.byteOffset, target.byteLength);
  switch (dtype) {
    case 'F32':
      for (let i = 0; i < words.length; i++) view.setUint32(4 * i, words[i]!, true);
      return -1;
    case 'BF16':
      return writeHalves(words, view, floatToBrainBits, 0x7f80);
    case 'F16':
      return writeHalves(words, view, floatToHalfBits, 0x7c00);
  }
}

/** `infinity` is the bits of the target's infinity: a finite float must not become it. */
function writeHalves(
  words: Uint32Array,
  view: DataView,
  convert: (word: number) => number,
  infinity: number,
): number {
  for (let i = 0; i < words.length; i++) {
    const word = words[i]!;
    const half = convert(word);
    if ((half & 0x7fff) === infinity && (word & 0x7fffffff) !== 0x7f800000) return i;
    view.setUint16(2 * i, half, true);
  }
  return -1;
}

/** Bits of the bfloat16 nearest to the float32 with bits `word`. */
function floatToBrainBits(word: number): number {
  if ((word & 0x7fffffff) > 0x7f800000) return (word >>> 16) | 0x40; // NaN stays NaN
  return ((word + 0x7fff + ((word >>> 16) & 1)) >>> 16) & 0xffff;
}

/** Bits of the IEEE half nearest to the float32 with bits `word`. */
function floatToHalfBits(word: number): number {
  const sign = (word >>> 16) & 0x8000;
  const magnitude = word & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00; // NaN
  if (magnitude >= 0x47800000) return sign | 0x7c00; // 65536 and more
  const exponent = magnitude >>> 23;
  if (exponent >= 113) return sign | roundedShift(magnitude - (112 << 23), 13); // normal; a carry moves the exponent on
  if (exponent < 102) return sign; // less than half of the least half, 2^-24
  return sign | roundedShift((magnitude & 0x7fffff) | 0x800000, 126 - exponent); // in units of 2^-24
}

/** `value` / 2^shift, to the nearest, ties to even. */
function roundedShift(value: number, shift: number): number {
  const half = 1 << (shift - 1);
  const rest = value & ((1 << shift) - 1);
  const quotient = value >>> shift;
  return rest > half || (rest === half && (quotient & 1) === 1) ? quotient + 1 : quotient;
}
