/**
 * The numbers of all trainers for one chunk of a tensor, as columns beside each other, and the loops over them in
 * 128-bit WebAssembly (kernels.ts has those of the mean). Columns are f32, as the numbers travel; what comes of
 * them is f64. Nothing is kept between chunks but memory.
 */
import { chunk, CHUNK, groupsOf } from '../codec/kernels.ts';
import { instantiate, op, type Code, type WasmFunction } from '../codec/wasm.ts';
import type { OpenedPart } from './rule.ts';
import { sortingNetwork } from './sorting-network.ts';

const COLUMN_BYTES = 4 * CHUNK;
/** Numbers of a group: the loops take whole ones, and zeros fill up the last. */
const GROUP_BYTES = 4 * 256;

const { i32, f32x4, f64x2, v128, i8x16, get, set, tee, repeat } = op;
const UPPER_HALF = [8, 9, 10, 11, 12, 13, 14, 15];
const LOWER_HALVES = [0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23];
const ZEROS: Code = [...op.f64.const(0), ...f64x2.splat];

/** Of the four f32 of a local the lower two and the upper two, to be promoted. */
const lowerOf = (local: number): Code => get(local);
const upperOf = (local: number): Code => [
  ...[...get(local), ...get(local), ...i8x16.shuffle([...UPPER_HALF, ...UPPER_HALF])],
];

/** Counts the byte offset in `at` up to `end`, sixteen bytes of a column at a time. */
const overColumn = (at: number, end: number, body: Code): Code =>
  repeat(body, [...get(at), ...i32.const(16), ...i32.add, ...tee(at), ...get(end), ...i32.ltU]);

/** The address in the outcome of what belongs to byte offset `at` of a column. */
const outAt = (at: number): Code => [...get(at), ...get(at), ...i32.add];

/** trimmedMean(bytes): outcome = mean of each row without its `trim` smallest and largest numbers, added in ascending order. */
function trimmedMean(columns: number, trim: number): WasmFunction {
  const [end, at, sum] = [0, 1, 2] as const;
  const column = (index: number): number => 3 + index;
  const out = columns * COLUMN_BYTES;
  const [from, to] = [trim, columns - trim];
  const scratch = column(columns);
  const places = Array.from({ length: columns }, (_, index) => index);
  const load = places.flatMap((c) => [...get(at), ...v128.load(c * COLUMN_BYTES), ...set(column(c))]);
  const sort = sortingNetwork(columns, from, to).flatMap(({ first, second, keepsFirst, keepsSecond }) => {
    const both = [...get(column(first)), ...get(column(second))];
    return [
      ...(keepsFirst ? [...both, ...f32x4.pmin, ...set(scratch)] : []),
      ...(keepsSecond ? [...both, ...f32x4.pmax, ...set(column(second))] : []),
      ...(keepsFirst ? [...get(scratch), ...set(column(first))] : []),
    ];
  });
  const meanOf = (half: (local: number) => Code, offset: number): Code => [
    ...[...ZEROS, ...set(sum)],
    ...places
      .slice(from, to)
      .flatMap((c) => [...get(sum), ...half(column(c)), ...f64x2.promoteLowF32x4, ...f64x2.add, ...set(sum)]),
    ...outAt(at),
    ...[...get(sum), ...op.f64.const(to - from), ...f64x2.splat, ...f64x2.div],
    ...v128.store(out + offset),
  ];
  return {
    name: 'trimmedMean',
    params: ['i32'],
    locals: ['i32', 'v128', ...places.map(() => 'v128' as const), 'v128'],
    body: overColumn(at, end, [...load, ...sort, ...meanOf(lowerOf, 0), ...meanOf(upperOf, 16)]),
  };
}

