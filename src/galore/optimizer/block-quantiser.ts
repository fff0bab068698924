/**
 * One byte a number for optimizer states, in blocks of STATE_BLOCK with a scale each. The codes are
 * square-law: a signed code c stands for c |c| scale, scale = largest magnitude / 127^2, and an unsigned
 * one for c^2 scale, scale = largest / 255^2. Like the dynamic tree of bitsandbytes (8-bit optimizers via
 * block-wise quantization, arXiv 2110.02861) they are fine near zero, but need no table, and are more exact
 * over four decades. Second moments are coded as their roots, which is what the update divides by: the
 * square law then reaches from 255^-4 of the largest V to V itself, and a positive root never becomes zero,
 * so that no M is left without its V. Nearest codes, only + - * / and roots: the same bits everywhere.
 * The byte 0 is the number 0. Callers give numbers that are finite.
 */
import { STATE_BLOCK } from './rule-state.ts';

const SIGNED_MAX = 127;
const ROOT_MAX = 255;

/** Codes of a whole state and the scales of its blocks. */
export interface BlockCodes {
  readonly codes: Uint8Array;
  readonly scales: Float32Array;
}

/** Codes and scales for `count` numbers, all zero. */
export function blankCodes(count: number): BlockCodes {
  return { codes: new Uint8Array(count), scales: new Float32Array(Math.ceil(count / STATE_BLOCK)) };
}

/** The same bytes as signed codes. */
export function signedCodes(codes: Uint8Array): Int8Array {
  return new Int8Array(codes.buffer, codes.byteOffset, codes.length);
}

/** Numbers `start` to `end`, of one block with this scale, to the beginning of `out`. */
export function decodeSigned(
  codes: Int8Array,
  scale: number,
  start: number,
  end: number,
  out: Float64Array,
): void {
  for (let i = start; i < end; i++) {
    const code = codes[i]!;
    out[i - start] = (code < 0 ? -code : code) * code * scale;
  }
}

/** As `decodeSigned`, of numbers that are not negative. */
export function decodeRoots(
  codes: Uint8Array,
  scale: number,
  start: number,
  end: number,
  out: Float64Array,
): void {
  for (let i = start; i < end; i++) {
    const code = codes[i]!;
    out[i - start] = code * code * scale;
  }
}

/** Writes the codes `start` to `end` of the numbers at the beginning of `values`; returns their scale. */
export function encodeSigned(values: Float64Array, codes: Int8Array, start: number, end: number): number {
  let largest = 0;
  for (let i = 0; i < end - start; i++) {
    const value = values[i]!;
    const magnitude = value < 0 ? -value : value;
    if (magnitude > largest) largest = magnitude;
  }
  const scale = Math.fround(largest / (SIGNED_MAX * SIGNED_MAX));
  if (scale === 0) return zeroBlock(codes, start, end);
  const inverse = (SIGNED_MAX * SIGNED_MAX) / largest;
  for (let i = start; i < end; i++) {
    const value = values[i - start]!;
    codes[i] =
      value < 0 ? -((Math.sqrt(-value * inverse) + 0.5) | 0) : (Math.sqrt(value * inverse) + 0.5) | 0;
  }
  return scale;
}

/** As `encodeSigned`, for numbers that are not negative. */
export function encodeRoots(values: Float64Array, codes: Uint8Array, start: number, end: number): number {
  let largest = 0;
  for (let i = 0; i < end - start; i++) if (values[i]! > largest) largest = values[i]!;
  const scale = Math.fround(largest / (ROOT_MAX * ROOT_MAX));
  if (scale === 0) return zeroBlock(codes, start, end);
  const inverse = (ROOT_MAX * ROOT_MAX) / largest;
  for (let i = start; i < end; i++) {
    const value = values[i - start]!;
    const code = (Math.sqrt(value * inverse) + 0.5) | 0;
    codes[i] = code === 0 && value > 0 ? 1 : code;
  }
  return scale;
}

function zeroBlock(codes: Int8Array | Uint8Array, start: number, end: number): number {
  codes.fill(0, start, end);
  return 0;
}

/** A whole state of signed numbers as codes. */
export function quantiseSigned(values: Float32Array): BlockCodes {
  const result = blankCodes(values.length);
  const codes = signedCodes(result.codes);
  const block = new Float64Array(STATE_BLOCK);
  forBlocks(values.length, (at, start, end) => {
    for (let i = start; i < end; i++) block[i - start] = values[i]!;
    result.scales[at] = encodeSigned(block, codes, start, end);
  });
  return result;
}

/** A whole second moment as the codes of its roots. */
export function quantiseSquares(values: Float32Array): BlockCodes {
  const result = blankCodes(values.length);
  const block = new Float64Array(STATE_BLOCK);
  forBlocks(values.length, (at, start, end) => {
    for (let i = start; i < end; i++) block[i - start] = Math.sqrt(values[i]!);
    result.scales[at] = encodeRoots(block, result.codes, start, end);
  });
  return result;
}

/** The numbers of `quantiseSigned`. */
export function restoreSigned({ codes, scales }: BlockCodes): Float32Array {
  const values = new Float32Array(codes.length);
  const block = new Float64Array(STATE_BLOCK);
  forBlocks(values.length, (at, start, end) => {
    decodeSigned(signedCodes(codes), scales[at]!, start, end, block);
    values.set(block.subarray(0, end - start), start);
  });
  return values;
}

/** The numbers of `quantiseSquares`. */
export function restoreSquares({ codes, scales }: BlockCodes): Float32Array {
  const values = new Float32Array(codes.length);
  const block = new Float64Array(STATE_BLOCK);
  forBlocks(values.length, (at, start, end) => {
    decodeRoots(codes, scales[at]!, start, end, block);
    for (let i = start; i < end; i++) values[i] = block[i - start]! * block[i - start]!;
  });
  return values;
}

/** Calls `visit` with the number and the range of each block of `count` numbers. */
export function forBlocks(count: number, visit: (block: number, start: number, end: number) => void): void {
  for (let block = 0, start = 0; start < count; block++, start += STATE_BLOCK) {
    visit(block, start, Math.min(count, start + STATE_BLOCK));
  }
}
