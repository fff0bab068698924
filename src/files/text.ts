/**
 * Reads text files as a stream: decoded, checked, and cut into pieces of bounded length, so that a
 * file of any size needs little memory. A piece ends where a line ends (its line break opens the next
 * one), else at a space, else anywhere between two characters. GPT-2 style tokenisers never join a
 * word to the white space after it, so for them the pieces give the same tokens as the whole text.
 */
import { createHash } from 'node:crypto';
import { open, type FileHandle } from 'node:fs/promises';
import { TextDecoder } from 'node:util';
import { DataError } from '../errors.ts';

const READ_BYTES = 1 << 20;
const NEW_LINE = 0x0a;
const BYTE_ORDER_MARK = Buffer.of(0xef, 0xbb, 0xbf);

/** SHA-256 of a file's bytes, in hex. @throws DataError where it cannot be read. */
export async function hashFile(path: string, onBytes?: (bytes: number) => void): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of readBytes(path)) {
    hash.update(chunk);
    onBytes?.(chunk.length);
  }
  return hash.digest('hex');
}

/**
 * The text of a file in chunks of about 1 MiB, a byte order mark left out.
 * @throws DataError where it cannot be read, is binary, is not UTF-8, or is no longer what `sha256` says.
 */
export async function* readText(path: string, sha256?: string): AsyncGenerator<string, void, void> {
  const decoder = new TextDecoder('utf-8', { fatal: true });
  let offset = 0;
  let tail: Uint8Array = new Uint8Array(0); // the last bytes before the chunk: a character can straddle
  for await (const chunk of readTextBytes(path, sha256)) {
    const text = decodeOrExplain(decoder, path, chunk, offset, tail);
    if (text.length > 0) yield text;
    offset += chunk.length;
    tail = Uint8Array.from(chunk.subarray(-4));
  }
  decodeOrExplain(decoder, path, undefined, offset, tail);
}

/** A line without its line break; where it is not UTF-8, the offset in the file of the byte that begins no character. */
export type Line =
  | { readonly number: number; readonly text: string }
  | { readonly number: number; readonly invalidAt: number };

/**
 * The lines of a file, counted from 1, a byte order mark left out. A line is held in memory as a whole.
 * @throws DataError where it cannot be read, is binary, has a line of more than `maxLineBytes`, or is no
 *   longer what `sha256` says.
 */
export async function* readLines(
  path: string,
  maxLineBytes: number,
  sha256?: string,
): AsyncGenerator<Line, void, void> {
  let number = 1;
  let offset = 0; // in the file, of the first byte of `rest`
  let rest: Uint8Array[] = []; // the begin of a line whose end has not been read
  let restBytes = 0;
  for await (const chunk of readTextBytes(path, sha256)) {
    const end = chunk.lastIndexOf(NEW_LINE) + 1;
    if (end > 0) {
      const block = Buffer.concat([...rest, chunk.subarray(0, end)]);
      for (const line of linesOf(block.subarray(0, -1), offset, number)) {
        yield line;
        number++;
      }
      offset += block.length;
      rest = [];
      restBytes = 0;
    }
    rest.push(Uint8Array.from(chunk.subarray(end)));
    restBytes += chunk.length - end;
    if (restBytes > maxLineBytes) {
      throw new DataError(path, `${path}, line ${number} has more than ${maxLineBytes} bytes`);
    }
  }
  if (restBytes > 0) yield* linesOf(Buffer.concat(rest), offset, number);
}

/** The lines of a block. All of it is decoded at once; only where that fails, line by line. */
function* linesOf(block: Buffer, offset: number, firstNumber: number): Generator<Line, void, void> {
  const start = offset === 0 && block.subarray(0, 3).equals(BYTE_ORDER_MARK) ? 3 : 0;
  const text = decodeWhole(block.subarray(start));
  if (text !== null) {
    let number = firstNumber;
    for (const line of text.split('\n')) yield { number: number++, text: line };
    return;
  }
  let from = start;
  for (let number = firstNumber; from <= block.length; number++) {
    const found = block.indexOf(NEW_LINE, from);
    const bytes = block.subarray(from, found < 0 ? block.length : found);
    const line = decodeWhole(bytes);
    yield line === null
      ? { number, invalidAt: offset + from + firstInvalidUtf8(bytes, true) }
      : { number, text: line };
    from += bytes.length + 1;
  }
}

function decodeWhole(bytes: Uint8Array): string | null {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return null;
  }
}

/** The bytes of a text file; each chunk is valid until the next is asked for. */
async function* readTextBytes(path: string, sha256?: string): AsyncGenerator<Buffer, void, void> {
  const hash = createHash('sha256');
  let offset = 0;
  for await (const chunk of readBytes(path)) {
    hash.update(chunk);
    if (offset === 0) refuseOtherFormats(path, chunk);
    const zero = chunk.indexOf(0);
    if (zero >= 0)
      throw new DataError(path, `${path} is not text: it has a zero byte at offset ${offset + zero}`);
    yield chunk;
    offset += chunk.length;
  }
  if (sha256 !== undefined && hash.digest('hex') !== sha256) {
    throw new DataError(
      path,
      `${path} changed while it was being read; start again when nothing writes to it`,
    );
  }
}

/** Joins chunks and cuts them into pieces of at most `pieceLength` UTF-16 units; where depends on the text alone. */
export async function* cutPieces(
  chunks: AsyncIterable<string> | Iterable<string>,
  pieceLength: number,
): AsyncGenerator<string, void, void> {
  let rest = '';
  for await (const chunk of chunks) {
    rest += chunk;
    let start = 0;
    while (rest.length - start > pieceLength) {
      const end = cutAt(rest, start, pieceLength);
      yield rest.slice(start, end);
      start = end;
    }
    rest = rest.slice(start);
  }
  if (rest.length > 0) yield rest;
}

