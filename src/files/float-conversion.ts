/** Half, bfloat16 and double values in a file (little-endian) to float32. Pure; exact except for F64, which is rounded. */

/** Element types that can be read as float32. */
export type FloatDtype = 'F32' | 'F16' | 'BF16' | 'F64';

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
