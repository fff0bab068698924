/**
 * CRC-32C (Castagnoli: reflected polynomial 0x82f63b78, initial value and final xor all ones). Pure. For
 * little-endian machines, like every typed array of this project.
 *
 * Short arrays go through sixteen tables, four words at a time. Long ones are folded first, by nothing but xor of
 * vectors of 16 bytes: the CRC is the remainder of a polynomial over GF(2), and y^209 + y^144 + y^54 + y^39 + y^14 + 1
 * with y = x^128 is a multiple of the divisor (found by search: the lowest of six terms that leaves 64 vectors
 * to work on at once). So a vector may be added to those 65, 155, 170, 195 and 209 places after it and dropped;
 * what is left at the end are 209 to 212 vectors with the same CRC. Ten times as fast as the tables alone. The idea is
 * that of Chorba (Russell, https://arxiv.org/abs/2412.16398), which does it for CRC-32.
 */
import { instantiate, op, type Code, type WasmFunction } from '../galore/codec/wasm.ts';

const POLYNOMIAL = 0x82f63b78;
const SLICES = 16;
const TABLES = makeTables();

/** TABLES[k][b]: the CRC of byte b followed by k zero bytes. */
function makeTables(): readonly Int32Array[] {
  const tables = Array.from({ length: SLICES }, () => new Int32Array(256));
  const [first] = tables as [Int32Array];
  for (let byte = 0; byte < 256; byte++) {
    let crc = byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ POLYNOMIAL : crc >>> 1;
    first[byte] = crc;
  }
  for (let k = 1; k < SLICES; k++) {
    for (let byte = 0; byte < 256; byte++) {
      const shorter = tables[k - 1]![byte]!;
      tables[k]![byte] = (shorter >>> 8) ^ first[shorter & 0xff]!;
    }
  }
  return tables;
}

/** Where a vector that is dropped is added, in vectors behind it. */
const DISTANCES = [65, 155, 170, 195, 209] as const;
const VECTOR_BYTES = 16;
/** Vectors before the one that is folded: as far as the greatest distance. */
const WINDOW_BYTES = 209 * VECTOR_BYTES;
/** Folded at once; a whole number of unrolled steps. */
const CHUNK_BYTES = 65_536;
const UNROLLED = 4;
/** Shorter arrays are not worth it. */
const MIN_FOLDED_BYTES = 4 * WINDOW_BYTES;

const { memory, fold } = instantiate([foldFunction()], WINDOW_BYTES + CHUNK_BYTES) as ReturnType<
  typeof instantiate
> & { fold(start: number, end: number): void };
const folded = new Uint8Array(memory.buffer);
const foldedWords = new Int32Array(memory.buffer);
/** What is left of an array. */
const rest = new Int32Array((WINDOW_BYTES + UNROLLED * VECTOR_BYTES) / 4);
const restBytes = new Uint8Array(rest.buffer);

/** fold(start, end): adds to each vector from start + WINDOW_BYTES to end + WINDOW_BYTES those before it. */
function foldFunction(): WasmFunction {
  const { get, tee, repeat, i32, v128 } = op;
  const one = (index: number): Code => [
    ...[...get(0), ...get(0), ...v128.load(WINDOW_BYTES + VECTOR_BYTES * index)],
    ...DISTANCES.flatMap((distance) => [
      ...[...get(0), ...v128.load(WINDOW_BYTES + VECTOR_BYTES * (index - distance)), ...v128.xor],
    ]),
    ...v128.store(WINDOW_BYTES + VECTOR_BYTES * index),
  ];
  const body = Array.from({ length: UNROLLED }, (_, index) => one(index)).flat();
  const next = [...get(0), ...i32.const(UNROLLED * VECTOR_BYTES), ...i32.add, ...tee(0)];
  return {
    name: 'fold',
    params: ['i32', 'i32'],
    locals: [],
    body: repeat(body, [...next, ...get(1), ...i32.ltU]),
  };
}

