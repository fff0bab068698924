/**
 * The loops of the int8 codec and of sums of encoded tensors in 128-bit WebAssembly: four numbers at a time,
 * bit by bit what the same arithmetic in JavaScript gives (there is no fused multiply-add). They work on one
 * chunk that lies in their own small memory, so it stays in the cache. Pure: nothing is kept between calls
 * but what the caller left in the chunk.
 */
import { maxScale, MIN_SCALE, type LinearFormat } from './linear.ts';
import { op, instantiate, type Code, type WasmFunction } from './wasm.ts';

/** Numbers that share a scale. */
export const INT8_BLOCK = 256;
/** Blocks, and numbers, of a chunk. */
const CHUNK_BLOCKS = 32;
export const CHUNK = CHUNK_BLOCKS * INT8_BLOCK;

/** The codes of linear.ts in 8 bits. */
const INT8_FORMAT: LinearFormat = { block: INT8_BLOCK, largest: 127 };
const LARGEST_CODE = INT8_FORMAT.largest;
export const MAX_SCALE = maxScale(INT8_FORMAT);
const MAGNITUDE_BITS = 0x7fffffff;

/** Addresses. */
const VALUES = 0;
const SUMS = VALUES + 4 * CHUNK;
const CODES = SUMS + 8 * CHUNK;
const SCALES = CODES + CHUNK;
const MEMORY_BYTES = SCALES + 4 * CHUNK_BLOCKS;

const { i32, f32, f64, v128, i8x16, i16x8, i32x4, f32x4, f64x2, get, set, tee, repeat } = op;

/** Counts the local `counter` up by `amount` until it reaches `end`. */
function upTo(counter: number, amount: number, end: Code, body: Code): Code {
  const next = [...get(counter), ...i32.const(amount), ...i32.add, ...tee(counter)];
  return repeat(body, [...next, ...end, ...i32.ltU]);
}

const advance = (local: number, amount: number): Code => [
  ...get(local),
  ...i32.const(amount),
  ...i32.add,
  ...set(local),
];

/** 2^shift times local 0, the number of blocks. */
const blocksShifted = (shift: number): Code => [...get(0), ...i32.const(shift), ...i32.shl];

/** scales(blocks): a scale for each block of values; returns the bits of the largest magnitude of all. */
function findScales(): WasmFunction {
  const [value, scale, blockEnd, most, block, largest] = [1, 2, 3, 4, 5, 6] as const;
  const largestOfBlock = upTo(value, 16, get(blockEnd), [
    ...get(largest),
    ...[...get(value), ...v128.load(VALUES), ...i32.const(MAGNITUDE_BITS), ...i32x4.splat, ...v128.and],
    ...i32x4.maxS,
    ...set(largest),
  ]);
  const larger = (a: Code, b: Code): Code => [...a, ...b, ...a, ...b, ...i32.gtS, ...op.select];
  const lane = (index: number): Code => [...get(largest), ...i32x4.extractLane(index)];
  const scaleOfBlock = [
    ...get(block),
    ...[...f32.reinterpretI32, ...f64.promoteF32, ...f64.const(LARGEST_CODE), ...f64.div, ...f32.demoteF64],
    ...[...f32.const(MAX_SCALE), ...f32.min],
  ];
  return {
    name: 'scales',
    params: ['i32'],
    result: 'i32',
    locals: ['i32', 'i32', 'i32', 'i32', 'i32', 'v128'],
    body: [
      ...upTo(scale, 4, blocksShifted(2), [
        ...[...get(value), ...i32.const(4 * INT8_BLOCK), ...i32.add, ...set(blockEnd)],
        ...[...i32x4.const(0, 0, 0, 0), ...set(largest)],
        ...largestOfBlock,
        ...[...larger(larger(lane(0), lane(1)), larger(lane(2), lane(3))), ...set(block)],
        ...[...larger(get(block), get(most)), ...set(most)],
        ...get(scale),
        ...[...f32.const(0), ...scaleOfBlock],
        ...[...scaleOfBlock, ...f32.const(MIN_SCALE), ...f32.lt, ...op.select],
        ...f32.store(SCALES),
      ]),
      ...get(most),
    ],
  };
}

