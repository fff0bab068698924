/**
 * The header of a safetensors file: an 8-byte little-endian length, JSON of that length that maps
 * names to {dtype, shape, data_offsets}, then the tensors' bytes without gaps. Pure: bytes in, a checked
 * table out. Every limit is checked before anything of that size is allocated.
 */
import { DataError } from '../errors.ts';
import { FLOAT_BYTES, type StoredDtype } from './float-conversion.ts';
import { parseStrictJson } from './strict-json.ts';

/** Longest header read; the limit of the reference implementation. */
export const MAX_HEADER_BYTES = 100_000_000;
/** A header needs three levels of brackets, and four names for each tensor. */
const HEADER_LIMITS = { depth: 8, keys: 1_000_000, values: 8_000_000 } as const;
const MAX_DIMENSIONS = 32;
/** Length of the length. */
export const PREFIX_BYTES = 8;

/** Bits an element takes. */
const DTYPE_BITS = {
  BOOL: 8,
  F4: 4,
  F6_E2M3: 6,
  F6_E3M2: 6,
  U8: 8,
  I8: 8,
  F8_E5M2: 8,
  F8_E4M3: 8,
  F8_E8M0: 8,
  I16: 16,
  U16: 16,
  F16: 16,
  BF16: 16,
  I32: 32,
  U32: 32,
  F32: 32,
  C64: 64,
  F64: 64,
  I64: 64,
  U64: 64,
} as const;

/** Element type of a tensor in a file. */
export type Dtype = keyof typeof DTYPE_BITS;

/** A tensor in a file: its bytes are `start` to `end` (exclusive) of the data that follows the header. */
export interface TensorEntry {
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  readonly start: number;
  readonly end: number;
}

/** What a header says, checked. Tensors in the order of their bytes. */
export interface SafetensorsHeader {
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  readonly metadata: Readonly<Record<string, string>>;
}

/**
 * The length of the header, given the first 8 bytes of a file of `fileBytes`.
 * @throws DataError when there cannot be a header of that length.
 */
export function parseHeaderLength(path: string, prefix: Uint8Array, fileBytes: number): number {
  if (prefix.length < PREFIX_BYTES || fileBytes < PREFIX_BYTES) {
    throw new DataError(path, `${path}: not a safetensors file: only ${fileBytes} bytes, a header needs 8`);
  }
  const view = new DataView(prefix.buffer, prefix.byteOffset, PREFIX_BYTES);
  const length = view.getUint32(4, true) * 2 ** 32 + view.getUint32(0, true);
  if (length > MAX_HEADER_BYTES) {
    throw new DataError(
      path,
      `${path}: not a safetensors file: a header of ${length} bytes, at most ${MAX_HEADER_BYTES} are read`,
    );
  }
  if (length > fileBytes - PREFIX_BYTES) {
    throw new DataError(
      path,
      `${path}: cut short: its header has ${length} bytes, the file holds ${fileBytes - PREFIX_BYTES} after the length`,
    );
  }
  return length;
}

/**
 * Checks the header's JSON against the `dataBytes` that follow it.
 * @throws DataError that says what is wrong.
 */
export function parseHeader(path: string, json: Uint8Array, dataBytes: number): SafetensorsHeader {
  const fail = (reason: string): never => {
    throw new DataError(path, `${path}: bad safetensors header: ${reason}`);
  };
  if (json[0] !== 0x7b) fail('it does not begin with "{"');
  const root = parseStrictJson(json, HEADER_LIMITS, fail);
  if (!isRecord(root)) return fail('it is not a JSON object');
  const entries: [string, TensorEntry][] = [];
  let metadata: Record<string, string> = {};
  for (const [name, value] of Object.entries(root)) {
    if (name === '__metadata__') metadata = parseMetadata(value, fail);
    else entries.push([name, parseEntry(name, value, dataBytes, fail)]);
  }
  entries.sort(([, a], [, b]) => a.start - b.start || a.end - b.end);
  checkCoverage(entries, dataBytes, fail);
  return { tensors: new Map(entries), metadata };
}

type Fail = (reason: string) => never;

function parseMetadata(value: unknown, fail: Fail): Record<string, string> {
  if (!isRecord(value)) return fail('__metadata__ is not an object');
  for (const [key, text] of Object.entries(value)) {
    if (typeof text !== 'string') fail(`__metadata__ ${quote(key)} is not a string`);
  }
  return value as Record<string, string>;
}

