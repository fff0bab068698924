/**
 * The loops of the bf16, int8 and int4 codecs and of sums of encoded tensors in 128-bit WebAssembly: four numbers at a time,
 * bit by bit what the same arithmetic in JavaScript gives (there is no fused multiply-add). They work on one
 * chunk that lies in their own small memory, so it stays in the cache. Pure: nothing is kept between calls
 * but what the caller left in the chunk.
 */
import { maxScale, MIN_SCALE, type LinearFormat } from './linear.ts';
import { op, instantiate, type Code, type WasmFunction } from './wasm.ts';

/** Numbers of a chunk: a whole number of blocks of every format, and of groups. */
export const CHUNK = 8192;
/** The sums and bf16 count in groups of this many numbers. */
const GROUP = 256;

/** A format of linear.ts on the wire, with codes of 8 bits, or of 4 with number 2 i in the low half of byte i. */
export interface WireFormat extends LinearFormat {
  readonly bits: 4 | 8;
}

export const INT8_FORMAT = { bits: 8, block: 256, largest: 127, scale: 'f32' } as const satisfies WireFormat;
export const INT4_FORMAT = { bits: 4, block: 64, largest: 7, scale: 'bf16' } as const satisfies WireFormat;

const MAGNITUDE_BITS = 0x7fffffff;
/** The largest finite bf16, as f32. */
const LARGEST_BF16_BITS = 0x7f7f0000;

/** Addresses. */
const VALUES = 0;
const SUMS = VALUES + 4 * CHUNK;
const CODES = SUMS + 8 * CHUNK;
const SCALES = CODES + 2 * CHUNK;
const MEMORY_BYTES = SCALES + 4 * (CHUNK / INT4_FORMAT.block);

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

/** 2^shift times local 0, the number of blocks or groups. */
const blocksShifted = (shift: number): Code => [...get(0), ...i32.const(shift), ...i32.shl];

/** Numbers are taken sixteen at a time: this many bytes of codes. */
const codeBytes = ({ bits }: WireFormat): number => 2 * bits;