/** quantise(blocks, first, low, high): codes of the values; number 0 is number `first` of the random stream. */
function quantise(): WasmFunction {
  const [, first, low, high, value, code, scale, blockEnd, lows, highs, divisor, hash] = [
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11,
  ] as const;
  const xorShifted = (bits: number): Code => [
    ...[...tee(hash), ...get(hash), ...i32.const(bits), ...i32x4.shrU, ...v128.xor],
  ];
  /** mix32 of random.ts on four numbers. */
  const mix = [
    ...[...xorShifted(16), ...i32.const(0x21f0aaad), ...i32x4.splat, ...i32x4.mul],
    ...[...xorShifted(15), ...i32.const(0xd35a2d97), ...i32x4.splat, ...i32x4.mul],
    ...xorShifted(15),
  ];
  /** floor(x / scale + u) of the two values at `offset`, with the hashes on top of the stack. */
  const twoCodes = (offset: number): Code => [
    ...[...f64x2.convertLowI32x4U, ...f64.const(2 ** -32), ...f64x2.splat, ...f64x2.mul],
    ...[...get(value), ...v128.load64Zero(VALUES + offset), ...f64x2.promoteLowF32x4],
    ...[...get(divisor), ...f64x2.div, ...f64x2.add],
    ...[...f64x2.floor, ...i32x4.truncSatF64x2],
  ];
  const upper = [8, 9, 10, 11, 12, 13, 14, 15];
  const both = [0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23];
  const fourCodes = (group: number): Code => {
    const at = 4 * group;
    return [
      ...[...get(first), ...i32x4.splat, ...i32x4.const(at, at + 1, at + 2, at + 3), ...i32x4.add],
      ...[...get(lows), ...v128.xor, ...mix, ...get(highs), ...i32x4.add, ...mix, ...tee(hash)],
      ...twoCodes(4 * at),
      ...[...get(hash), ...get(hash), ...i8x16.shuffle([...upper, ...upper]), ...twoCodes(4 * at + 8)],
      ...i8x16.shuffle(both),
    ];
  };
  const sixteenCodes = [
    ...get(code),
    ...[...fourCodes(0), ...fourCodes(1), ...i16x8.narrowI32x4],
    ...[...fourCodes(2), ...fourCodes(3), ...i16x8.narrowI32x4, ...i8x16.narrowI16x8],
    ...[...i32.const(-LARGEST_CODE), ...i8x16.splat, ...i8x16.maxS],
    ...v128.store(CODES),
    ...[...advance(value, 64), ...advance(first, 16)],
  ];
  // A block whose scale is 0 is divided by infinity: all its codes are 0.
  const scaleOrInfinity = [
    ...f64.const(Infinity),
    ...[...get(scale), ...f32.load(SCALES), ...f64.promoteF32],
    ...[...get(scale), ...f32.load(SCALES), ...f32.const(0), ...f32.eq],
    ...op.select,
  ];
  return {
    name: 'quantise',
    params: ['i32', 'i32', 'i32', 'i32'],
    locals: ['i32', 'i32', 'i32', 'i32', 'v128', 'v128', 'v128', 'v128'],
    body: [
      ...[...get(low), ...i32x4.splat, ...set(lows), ...get(high), ...i32x4.splat, ...set(highs)],
      ...upTo(scale, 4, blocksShifted(2), [
        ...[...scaleOrInfinity, ...f64x2.splat, ...set(divisor)],
        ...[...get(code), ...i32.const(INT8_BLOCK), ...i32.add, ...set(blockEnd)],
        ...upTo(code, 16, get(blockEnd), sixteenCodes),
      ]),
    ],
  };
}

/** Four codes at local `code` as i32x4. */
const loadCodes = (code: number, offset: number): Code => [
  ...[...get(code), ...v128.load32Zero(CODES + offset)],
  ...[...i16x8.extendLowI8x16, ...i32x4.extendLowI16x8],
];

/** decode(blocks): values = codes times scales. */
function decode(): WasmFunction {
  const [value, code, scale, blockEnd, factor] = [1, 2, 3, 4, 5] as const;
  const fourValues = (group: number): Code => [
    ...get(value),
    ...[...loadCodes(code, 4 * group), ...f32x4.convertI32x4S, ...get(factor), ...f32x4.mul],
    ...v128.store(VALUES + 16 * group),
  ];
  return {
    name: 'decode',
    params: ['i32'],
    locals: ['i32', 'i32', 'i32', 'i32', 'v128'],
    body: upTo(scale, 4, blocksShifted(2), [
      ...[...get(scale), ...f32.load(SCALES), ...f32x4.splat, ...set(factor)],
      ...[...get(code), ...i32.const(INT8_BLOCK), ...i32.add, ...set(blockEnd)],
      ...upTo(code, 16, get(blockEnd), [...[0, 1, 2, 3].flatMap(fourValues), ...advance(value, 64)]),
    ]),
  };
}