/** Pieces of a text in memory. */
export function* cutText(text: string, pieceLength: number): Generator<string, void, void> {
  let start = 0;
  while (text.length - start > pieceLength) {
    const end = cutAt(text, start, pieceLength);
    yield text.slice(start, end);
    start = end;
  }
  if (start < text.length) yield text.slice(start);
}

/** Where the piece that begins at `start` ends: at most `length` units on, and more than half of it. */
function cutAt(text: string, start: number, length: number): number {
  const latest = start + length;
  const earliest = start + (length >> 1) + 1;
  let lineEnd = text.lastIndexOf('\n', latest);
  while (lineEnd > start && isWhiteSpace(text.charCodeAt(lineEnd - 1))) lineEnd--;
  if (lineEnd >= earliest) return lineEnd;
  for (let at = latest; at >= earliest; at--) {
    if (isWhiteSpace(text.charCodeAt(at)) && !isWhiteSpace(text.charCodeAt(at - 1))) return at;
  }
  const splitsCharacter = (text.charCodeAt(latest - 1) & 0xfc00) === 0xd800;
  return splitsCharacter && length > 1 ? latest - 1 : latest;
}

/** Unicode White_Space; all of it is in the first plane. */
function isWhiteSpace(unit: number): boolean {
  if (unit < 0x85) return unit === 0x20 || (unit >= 0x09 && unit <= 0x0d);
  return (
    unit === 0x85 ||
    unit === 0xa0 ||
    unit === 0x1680 ||
    (unit >= 0x2000 && unit <= 0x200a) ||
    unit === 0x2028 ||
    unit === 0x2029 ||
    unit === 0x202f ||
    unit === 0x205f ||
    unit === 0x3000
  );
}

/** What to tell a user when the operating system refuses to read `path`; `wanted` says what belongs there. */
export function readFailure(path: string, error: unknown, wanted: string): DataError {
  const code = (error as NodeJS.ErrnoException | null)?.code ?? String(error);
  const reasons: Readonly<Record<string, string>> = {
    ENOENT: 'does not exist',
    ENOTDIR: 'does not exist: a part of the path is a file',
    EACCES: 'cannot be read: permission denied',
    EPERM: 'cannot be read: operation not permitted',
    EISDIR: 'is a folder',
    ELOOP: 'is a symbolic link in a circle',
    EMFILE: 'cannot be opened: too many open files',
  };
  return new DataError(path, `${path} ${reasons[code] ?? `cannot be read (${code})`}; ${wanted}`, {
    cause: error,
  });
}

/** Chunks of a file; each is valid until the next is asked for. */
async function* readBytes(path: string): AsyncGenerator<Buffer, void, void> {
  const wanted = 'data must be readable text or JSONL files';
  let handle: FileHandle;
  try {
    handle = await open(path, 'r');
  } catch (error) {
    throw readFailure(path, error, wanted);
  }
  try {
    const buffer = Buffer.allocUnsafe(READ_BYTES);
    for (;;) {
      const { bytesRead } = await handle.read(buffer, 0, READ_BYTES, null).catch((error: unknown) => {
        throw readFailure(path, error, wanted);
      });
      if (bytesRead === 0) return;
      yield buffer.subarray(0, bytesRead);
    }
  } finally {
    await handle.close();
  }
}

/** Files that are taken for text by mistake most often, by their first bytes. */
const OTHER_FORMATS: readonly (readonly [start: readonly number[], what: string])[] = [
  [[0xff, 0xfe], 'is UTF-16, not UTF-8: convert it first'],
  [[0xfe, 0xff], 'is UTF-16, not UTF-8: convert it first'],
  [[0x1f, 0x8b], 'is compressed (gzip): unpack it first'],
  [[0x28, 0xb5, 0x2f, 0xfd], 'is compressed (zstd): unpack it first'],
  [[0x50, 0x4b, 0x03, 0x04], 'is a zip archive: unpack it first'],
  [[0x50, 0x41, 0x52, 0x31], 'is a Parquet file; text and JSONL are supported'],
  [[0x25, 0x50, 0x44, 0x46, 0x2d], 'is a PDF; text and JSONL are supported'],
];

function refuseOtherFormats(path: string, firstBytes: Uint8Array): void {
  const found = OTHER_FORMATS.find(([start]) => start.every((byte, i) => firstBytes[i] === byte));
  if (found !== undefined) throw new DataError(path, `${path} ${found[1]}`);
}

function decodeOrExplain(
  decoder: TextDecoder,
  path: string,
  chunk: Uint8Array | undefined,
  offset: number,
  tail: Uint8Array,
): string {
  try {
    return chunk === undefined ? decoder.decode() : decoder.decode(chunk, { stream: true });
  } catch {
    const bytes = Buffer.concat([tail, chunk ?? new Uint8Array(0)]);
    const at = Math.max(0, offset - tail.length) + firstInvalidUtf8(bytes, offset === 0);
    throw new DataError(
      path,
      `${path} is not UTF-8 text: the byte at offset ${at} begins no character; convert it first`,
    );
  }
}

/** Offset of the first byte that is no part of a UTF-8 character. */
function firstInvalidUtf8(bytes: Uint8Array, isStart: boolean): number {
  let at = 0;
  // Bytes kept from before can begin inside a character that was fine.
  if (!isStart) while (at < 3 && (bytes[at]! & 0xc0) === 0x80) at++;
  const decoder = new TextDecoder('utf-8', { fatal: true });
  while (at < bytes.length) {
    const lead = bytes[at]!;
    const length = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    try {
      if (length > 1) decoder.decode(bytes.subarray(at, at + length));
    } catch {
      return at;
    }
    at += length;
  }
  return at;
}
