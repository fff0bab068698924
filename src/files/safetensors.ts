/**
 * safetensors files, read and written in pieces: no call holds more than what it was asked for, so a
 * file of 2 GB can be read or written with a few MB. Model folders of several files are in
 * model-folder.ts. Values are little-endian, as the format says and as this machine must be.
 */
import { open, rm } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { DataError, OperatingError } from '../errors.ts';
import { ByteRanges } from './byte-ranges.ts';
import { FLOAT_BYTES, convertToFloat32, isFloatDtype, type FloatDtype } from './float-conversion.ts';
import { readFully, writeFully } from './positional.ts';
import { PREFIX_BYTES, buildHeader, parseHeader, parseHeaderLength } from './safetensors-header.ts';
import type { NewTensor, SafetensorsHeader, TensorEntry } from './safetensors-header.ts';
import { explaining, systemErrorCode } from './system-error.ts';

export type { Dtype, NewTensor, TensorEntry } from './safetensors-header.ts';

/** Bytes read and converted at once; a multiple of every element size. */
export const PIECE_BYTES = 4 * 1024 * 1024;

/** Some of a tensor's values, one after the other. */
export interface TensorPiece {
  /** Index of the first of them in the tensor. */
  readonly first: number;
  /** Good until the next piece is asked for. */
  readonly values: Float32Array;
}

/** Tensors that can be read by name, from one file or many. */
export interface TensorSource {
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  readonly metadata: Readonly<Record<string, string>>;
  /**
   * Bytes `offset` to `offset + length` of a tensor, in memory of their own.
   * @throws DataError when the tensor is not there or the file was cut short since it was opened.
   */
  readBytes(name: string, offset: number, length: number): Promise<Uint8Array>;
  /** A whole tensor as float32, converted from F16, BF16 or F64. */
  readFloat32(name: string): Promise<Float32Array>;
  /** The same values in order, at most PIECE_BYTES of the file in memory at a time. */
  readPieces(name: string): AsyncGenerator<TensorPiece, void, void>;
  close(): Promise<void>;
}

/** An open safetensors file. */
export interface SafetensorsFile extends TensorSource {
  readonly path: string;
  /** As `readBytes`, into memory that is there: as many as `target` has. */
  readBytesInto(name: string, offset: number, target: Uint8Array): Promise<void>;
}

/** A safetensors file being written. */
export interface SafetensorsWriter {
  readonly path: string;
  /** Puts `bytes` at `offset` of a tensor; any order, any number of pieces. */
  write(name: string, offset: number, bytes: Uint8Array): Promise<void>;
  /**
   * Syncs and closes the file.
   * @throws DataError naming the tensor when bytes are missing; the file stays open.
   */
  finish(): Promise<void>;
  /** Closes and deletes the file. Does nothing after `finish`. */
  abandon(): Promise<void>;
}

/**
 * Opens a file and checks its header.
 * @throws DataError that says what is wrong with the file, OperatingError when it cannot be read.
 */
export async function openSafetensors(path: string): Promise<SafetensorsFile> {
  const handle = await openForReading(path);
  try {
    const { size, isFile } = await explaining(
      `read ${path}`,
      handle.stat().then((stat) => ({ size: stat.size, isFile: stat.isFile() })),
    );
    if (!isFile) throw new DataError(path, `${path} is not a file`);
    const prefix = await readAt(handle, path, 0, Math.min(PREFIX_BYTES, size));
    const headerBytes = parseHeaderLength(path, prefix, size);
    const dataStart = PREFIX_BYTES + headerBytes;
    const json = await readAt(handle, path, PREFIX_BYTES, headerBytes);
    return new OpenSafetensors(path, handle, dataStart, parseHeader(path, json, size - dataStart));
  } catch (error) {
    await handle.close();
    throw error;
  }
}

async function openForReading(path: string): Promise<FileHandle> {
  try {
    return await open(path, 'r');
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT')
      throw new DataError(path, `${path} does not exist`, { cause: error });
    return await explaining(`read ${path}`, Promise.reject(error as Error));
  }
}

async function readAt(
  handle: FileHandle,
  path: string,
  position: number,
  length: number,
): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  await readInto(handle, path, bytes, position);
  return bytes;
}

async function readInto(
  handle: FileHandle,
  path: string,
  bytes: Uint8Array,
  position: number,
): Promise<void> {
  const done = await explaining(`read ${path}`, readFully(handle, bytes, position));
  if (done < bytes.length) {
    throw new DataError(path, `${path} ends at byte ${position + done}: it was cut short while open`);
  }
}

class OpenSafetensors implements SafetensorsFile {
  readonly path: string;
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  readonly metadata: Readonly<Record<string, string>>;
  readonly #handle: FileHandle;
  readonly #dataStart: number;

  constructor(path: string, handle: FileHandle, dataStart: number, header: SafetensorsHeader) {
    this.path = path;
    this.tensors = header.tensors;
    this.metadata = header.metadata;
    this.#handle = handle;
    this.#dataStart = dataStart;
  }