/** centre(column, bytes): column -= outcome. */
function centre(columns: number): WasmFunction {
  const [column, end, at, values] = [0, 1, 2, 3] as const;
  const out = columns * COLUMN_BYTES;
  const half = (of: Code, offset: number): Code => [
    ...[...of, ...f64x2.promoteLowF32x4, ...outAt(at), ...v128.load(out + offset), ...f64x2.sub],
    ...f32x4.demoteF64x2,
  ];
  const place: Code = [...get(column), ...get(at), ...i32.add];
  return {
    name: 'centre',
    params: ['i32', 'i32'],
    locals: ['i32', 'v128'],
    body: overColumn(at, end, [
      ...[...place, ...v128.load(0), ...set(values)],
      ...place,
      ...[...half(lowerOf(values), 0), ...half(upperOf(values), 16)],
      ...i8x16.shuffle(LOWER_HALVES),
      ...v128.store(0),
    ]),
  };
}

/** name(a, b, bytes): the sum of the products that `factors` leaves of two columns, four at a time, in f64. */
function sumOfProducts(name: string, load: Code, isSquare: boolean): WasmFunction {
  const [, , end, at, sumLow, sumHigh, first, second, product] = [0, 1, 2, 3, 4, 5, 6, 7, 8] as const;
  const addHalf = (half: (local: number) => Code, sum: number): Code => [
    ...get(sum),
    ...[...half(first), ...f64x2.promoteLowF32x4, ...tee(product)],
    ...(isSquare ? get(product) : [...half(second), ...f64x2.promoteLowF32x4]),
    ...[...f64x2.mul, ...f64x2.add, ...set(sum)],
  ];
  const lanes = (local: number): Code => [
    ...[...get(local), ...f64x2.extractLane(0), ...get(local), ...f64x2.extractLane(1), ...op.f64.add],
  ];
  return {
    name,
    params: ['i32', 'i32', 'i32'],
    result: 'f64',
    locals: ['i32', 'v128', 'v128', 'v128', 'v128', 'v128'],
    body: [
      ...overColumn(at, end, [...load, ...addHalf(lowerOf, sumLow), ...addHalf(upperOf, sumHigh)]),
      ...[...lanes(sumLow), ...lanes(sumHigh), ...op.f64.add],
    ],
  };
}

const loadOf = (column: number): Code => [...get(column), ...get(3), ...i32.add, ...v128.load(0)];
const dot = sumOfProducts('dot', [...loadOf(0), ...set(6), ...loadOf(1), ...set(7)], false);
const distance = sumOfProducts('distance', [...loadOf(0), ...loadOf(1), ...f32x4.sub, ...set(6)], true);

/** multiply(factor, bytes): outcome *= factor. */
function multiply(columns: number): WasmFunction {
  const [factor, end, at] = [0, 1, 2] as const;
  const out = columns * COLUMN_BYTES;
  const two = (offset: number): Code => [
    ...[...outAt(at), ...outAt(at), ...v128.load(out + offset)],
    ...[...get(factor), ...f64x2.splat, ...f64x2.mul, ...v128.store(out + offset)],
  ];
  return {
    name: 'multiply',
    params: ['f64', 'i32'],
    locals: ['i32'],
    body: overColumn(at, end, [...two(0), ...two(16)]),
  };
}

/** add(column, weight, bytes): outcome += weight times column. */
function add(columns: number): WasmFunction {
  const [column, weight, end, at, values] = [0, 1, 2, 3, 4] as const;
  const out = columns * COLUMN_BYTES;
  const two = (half: Code, offset: number): Code => [
    ...[...outAt(at), ...outAt(at), ...v128.load(out + offset)],
    ...[...half, ...f64x2.promoteLowF32x4, ...get(weight), ...f64x2.splat, ...f64x2.mul, ...f64x2.add],
    ...v128.store(out + offset),
  ];
  return {
    name: 'add',
    params: ['i32', 'f64', 'i32'],
    locals: ['i32', 'v128'],
    body: overColumn(at, end, [
      ...[...get(column), ...get(at), ...i32.add, ...v128.load(0), ...set(values)],
      ...[...two(lowerOf(values), 0), ...two(upperOf(values), 16)],
    ]),
  };
}

