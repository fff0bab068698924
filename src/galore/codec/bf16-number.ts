/**
 * bf16: the upper 16 bits of an f32, so 8 bits of precision over the whole range of f32. The plain version of
 * what kernels.ts does with four numbers at a time. Pure.
 */

const SIGN = 0x80000000;
const LARGEST_BITS = 0x7f7f0000;

const float = new Float32Array(1);
const bits = new Uint32Array(float.buffer);

/** The bf16 nearest to a finite number, the even one of two; beyond the largest of them the largest. As 16 bits. */
export function bf16Bits(x: number): number {
  float[0] = x;
  const all = bits[0]!;
  const magnitude = all & ~SIGN;
  const rounded = (magnitude + 0x7fff + ((magnitude >>> 16) & 1)) & 0xffff0000;
  return (Math.min(rounded, LARGEST_BITS) | (all & SIGN)) >>> 16;
}

/** The number that 16 bits stand for. */
export function bf16Number(bits16: number): number {
  bits[0] = bits16 << 16;
  return float[0]!;
}

/** The least bf16 that is not below `x`, a finite f32 from 0. */
export function bf16Above(x: number): number {
  float[0] = x;
  return bf16Number((bits[0]! + 0xffff) >>> 16);
}

/** The greatest bf16 that is not above `x`, a finite f32 from 0. */
export function bf16Below(x: number): number {
  float[0] = x;
  return bf16Number(bits[0]! >>> 16);
}