  async readBytes(name: string, offset: number, length: number): Promise<Uint8Array> {
    const { start, end } = this.#entry(name);
    checkRange(name, offset, length, end - start);
    return await readAt(this.#handle, this.path, this.#dataStart + start + offset, length);
  }

  async readBytesInto(name: string, offset: number, target: Uint8Array): Promise<void> {
    const { start, end } = this.#entry(name);
    checkRange(name, offset, target.length, end - start);
    await readInto(this.#handle, this.path, target, this.#dataStart + start + offset);
  }

  async readFloat32(name: string): Promise<Float32Array> {
    const { dtype, start, end } = this.#floatEntry(name);
    const values = allocate(this.path, name, (end - start) / FLOAT_BYTES[dtype]);
    if (dtype === 'F32') {
      await readInto(this.#handle, this.path, new Uint8Array(values.buffer), this.#dataStart + start);
      return values;
    }
    for await (const piece of this.readPieces(name)) values.set(piece.values, piece.first);
    return values;
  }

  async *readPieces(name: string): AsyncGenerator<TensorPiece, void, void> {
    const { dtype, start, end } = this.#floatEntry(name);
    const width = FLOAT_BYTES[dtype];
    const bytes = new Uint8Array(Math.min(PIECE_BYTES, end - start));
    const values = new Float32Array(bytes.length / width);
    for (let offset = 0; offset < end - start; offset += bytes.length) {
      const part = bytes.subarray(0, Math.min(bytes.length, end - start - offset));
      await readInto(this.#handle, this.path, part, this.#dataStart + start + offset);
      convertToFloat32(dtype, part, values, 0);
      yield { first: offset / width, values: values.subarray(0, part.length / width) };
    }
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }

  #entry(name: string): TensorEntry {
    const entry = this.tensors.get(name);
    if (entry === undefined) throw new DataError(this.path, `${this.path} has no tensor ${name}`);
    return entry;
  }

  #floatEntry(name: string): TensorEntry & { readonly dtype: FloatDtype } {
    const { dtype, ...entry } = this.#entry(name);
    if (isFloatDtype(dtype)) return { ...entry, dtype };
    throw new DataError(this.path, `${this.path}: tensor ${name} is ${dtype}, not F32, F16, BF16 or F64`);
  }
}

/** @throws OperatingError where there is no such memory */
function allocate(path: string, name: string, count: number): Float32Array {
  try {
    return new Float32Array(count);
  } catch (error) {
    const reason = `no memory for tensor ${name} of ${count} numbers`;
    throw new OperatingError(`cannot read ${path}: ${reason}`, { cause: error });
  }
}

/** @throws RangeError unless `length` bytes from `offset` on lie within `total`. */
export function checkRange(name: string, offset: number, length: number, total: number): void {
  const isInside =
    Number.isSafeInteger(offset) &&
    Number.isSafeInteger(length) &&
    offset >= 0 &&
    length >= 0 &&
    offset + length <= total;
  if (!isInside) {
    throw new RangeError(
      `bytes ${offset} to ${offset + length} lie outside tensor ${name} of ${total} bytes`,
    );
  }
}

/**
 * Creates a file of tensors, laid out in the order given. The file must not exist.
 * @throws OperatingError when the system refuses.
 */
export async function createSafetensors(
  path: string,
  tensors: readonly NewTensor[],
  metadata: Readonly<Record<string, string>> = {},
): Promise<SafetensorsWriter> {
  const header = buildHeader(tensors, metadata);
  const handle = await explaining(`write ${path}`, open(path, 'wx'));
  const writer = new OpenSafetensorsWriter(path, handle, header.bytes.length, header.entries);
  try {
    await explaining(`write ${path}`, writeFully(handle, header.bytes, 0));
  } catch (error) {
    await writer.abandon();
    throw error;
  }
  return writer;
}

class OpenSafetensorsWriter implements SafetensorsWriter {
  readonly path: string;
  readonly #handle: FileHandle;
  readonly #dataStart: number;
  readonly #entries: ReadonlyMap<string, TensorEntry>;
  readonly #written = new Map<string, ByteRanges>();
  #isClosed = false;

  constructor(
    path: string,
    handle: FileHandle,
    dataStart: number,
    entries: ReadonlyMap<string, TensorEntry>,
  ) {
    this.path = path;
    this.#handle = handle;
    this.#dataStart = dataStart;
    this.#entries = entries;
    for (const name of entries.keys()) this.#written.set(name, new ByteRanges());
  }

  async write(name: string, offset: number, bytes: Uint8Array): Promise<void> {
    const entry = this.#entries.get(name);
    if (entry === undefined) throw new RangeError(`${this.path} was not created with a tensor ${name}`);
    checkRange(name, offset, bytes.length, entry.end - entry.start);
    const position = this.#dataStart + entry.start + offset;
    await explaining(`write ${this.path}`, writeFully(this.#handle, bytes, position));
    this.#written.get(name)?.add(offset, offset + bytes.length);
  }

  async finish(): Promise<void> {
    for (const [name, { start, end }] of this.#entries) {
      const gap = this.#written.get(name)?.firstGap(end - start) ?? null;
      if (gap !== null) {
        const reason = `tensor ${name} is not complete: byte ${gap} of ${end - start} is missing`;
        throw new DataError(this.path, `${this.path}: ${reason}`);
      }
    }
    await explaining(`write ${this.path}`, this.#handle.sync());
    this.#isClosed = true;
    await explaining(`write ${this.path}`, this.#handle.close());
  }

  async abandon(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    await this.#handle.close().catch(() => {});
    await rm(this.path, { force: true }).catch(() => {});
  }
}
