/**
 * Small WebAssembly modules without a compiler: functions are lists of bytes, made with the words below, which
 * are those of the specification's text format. Pure. https://webassembly.github.io/spec/core/binary/
 */

/** Bytes of instructions, operands before operators. */
export type Code = readonly number[];

export type ValueType = 'i32' | 'f64' | 'v128';

/** A function; its locals are numbered from 0, parameters first. */
export interface WasmFunction {
  readonly name: string;
  readonly params: readonly ValueType[];
  readonly result?: ValueType;
  readonly locals: readonly ValueType[];
  readonly body: Code;
}

/** What Node.js gives and `@types/node` does not declare. */
declare const WebAssembly: {
  readonly Module: new (bytes: Uint8Array) => object;
  readonly Instance: new (module: object) => { readonly exports: Record<string, unknown> };
};

const TYPE_BYTES: Readonly<Record<ValueType, number>> = { i32: 0x7f, f64: 0x7c, v128: 0x7b };
const PAGE_BYTES = 65_536;

/** Compiles and starts a module of these functions with `memoryBytes` of memory, which it exports as `memory`. */
export function instantiate(
  functions: readonly WasmFunction[],
  memoryBytes: number,
): { readonly memory: { readonly buffer: ArrayBuffer } } & Record<string, unknown> {
  const pages = Math.ceil(memoryBytes / PAGE_BYTES);
  const types = functions.map(({ params, result }) => [
    0x60,
    ...list(params.map((type) => [TYPE_BYTES[type]])),
    ...list(result === undefined ? [] : [[TYPE_BYTES[result]]]),
  ]);
  const exports = functions.map(({ name }, index) => [...text(name), 0x00, ...unsigned(index)]);
  const bodies = functions.map(({ locals, body }) =>
    sized([...list(locals.map((type) => [1, TYPE_BYTES[type]])), ...body, 0x0b]),
  );
  const bytes = Uint8Array.from([
    ...[0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00],
    ...section(1, types),
    ...section(
      3,
      functions.map((_, index) => unsigned(index)),
    ),
    ...section(5, [[0x01, ...unsigned(pages), ...unsigned(pages)]]),
    ...section(7, [[...text('memory'), 0x02, 0x00], ...exports]),
    ...section(10, bodies),
  ]);
  const instance = new WebAssembly.Instance(new WebAssembly.Module(bytes));
  return instance.exports as ReturnType<typeof instantiate>;
}

function section(id: number, entries: readonly Code[]): Code {
  return [id, ...sized(list(entries))];
}

function list(entries: readonly Code[]): Code {
  return [...unsigned(entries.length), ...entries.flat()];
}

function sized(bytes: Code): Code {
  return [...unsigned(bytes.length), ...bytes];
}

function text(name: string): Code {
  return sized([...name].map((letter) => letter.charCodeAt(0)));
}

/** LEB128. */
function unsigned(value: number): Code {
  return value < 0x80 ? [value] : [(value & 0x7f) | 0x80, ...unsigned(value >>> 7)];
}

function signed(value: number): Code {
  return value >= -0x40 && value < 0x40 ? [value & 0x7f] : [(value & 0x7f) | 0x80, ...signed(value >> 7)];
}

function bytesOf(values: Int32Array | Float64Array): Code {
  return [...new Uint8Array(values.buffer)];
}

const simd = (opcode: number): Code => [0xfd, ...unsigned(opcode)];
/** A memory access: alignment is a hint, none is given. */
const access =
  (opcode: Code) =>
  (offset: number): Code => [...opcode, 0, ...unsigned(offset)];

/** The instructions that are used here. */
export const op = {
  get: (local: number): Code => [0x20, ...unsigned(local)],
  set: (local: number): Code => [0x21, ...unsigned(local)],
  tee: (local: number): Code => [0x22, ...unsigned(local)],
  /** Repeats `body` as long as `condition` leaves a number that is not 0, at least once. */
  repeat: (body: Code, condition: Code): Code => [0x03, 0x40, ...body, ...condition, 0x0d, 0x00, 0x0b],
  select: [0x1b],
  i32: {
    const: (value: number): Code => [0x41, ...signed(value | 0)],
    add: [0x6a],
    and: [0x71],
    ltU: [0x49],
    gtS: [0x4a],
    shl: [0x74],
    reinterpretF32: [0xbc],
  },
  f32: {
    const: (value: number): Code => [0x43, ...new Uint8Array(Float32Array.of(value).buffer)],
    load: access([0x2a]),
    store: access([0x38]),
    eq: [0x5b],
    lt: [0x5d],
    min: [0x96],
    demoteF64: [0xb6],
    reinterpretI32: [0xbe],
  },
  f64: {
    const: (value: number): Code => [0x44, ...bytesOf(Float64Array.of(value))],
    add: [0xa0],
    mul: [0xa2],
    div: [0xa3],
    promoteF32: [0xbb],
  },
  v128: {
    load: access(simd(0x00)),
    load32Zero: access(simd(0x5c)),
    load64Zero: access(simd(0x5d)),
    store: access(simd(0x0b)),
    store64Lane0: (offset: number): Code => [...access(simd(0x5b))(offset), 0],
    and: simd(0x4e),
    or: simd(0x50),
    xor: simd(0x51),
  },
  i8x16: {
    shuffle: (lanes: Code): Code => [...simd(0x0d), ...lanes],
    splat: simd(0x0f),
    narrowI16x8: simd(0x65),
    narrowUnsignedI16x8: simd(0x66),
    minS: simd(0x76),
    maxS: simd(0x78),
  },
  i16x8: {
    splat: simd(0x10),
    narrowI32x4: simd(0x85),
    narrowUnsignedI32x4: simd(0x86),
    extendLowI8x16: simd(0x87),
    extendHighI8x16: simd(0x88),
    shl: simd(0x8b),
    shrS: simd(0x8c),
    shrU: simd(0x8d),
  },
  i32x4: {
    const: (a: number, b: number, c: number, d: number): Code => [
      ...simd(0x0c),
      ...bytesOf(Int32Array.of(a, b, c, d)),
    ],
    splat: simd(0x11),
    extractLane: (lane: number): Code => [...simd(0x1b), lane],
    extendLowI16x8: simd(0xa7),
    extendHighI16x8: simd(0xa8),
    extendLowUnsignedI16x8: simd(0xa9),
    extendHighUnsignedI16x8: simd(0xaa),
    shl: simd(0xab),
    shrU: simd(0xad),
    add: simd(0xae),
    mul: simd(0xb5),
    minU: simd(0xb7),
    maxS: simd(0xb8),
    truncSatF64x2: simd(0xfc),
  },
  f32x4: {
    splat: simd(0x13),
    sub: simd(0xe5),
    mul: simd(0xe6),
    /** Of (a, b): b < a ? b : a, and a < b ? b : a. */
    pmin: simd(0xea),
    pmax: simd(0xeb),
    convertI32x4S: simd(0xfa),
    demoteF64x2: simd(0x5e),
  },
  f64x2: {
    splat: simd(0x14),
    extractLane: (lane: number): Code => [...simd(0x21), lane],
    promoteLowF32x4: simd(0x5f),
    floor: simd(0x75),
    add: simd(0xf0),
    sub: simd(0xf1),
    mul: simd(0xf2),
    div: simd(0xf3),
    convertLowI32x4S: simd(0xfe),
    convertLowI32x4U: simd(0xff),
  },
} as const;