/** The CRC-32C of `bytes`, at any alignment; `crc` is that of the bytes before them, 0 at first. */
export function crc32c(bytes: Uint8Array, crc = 0): number {
  if (bytes.length < MIN_FOLDED_BYTES) return ~byTables(bytes, ~crc) >>> 0;
  // The first few bytes are taken apart, so that whole vectors are left.
  const headBytes = bytes.length % VECTOR_BYTES;
  const state = byBytes(bytes, 0, headBytes, ~crc);
  return ~byTables(foldToRest(bytes.subarray(headBytes), state), 0) >>> 0;
}

/** A few vectors with the CRC of all of `bytes`, of which there are whole vectors, after `state`. */
function foldToRest(bytes: Uint8Array, state: number): Uint8Array {
  const unit = UNROLLED * VECTOR_BYTES;
  const foldedBytes = bytes.length - WINDOW_BYTES - ((bytes.length - WINDOW_BYTES) % unit);
  folded.fill(0, 0, WINDOW_BYTES);
  for (let start = 0; start < foldedBytes; start += CHUNK_BYTES) {
    const length = Math.min(CHUNK_BYTES, foldedBytes - start);
    folded.set(bytes.subarray(start, start + length), WINDOW_BYTES);
    if (start === 0) foldedWords[WINDOW_BYTES / 4]! ^= state;
    fold(0, length);
    folded.copyWithin(0, length, length + WINDOW_BYTES);
  }
  const left = restBytes.subarray(0, bytes.length - foldedBytes);
  left.set(bytes.subarray(foldedBytes));
  for (const distance of DISTANCES) {
    const from = (WINDOW_BYTES - distance * VECTOR_BYTES) / 4;
    const words = (distance * VECTOR_BYTES) / 4;
    for (let i = 0; i < words; i++) rest[i]! ^= foldedWords[from + i]!;
  }
  return left;
}

/** The state of the CRC after `bytes`, from that before. */
function byTables(bytes: Uint8Array, state: number): number {
  if (bytes.length < 16) return byBytes(bytes, 0, bytes.length, state);
  const headBytes = (4 - (bytes.byteOffset & 3)) & 3;
  const words = new Int32Array(bytes.buffer, bytes.byteOffset + headBytes, (bytes.length - headBytes) >> 2);
  const blockWords = words.length & ~3;
  const head = byBytes(bytes, 0, headBytes, state);
  const middle = byBlocks(words, blockWords, head);
  return byBytes(bytes, headBytes + 4 * blockWords, bytes.length, middle);
}

function byBytes(bytes: Uint8Array, start: number, end: number, crc: number): number {
  const [table] = TABLES as [Int32Array];
  let c = crc;
  for (let i = start; i < end; i++) c = (c >>> 8) ^ table[(c ^ bytes[i]!) & 0xff]!;
  return c;
}

function byBlocks(words: Int32Array, end: number, crc: number): number {
  const [t0, t1, t2, t3, t4, t5, t6, t7, t8, t9, t10, t11, t12, t13, t14, t15] = TABLES;
  let c = crc;
  for (let i = 0; i < end; i += 4) {
    const w0 = words[i]! ^ c;
    const w1 = words[i + 1]!;
    const w2 = words[i + 2]!;
    const w3 = words[i + 3]!;
    c =
      t15![w0 & 0xff]! ^
      t14![(w0 >>> 8) & 0xff]! ^
      t13![(w0 >>> 16) & 0xff]! ^
      t12![w0 >>> 24]! ^
      t11![w1 & 0xff]! ^
      t10![(w1 >>> 8) & 0xff]! ^
      t9![(w1 >>> 16) & 0xff]! ^
      t8![w1 >>> 24]! ^
      t7![w2 & 0xff]! ^
      t6![(w2 >>> 8) & 0xff]! ^
      t5![(w2 >>> 16) & 0xff]! ^
      t4![w2 >>> 24]! ^
      t3![w3 & 0xff]! ^
      t2![(w3 >>> 8) & 0xff]! ^
      t1![(w3 >>> 16) & 0xff]! ^
      t0![w3 >>> 24]!;
  }
  return c;
}
