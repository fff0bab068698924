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
/** Scales below this have lost digits: such a block is zero. */
const MIN_SCALE = 2 ** -126;
/** Scales above these would overflow f32: a number, and the square of a root. */
const MAX_SIGNED_SCALE = ((2 - 2 ** -22) * 2 ** 127) / SIGNED_MAX ** 2;
const MAX_ROOT_SCALE = ((2 - 2 ** -22) * 2 ** 63) / ROOT_MAX ** 2;

/** Codes of a whole state and the scales of its blocks. */
export interface BlockCodes {
  readonly codes: Uint8Array;
  readonly scales: Float32Array;
}

/** The numbers of one block as f32; loops without branches on their sign read it from the bits. */
export interface Block {
  readonly values: Float32Array;
  readonly bits: Int32Array;
}

export function newBlock(): Block {
  const values = new Float32Array(STATE_BLOCK);
  return { values, bits: new Int32Array(values.buffer) };
}

/** Codes and scales for `count` numbers, all zero. */
export function blankCodes(count: number): BlockCodes {
  return { codes: new Uint8Array(count), scales: new Float32Array(Math.ceil(count / STATE_BLOCK)) };
}

/** The same bytes as signed codes. */
export function signedCodes(codes: Uint8Array): Int8Array {
  return new Int8Array(codes.buffer, codes.byteOffset, codes.length);
}

/** Numbers `start` to `end`, all of one block with this scale, to the beginning of `out`. */
export function decodeSigned(codes: Int8Array, scale: number, start: number, end: number, out: Block): void {
  const { values } = out;
  for (let i = start, j = 0; i < end; i++, j++) {
    const code = codes[i]!;
    values[j] = code * Math.abs(code) * scale;
  }
}

/** As `decodeSigned`, of numbers that are not negative. */
export function decodeRoots(codes: Uint8Array, scale: number, start: number, end: number, out: Block): void {
  const { values } = out;
  for (let i = start, j = 0; i < end; i++, j++) {
    const code = codes[i]!;
    values[j] = code * code * scale;
  }
}

/** Writes the codes `start` to `end` of the numbers at the beginning of `from`; returns their scale. */
export function encodeSigned(from: Block, codes: Int8Array, start: number, end: number): number {
  const { values, bits } = from;
  let largest = 0;
  for (let j = 0; j < end - start; j++) largest = Math.max(largest, Math.abs(values[j]!));
  const scale = Math.fround(Math.min(largest / (SIGNED_MAX * SIGNED_MAX), MAX_SIGNED_SCALE));
  if (scale < MIN_SCALE) return zeroBlock(codes, start, end);
  const inverse = (SIGNED_MAX * SIGNED_MAX) / largest;
  for (let i = start, j = 0; i < end; i++, j++) {
    const sign = bits[j]! >> 31; // 0 or -1
    const code = (Math.sqrt(Math.abs(values[j]!) * inverse) + 0.5) | 0;
    codes[i] = (code ^ sign) - sign;
  }
  return scale;
}

/** As `encodeSigned`, for numbers that are not negative. */
export function encodeRoots(from: Block, codes: Uint8Array, start: number, end: number): number {
  const { values } = from;
  let largest = 0;
  for (let j = 0; j < end - start; j++) largest = Math.max(largest, values[j]!);
  const scale = Math.fround(Math.min(largest / (ROOT_MAX * ROOT_MAX), MAX_ROOT_SCALE));
  if (scale < MIN_SCALE) return zeroBlock(codes, start, end);
  const inverse = (ROOT_MAX * ROOT_MAX) / largest;
  for (let i = start, j = 0; i < end; i++, j++) {
    const value = values[j]!;
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
  const block = newBlock();
  forBlocks(values.length, (at, start, end) => {
    block.values.set(values.subarray(start, end));
    result.scales[at] = encodeSigned(block, codes, start, end);
  });
  return result;
}

/** A whole second moment as the codes of its roots. */
export function quantiseSquares(values: Float32Array): BlockCodes {
  const result = blankCodes(values.length);
  const block = newBlock();
  forBlocks(values.length, (at, start, end) => {
    for (let i = start; i < end; i++) block.values[i - start] = Math.sqrt(values[i]!);
    result.scales[at] = encodeRoots(block, result.codes, start, end);
  });
  return result;
}

/** The numbers of `quantiseSigned`. */
export function restoreSigned({ codes, scales }: BlockCodes): Float32Array {
  const values = new Float32Array(codes.length);
  const block = newBlock();
  forBlocks(values.length, (at, start, end) => {
    decodeSigned(signedCodes(codes), scales[at]!, start, end, block);
    values.set(block.values.subarray(0, end - start), start);
  });
  return values;
}

/** The numbers of `quantiseSquares`. */
export function restoreSquares({ codes, scales }: BlockCodes): Float32Array {
  const values = new Float32Array(codes.length);
  const block = newBlock();
  forBlocks(values.length, (at, start, end) => {
    decodeRoots(codes, scales[at]!, start, end, block);
    for (let i = start; i < end; i++) values[i] = block.values[i - start]! ** 2;
  });
  return values;
}

/** Calls `visit` with the number and the range of each block of `count` numbers. */
function forBlocks(count: number, visit: (block: number, start: number, end: number) => void): void {
  for (let block = 0, start = 0; start < count; block++, start += STATE_BLOCK) {
    visit(block, start, Math.min(count, start + STATE_BLOCK));
  }
}