/** accumulate(blocks, weight): sums += (weight times scale) times codes, in f64. */
function accumulate(): WasmFunction {
  const [, weight, sum, code, scale, blockEnd, factor, codes] = [0, 1, 2, 3, 4, 5, 6, 7] as const;
  const addTwo = (offset: number): Code => [
    ...get(sum),
    ...[...get(sum), ...v128.load(SUMS + offset)],
    ...[...get(codes), ...f64x2.convertLowI32x4S, ...get(factor), ...f64x2.mul, ...f64x2.add],
    ...v128.store(SUMS + offset),
  ];
  const upper = [8, 9, 10, 11, 12, 13, 14, 15];
  const fourSums = (group: number): Code => [
    ...[...loadCodes(code, 4 * group), ...set(codes)],
    ...addTwo(32 * group),
    ...[...get(codes), ...get(codes), ...i8x16.shuffle([...upper, ...upper]), ...set(codes)],
    ...addTwo(32 * group + 16),
  ];
  return {
    name: 'accumulate',
    params: ['i32', 'f64'],
    locals: ['i32', 'i32', 'i32', 'i32', 'v128', 'v128'],
    body: upTo(scale, 4, blocksShifted(2), [
      ...[...get(weight), ...get(scale), ...f32.load(SCALES), ...f64.promoteF32, ...f64.mul],
      ...[...f64x2.splat, ...set(factor)],
      ...[...get(code), ...i32.const(INT8_BLOCK), ...i32.add, ...set(blockEnd)],
      ...upTo(code, 16, get(blockEnd), [...[0, 1, 2, 3].flatMap(fourSums), ...advance(sum, 128)]),
    ]),
  };
}

/** accumulateValues(blocks, weight): sums += weight times values, in f64. */
function accumulateValues(): WasmFunction {
  const [, weight, sum, value, factor] = [0, 1, 2, 3, 4] as const;
  return {
    name: 'accumulateValues',
    params: ['i32', 'f64'],
    locals: ['i32', 'i32', 'v128'],
    body: [
      ...[...get(weight), ...f64x2.splat, ...set(factor)],
      ...upTo(sum, 16, blocksShifted(11), [
        ...[...get(sum), ...get(sum), ...v128.load(SUMS)],
        ...[...get(value), ...v128.load64Zero(VALUES), ...f64x2.promoteLowF32x4],
        ...[...get(factor), ...f64x2.mul, ...f64x2.add, ...v128.store(SUMS)],
        ...advance(value, 8),
      ]),
    ],
  };
}

/** round(blocks): values = sums as f32; returns the sum of the squares of the sums, even and odd ones apart first. */
function round(): WasmFunction {
  const [sum, value, pair, squares] = [1, 2, 3, 4] as const;
  return {
    name: 'round',
    params: ['i32'],
    result: 'f64',
    locals: ['i32', 'i32', 'v128', 'v128'],
    body: [
      ...upTo(sum, 16, blocksShifted(11), [
        ...[...get(value), ...get(sum), ...v128.load(SUMS), ...tee(pair), ...f32x4.demoteF64x2],
        ...v128.store64Lane0(VALUES),
        ...[...get(squares), ...get(pair), ...get(pair), ...f64x2.mul, ...f64x2.add, ...set(squares)],
        ...advance(value, 8),
      ]),
      ...[...get(squares), ...f64x2.extractLane(0), ...get(squares), ...f64x2.extractLane(1), ...f64.add],
    ],
  };
}

interface Kernels {
  scales(blocks: number): number;
  quantise(blocks: number, first: number, low: number, high: number): void;
  decode(blocks: number): void;
  accumulate(blocks: number, weight: number): void;
  accumulateValues(blocks: number, weight: number): void;
  round(blocks: number): number;
}

const { memory, ...exported } = instantiate(
  [findScales(), quantise(), decode(), accumulate(), accumulateValues(), round()],
  MEMORY_BYTES,
);

/** Each works on the first `blocks` blocks of `chunk`. */
export const kernels = exported as unknown as Kernels;

/** The blocks that `count` numbers take. */
export function blocksOf(count: number): number {
  return Math.ceil(count / INT8_BLOCK);
}

/** Where the kernels read and write. */
export const chunk = {
  values: new Float32Array(memory.buffer, VALUES, CHUNK),
  sums: new Float64Array(memory.buffer, SUMS, CHUNK),
  codes: new Int8Array(memory.buffer, CODES, CHUNK),
  scales: new Float32Array(memory.buffer, SCALES, CHUNK_BLOCKS),
} as const;