function parseEntry(name: string, value: unknown, dataBytes: number, fail: Fail): TensorEntry {
  const bad = (reason: string): never => fail(`tensor ${quote(name)}: ${reason}`);
  if (!isRecord(value)) return bad('its entry is not an object');
  const { dtype, shape, data_offsets: offsets } = value;
  if (!isDtype(dtype)) return bad(`unknown dtype ${quote(dtype)}`);
  if (!Array.isArray(shape) || shape.length > MAX_DIMENSIONS || !shape.every(isCount)) {
    return bad(`shape ${quote(shape)} is not a list of at most ${MAX_DIMENSIONS} sizes`);
  }
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount)) {
    return bad(`data_offsets ${quote(offsets)} are not two positions`);
  }
  const [start, end] = offsets as [number, number];
  if (start > end || end > dataBytes) {
    return bad(`data_offsets [${start}, ${end}] lie outside the ${dataBytes} bytes of data`);
  }
  const bits = (shape as number[]).reduce((product, extent) => product * extent, 1) * DTYPE_BITS[dtype];
  if (!Number.isSafeInteger(bits)) return bad(`shape [${shape.join(', ')}] is too large`);
  if (bits !== (end - start) * 8) {
    return bad(
      `shape [${shape.join(', ')}] of ${dtype} needs ${bits / 8} bytes, data_offsets give ${end - start}`,
    );
  }
  return { dtype, shape: shape as number[], start, end };
}

/** Every byte of the data belongs to exactly one tensor. */
function checkCoverage(entries: readonly [string, TensorEntry][], dataBytes: number, fail: Fail): void {
  let covered = 0;
  for (const [name, { start, end }] of entries) {
    if (start < covered) fail(`tensor ${quote(name)} overlaps the one before it at byte ${start}`);
    if (start > covered)
      fail(`bytes ${covered} to ${start} of the data, before ${quote(name)}, belong to no tensor`);
    covered = end;
  }
  if (covered < dataBytes) fail(`the last ${dataBytes - covered} bytes of the data belong to no tensor`);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isDtype(value: unknown): value is Dtype {
  return typeof value === 'string' && Object.hasOwn(DTYPE_BITS, value);
}

function isCount(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}

/** A value as JSON, cut to a length that fits into a message. */
function quote(value: unknown): string {
  const text = JSON.stringify(value) ?? 'undefined';
  return text.length > 100 ? `${text.slice(0, 100)}…` : text;
}

/** A tensor to be written. */
export interface NewTensor {
  readonly name: string;
  /** Default: F32. */
  readonly dtype?: StoredDtype | 'U8';
  readonly shape: readonly number[];
}

/** Bytes of a tensor of this type and shape. */
export function tensorBytes(dtype: StoredDtype | 'U8', shape: readonly number[]): number {
  return shape.reduce((product, extent) => product * extent, dtype === 'U8' ? 1 : FLOAT_BYTES[dtype]);
}

/**
 * A header for tensors laid out in the order given: prefix and JSON, padded with spaces so that the data
 * begin at a multiple of 8.
 */
export function buildHeader(
  tensors: readonly NewTensor[],
  metadata: Readonly<Record<string, string>>,
): {
  readonly bytes: Uint8Array;
  readonly entries: ReadonlyMap<string, TensorEntry>;
  readonly dataBytes: number;
} {
  const entries = new Map<string, TensorEntry>();
  const fields: string[] = [];
  if (Object.keys(metadata).length > 0) fields.push(`"__metadata__":${JSON.stringify(metadata)}`);
  let position = 0;
  for (const { name, dtype = 'F32', shape } of tensors) {
    if (name === '__metadata__' || entries.has(name))
      throw new RangeError(`tensor name ${quote(name)} is taken`);
    if (shape.some((extent) => !isCount(extent)))
      throw new RangeError(`tensor ${quote(name)} has shape [${shape.join(', ')}]`);
    const end = position + tensorBytes(dtype, shape);
    entries.set(name, { dtype, shape: [...shape], start: position, end });
    const entry = { dtype, shape, data_offsets: [position, end] };
    fields.push(`${JSON.stringify(name)}:${JSON.stringify(entry)}`);
    position = end;
  }
  const json = Buffer.from(`{${fields.join(',')}}`, 'utf8');
  const length = Math.ceil(json.length / 8) * 8;
  if (length > MAX_HEADER_BYTES) throw new RangeError(`a header of ${length} bytes is too long`);
  const bytes = new Uint8Array(PREFIX_BYTES + length).fill(0x20, PREFIX_BYTES + json.length);
  new DataView(bytes.buffer).setUint32(0, length, true);
  bytes.set(json, PREFIX_BYTES);
  return { bytes, entries, dataBytes: position };
}