interface ColumnKernels {
  trimmedMean(bytes: number): void;
  centre(column: number, bytes: number): void;
  dot(a: number, b: number, bytes: number): number;
  distance(a: number, b: number, bytes: number): number;
  multiply(factor: number, bytes: number): void;
  add(column: number, weight: number, bytes: number): void;
}

/** Columns of so many trainers. Use one at a time: `columnsFor` gives the same again. */
export class Columns {
  readonly count: number;
  /** How many numbers `trimmedMean` leaves out on either side. */
  readonly trim: number;
  readonly #kernels: ColumnKernels;
  readonly #columns: readonly Float32Array[];
  readonly #outcome: Float64Array;
  /** Of the chunk that was read last, in bytes of a column up to the end of the group. */
  #bytes = 0;

  constructor(count: number, trim: number) {
    const functions = [trimmedMean(count, trim), centre(count), dot, distance, multiply(count), add(count)];
    const { memory, ...kernels } = instantiate(functions, count * COLUMN_BYTES + 8 * CHUNK);
    this.count = count;
    this.trim = trim;
    this.#kernels = kernels as unknown as ColumnKernels;
    this.#columns = Array.from(
      { length: count },
      (_, c) => new Float32Array(memory.buffer, c * COLUMN_BYTES, CHUNK),
    );
    this.#outcome = new Float64Array(memory.buffer, count * COLUMN_BYTES, CHUNK);
  }

  /** Reads the chunk at `start` of each part, times its scale. */
  read(parts: readonly OpenedPart[], start: number, length: number): void {
    const padded = groupsOf(length) * (GROUP_BYTES / 4);
    this.#bytes = 4 * padded;
    parts.forEach(({ reader, scale }, c) => {
      const column = this.#columns[c]!;
      reader.read(start, start + length, column);
      if (scale !== 1) for (let i = 0; i < length; i++) column[i] = column[i]! * scale;
      column.fill(0, length, padded);
    });
  }

  /** The outcome is the mean of each row without its `trim` smallest and largest numbers. */
  trimmedMean(): void {
    this.#kernels.trimmedMean(this.#bytes);
  }

  /** Subtracts the outcome from every column. */
  centre(): void {
    for (let c = 0; c < this.count; c++) this.#kernels.centre(c * COLUMN_BYTES, this.#bytes);
  }

  dot(a: number, b: number): number {
    return this.#kernels.dot(a * COLUMN_BYTES, b * COLUMN_BYTES, this.#bytes);
  }

  /** |a - b|^2; differences are rounded to f32, their squares are not. */
  squaredDistance(a: number, b: number): number {
    return this.#kernels.distance(a * COLUMN_BYTES, b * COLUMN_BYTES, this.#bytes);
  }

  /** The outcome becomes `own` times itself plus the columns, each times its weight. */
  combine(own: number, weights: ArrayLike<number>): void {
    this.#kernels.multiply(own, this.#bytes);
    for (let c = 0; c < this.count; c++) this.#kernels.add(c * COLUMN_BYTES, weights[c]!, this.#bytes);
  }

  /** Copies the outcome to `chunk.sums`. */
  leaveSums(): void {
    chunk.sums.set(this.#outcome.subarray(0, this.#bytes / 4));
  }
}

/** Steps mostly have the same members: what was made last is used again. */
let last: Columns | null = null;

/** Columns for `count` trainers. @param trim how many numbers `trimmedMean` leaves out on either side; less than half */
export function columnsFor(count: number, trim: number): Columns {
  if (last?.count !== count || last.trim !== trim) last = new Columns(count, trim);
  return last;
}

/** The most that can be left out on either side: the mean of what is left is the median. */
export function medianTrim(count: number): number {
  return Math.floor((count - 1) / 2);
}