/** scales(blocks): a scale for each block of values; returns the bits of the largest magnitude of all. */
function findScales(format: WireFormat): WasmFunction {
  const [value, scale, blockEnd, most, block, largest] = [1, 2, 3, 4, 5, 6] as const;
  const largestOfBlock = upTo(value, 16, get(blockEnd), [
    ...get(largest),
    ...[...get(value), ...v128.load(VALUES), ...i32.const(MAGNITUDE_BITS), ...i32x4.splat, ...v128.and],
    ...i32x4.maxS,
    ...set(largest),
  ]);
  const larger = (a: Code, b: Code): Code => [...a, ...b, ...a, ...b, ...i32.gtS, ...op.select];
  const lane = (index: number): Code => [...get(largest), ...i32x4.extractLane(index)];
  const exactScale = [
    ...get(block),
    ...[...f32.reinterpretI32, ...f64.promoteF32, ...f64.const(format.largest), ...f64.div, ...f32.demoteF64],
  ];
  const roundedUp = [
    ...[...exactScale, ...i32.reinterpretF32, ...i32.const(0xffff), ...i32.add],
    ...[...i32.const(0xffff0000), ...i32.and, ...f32.reinterpretI32],
  ];
  const scaleOfBlock = [
    ...(format.scale === 'bf16' ? roundedUp : exactScale),
    ...[...f32.const(maxScale(format)), ...f32.min],
  ];
  return {
    name: `scales${format.bits}`,
    params: ['i32'],
    result: 'i32',
    locals: ['i32', 'i32', 'i32', 'i32', 'i32', 'v128'],
    body: [
      ...upTo(scale, 4, blocksShifted(2), [
        ...[...get(value), ...i32.const(4 * format.block), ...i32.add, ...set(blockEnd)],
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
function quantise(format: WireFormat): WasmFunction {
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
  const clamp = [
    ...[...i32.const(-format.largest), ...i8x16.splat, ...i8x16.maxS],
    ...[...i32.const(format.largest), ...i8x16.splat, ...i8x16.minS],
  ];
  /** Of two bytes with a code each the halves of one. */
  const pack = [
    ...[...i32.const(0x0f), ...i8x16.splat, ...v128.and, ...tee(hash)],
    ...[...get(hash), ...i32.const(4), ...i16x8.shrU, ...v128.or],
    ...[
      ...i32.const(0xff),
      ...i16x8.splat,
      ...v128.and,
      ...tee(hash),
      ...get(hash),
      ...i8x16.narrowUnsignedI16x8,
    ],
  ];
  const sixteenCodes = [
    ...get(code),
    ...[...fourCodes(0), ...fourCodes(1), ...i16x8.narrowI32x4],
    ...[...fourCodes(2), ...fourCodes(3), ...i16x8.narrowI32x4, ...i8x16.narrowI16x8],
    ...clamp,
    ...(format.bits === 8 ? v128.store(CODES) : [...pack, ...v128.store64Lane0(CODES)]),
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
    name: `quantise${format.bits}`,
    params: ['i32', 'i32', 'i32', 'i32'],
    locals: ['i32', 'i32', 'i32', 'i32', 'v128', 'v128', 'v128', 'v128'],
    body: [
      ...[...get(low), ...i32x4.splat, ...set(lows), ...get(high), ...i32x4.splat, ...set(highs)],
      ...upTo(scale, 4, blocksShifted(2), [
        ...[...scaleOrInfinity, ...f64x2.splat, ...set(divisor)],
        ...[...get(code), ...i32.const(blockCodeBytes(format)), ...i32.add, ...set(blockEnd)],
        ...upTo(code, codeBytes(format), get(blockEnd), sixteenCodes),
      ]),
    ],
  };
}

const blockCodeBytes = ({ block, bits }: WireFormat): number => (block * bits) / 8;

/** Sixteen codes at local `code` as eight i16 each in locals `lower` and `upper`. */
function loadCodes({ bits }: WireFormat, code: number, lower: number, upper: number): Code {
  if (bits === 8) {
    return [
      ...[...get(code), ...v128.load(CODES), ...tee(upper), ...i16x8.extendLowI8x16, ...set(lower)],
      ...[...get(upper), ...i16x8.extendHighI8x16, ...set(upper)],
    ];
  }
  // Codes 2 i are the low halves of bytes i: shifted up, then back with their sign.
  const even = [...get(lower), ...i32.const(12), ...i16x8.shl, ...i32.const(12), ...i16x8.shrS];
  const odd = [...get(lower), ...i32.const(4), ...i16x8.shrS];
  const firstHalves = [0, 1, 16, 17, 2, 3, 18, 19, 4, 5, 20, 21, 6, 7, 22, 23];
  return [
    ...[...get(code), ...v128.load64Zero(CODES), ...i16x8.extendLowI8x16, ...set(lower)],
    ...[...even, ...odd, ...i8x16.shuffle(firstHalves.map((lane) => lane + 8)), ...set(upper)],
    ...[...even, ...odd, ...i8x16.shuffle(firstHalves), ...set(lower)],
  ];
}

/** Four of the sixteen codes of `loadCodes` as i32x4. */
function fourOf(group: number, lower: number, upper: number): Code {
  const half = group < 2 ? lower : upper;
  return [...get(half), ...(group % 2 === 0 ? i32x4.extendLowI16x8 : i32x4.extendHighI16x8)];
}

/** decode(blocks): values = codes times scales. */
function decode(format: WireFormat): WasmFunction {
  const [value, code, scale, blockEnd, factor, lower, upper] = [1, 2, 3, 4, 5, 6, 7] as const;
  const fourValues = (group: number): Code => [
    ...get(value),
    ...[...fourOf(group, lower, upper), ...f32x4.convertI32x4S, ...get(factor), ...f32x4.mul],
    ...v128.store(VALUES + 16 * group),
  ];
  return {
    name: `decode${format.bits}`,
    params: ['i32'],
    locals: ['i32', 'i32', 'i32', 'i32', 'v128', 'v128', 'v128'],
    body: upTo(scale, 4, blocksShifted(2), [
      ...[...get(scale), ...f32.load(SCALES), ...f32x4.splat, ...set(factor)],
      ...[...get(code), ...i32.const(blockCodeBytes(format)), ...i32.add, ...set(blockEnd)],
      ...upTo(code, codeBytes(format), get(blockEnd), [
        ...loadCodes(format, code, lower, upper),
        ...[0, 1, 2, 3].flatMap(fourValues),
        ...advance(value, 64),
      ]),
    ]),
  };
}

/** accumulate(blocks, weight): sums += (weight times scale) times codes, in f64. */
function accumulate(format: WireFormat): WasmFunction {
  const [, weight, sum, code, scale, blockEnd, factor, codes, lower, upper] = [
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9,
  ] as const;
  const addTwo = (offset: number): Code => [
    ...get(sum),
    ...[...get(sum), ...v128.load(SUMS + offset)],
    ...[...get(codes), ...f64x2.convertLowI32x4S, ...get(factor), ...f64x2.mul, ...f64x2.add],
    ...v128.store(SUMS + offset),
  ];
  const last = [8, 9, 10, 11, 12, 13, 14, 15];
  const fourSums = (group: number): Code => [
    ...[...fourOf(group, lower, upper), ...set(codes)],
    ...addTwo(32 * group),
    ...[...get(codes), ...get(codes), ...i8x16.shuffle([...last, ...last]), ...set(codes)],
    ...addTwo(32 * group + 16),
  ];
  return {
    name: `accumulate${format.bits}`,
    params: ['i32', 'f64'],
    locals: ['i32', 'i32', 'i32', 'i32', 'v128', 'v128', 'v128', 'v128'],
    body: upTo(scale, 4, blocksShifted(2), [
      ...[...get(weight), ...get(scale), ...f32.load(SCALES), ...f64.promoteF32, ...f64.mul],
      ...[...f64x2.splat, ...set(factor)],
      ...[...get(code), ...i32.const(blockCodeBytes(format)), ...i32.add, ...set(blockEnd)],
      ...upTo(code, codeBytes(format), get(blockEnd), [
        ...loadCodes(format, code, lower, upper),
        ...[0, 1, 2, 3].flatMap(fourSums),
        ...advance(sum, 128),
      ]),
    ]),
  };
}

/** toBf16(groups): codes = bf16 nearest to the values; returns the bits of the largest magnitude of all. */
function toBf16(): WasmFunction {
  const [code, value, magnitude, largest] = [1, 2, 3, 4] as const;
  const splat = (bits: number): Code => [...i32.const(bits), ...i32x4.splat];
  const fourCodes = (offset: number): Code => [
    ...[
      ...get(value),
      ...v128.load(VALUES + offset),
      ...splat(MAGNITUDE_BITS),
      ...v128.and,
      ...tee(magnitude),
    ],
    ...[...get(largest), ...i32x4.maxS, ...set(largest)],
    // To the nearest, of two to the even one; at most the largest finite one.
    ...[...get(magnitude), ...splat(0x7fff), ...i32x4.add],
    ...[...get(magnitude), ...i32.const(16), ...i32x4.shrU, ...splat(1), ...v128.and, ...i32x4.add],
    ...[...splat(LARGEST_BF16_BITS | 0xffff), ...i32x4.minU],
    ...[...get(value), ...v128.load(VALUES + offset), ...splat(~MAGNITUDE_BITS), ...v128.and, ...v128.or],
    ...[...i32.const(16), ...i32x4.shrU],
  ];
  const larger = (a: Code, b: Code): Code => [...a, ...b, ...a, ...b, ...i32.gtS, ...op.select];
  const lane = (index: number): Code => [...get(largest), ...i32x4.extractLane(index)];
  return {
    name: 'toBf16',
    params: ['i32'],
    result: 'i32',
    locals: ['i32', 'i32', 'v128', 'v128'],
    body: [
      ...upTo(code, 16, blocksShifted(9), [
        ...[
          ...get(code),
          ...fourCodes(0),
          ...fourCodes(16),
          ...i16x8.narrowUnsignedI32x4,
          ...v128.store(CODES),
        ],
        ...advance(value, 32),
      ]),
      ...larger(larger(lane(0), lane(1)), larger(lane(2), lane(3))),
    ],
  };
}

/** fromBf16(groups): values = codes. */
function fromBf16(): WasmFunction {
  const [code, value, codes] = [1, 2, 3] as const;
  const fourValues = (extend: Code, offset: number): Code => [
    ...[
      ...get(value),
      ...get(codes),
      ...extend,
      ...i32.const(16),
      ...i32x4.shl,
      ...v128.store(VALUES + offset),
    ],
  ];
  return {
    name: 'fromBf16',
    params: ['i32'],
    locals: ['i32', 'i32', 'v128'],
    body: upTo(code, 16, blocksShifted(9), [
      ...[...get(code), ...v128.load(CODES), ...set(codes)],
      ...fourValues(i32x4.extendLowUnsignedI16x8, 0),
      ...fourValues(i32x4.extendHighUnsignedI16x8, 16),
      ...advance(value, 32),
    ]),
  };
}

/** accumulateValues(groups, weight): sums += weight times values, in f64. */
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

/** round(groups): values = sums as f32; returns the sum of the squares of the sums, even and odd ones apart first. */
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

/** The loops of one format; each works on the first `blocks` blocks of `chunk`. */
export interface LinearKernels {
  /** Finds the scales of `chunk.values`; returns the bits of the largest magnitude. */
  scales(blocks: number): number;
  quantise(blocks: number, first: number, low: number, high: number): void;
  decode(blocks: number): void;
  accumulate(blocks: number, weight: number): void;
}

/** Loops that know no format; each works on the first `groups` groups of `chunk`. */
interface Kernels {
  toBf16(groups: number): number;
  fromBf16(groups: number): void;
  accumulateValues(groups: number, weight: number): void;
  round(groups: number): number;
}

const { memory, ...exported } = instantiate(
  [
    ...[INT8_FORMAT, INT4_FORMAT].flatMap((format) => [
      ...[findScales(format), quantise(format), decode(format), accumulate(format)],
    ]),
    ...[toBf16(), fromBf16(), accumulateValues(), round()],
  ],
  MEMORY_BYTES,
);

export const kernels = exported as unknown as Kernels;

/** The loops of a format. */
export function linearKernels({ bits }: WireFormat): LinearKernels {
  const found = exported as Record<string, unknown>;
  return {
    scales: found[`scales${bits}`],
    quantise: found[`quantise${bits}`],
    decode: found[`decode${bits}`],
    accumulate: found[`accumulate${bits}`],
  } as LinearKernels;
}

/** The groups that `count` numbers take. */
export function groupsOf(count: number): number {
  return Math.ceil(count / GROUP);
}

/** Fills the rest of the last group after `count` values with zeros. */
export function padGroup(count: number): void {
  chunk.values.fill(0, count, groupsOf(count) * GROUP);
}

/** Where the kernels read and write. */
export const chunk = {
  values: new Float32Array(memory.buffer, VALUES, CHUNK),
  sums: new Float64Array(memory.buffer, SUMS, CHUNK),
  /** Codes of 4, 8 or 16 bits. */
  codes: new Uint8Array(memory.buffer, CODES, 2 * CHUNK),
  scales: new Float32Array(memory.buffer, SCALES, CHUNK / INT4_FORMAT.block),
} as const;
