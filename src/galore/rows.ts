/**
 * Some rows of a matrix as bytes, for gradients that are zero in all others (policy row-sparse): u32 k, then k row
 * numbers (u32, strictly ascending), then the k x D numbers of these rows in a codec. Little-endian. Pure.
 */
import { bytesOf } from '../array-bytes.ts';
import { ProtocolError } from '../errors.ts';
import { CLOSE_CODES } from '../protocol/close-codes.ts';
import type { RandomKey } from '../random.ts';
import { codecFor, type CodecName } from './codec/codec.ts';
import { matrixShape, type RowSparseSlot } from './slot.ts';

/** Numbers of rows, and the numbers in them, still encoded. */
export interface EncodedRows {
  /** Strictly ascending. */
  readonly rows: Uint32Array;
  readonly numbers: Uint8Array;
}

/** Length of the encoding of `count` rows. */
export function rowsBytes(slot: RowSparseSlot, codec: CodecName, count: number): number {
  return 4 + 4 * count + codecFor(codec).encodedBytes(count * matrixShape(slot)[1]);
}

/** How many rows so many bytes hold, which no other number of rows does; null: none that is allowed. */
export function rowsIn(slot: RowSparseSlot, codec: CodecName, totalBytes: number): number | null {
  let [least, most] = [0, slot.mostRows];
  while (least < most) {
    const middle = Math.ceil((least + most) / 2);
    if (rowsBytes(slot, codec, middle) <= totalBytes) least = middle;
    else most = middle - 1;
  }
  return rowsBytes(slot, codec, least) === totalBytes ? least : null;
}

/** The token ids of some lists, each once, ascending: the rows of an embedding that have a gradient. */
export function touchedRows(ids: readonly Int32Array[]): Uint32Array {
  return Uint32Array.from(new Set(ids.flatMap((list) => [...list]))).sort();
}

/**
 * Encodes rows into memory of `allocate`, or new memory.
 * @param rows strictly ascending, @param values `[rows.length, D]`
 * @throws NotFiniteError for NaN or an infinity
 */
export function encodeRows(
  codec: CodecName,
  rows: Uint32Array,
  values: Float32Array,
  key: RandomKey,
  allocate: (byteLength: number) => Uint8Array = (byteLength) => new Uint8Array(byteLength),
): Uint8Array {
  const start = 4 + 4 * rows.length;
  const bytes = allocate(start + codecFor(codec).encodedBytes(values.length));
  bytes.set(new Uint8Array(Uint32Array.of(rows.length).buffer));
  bytes.set(bytesOf(rows), 4);
  const numbers = bytes.subarray(start);
  const encoded = codecFor(codec).encode(values, key, numbers);
  if (encoded !== numbers) numbers.set(encoded);
  return bytes;
}

/**
 * Takes the bytes of a peer apart; they may lie at any offset of their buffer.
 * @throws ProtocolError MALFORMED_MESSAGE for too many rows, a wrong length, rows that do not ascend or that the
 * matrix does not have
 */
export function openRows(slot: RowSparseSlot, codec: CodecName, bytes: Uint8Array): EncodedRows {
  if (bytes.length < 4) throw malformed(slot, `${bytes.length} bytes have no number of rows`);
  const count = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
  if (count > slot.mostRows) throw malformed(slot, `${count} rows are more than ${slot.mostRows}`);
  const wanted = rowsBytes(slot, codec, count);
  if (bytes.length !== wanted) {
    throw malformed(slot, `${count} rows as ${codec} take ${wanted} bytes, not ${bytes.length}`);
  }
  const start = 4 + 4 * count;
  const rows = new Uint32Array(new Uint8Array(bytes.subarray(4, start)).buffer);
  const [matrixRows] = matrixShape(slot);
  rows.forEach((row, i) => {
    if (row >= matrixRows) throw malformed(slot, `row ${row} is not one of its ${matrixRows}`);
    if (i > 0 && row <= rows[i - 1]!) throw malformed(slot, `row ${row} follows row ${rows[i - 1]}`);
  });
  return { rows, numbers: bytes.subarray(start) };
}

/** @throws ProtocolError as `openRows`, and for numbers that are not finite */
export function checkRows(slot: RowSparseSlot, codec: CodecName, bytes: Uint8Array): void {
  const { rows, numbers } = openRows(slot, codec, bytes);
  codecFor(codec).check(numbers, rows.length * matrixShape(slot)[1]);
}

/**
 * The whole matrix, with zeros in the rows that did not come, written to the beginning of `into`.
 * @throws ProtocolError as `checkRows`
 */
export function scatterRows(
  slot: RowSparseSlot,
  codec: CodecName,
  bytes: Uint8Array,
  into: Float32Array,
): Float32Array {
  const [matrixRows, columns] = matrixShape(slot);
  const { rows, numbers } = openRows(slot, codec, bytes);
  const values = codecFor(codec).decode(numbers, rows.length * columns);
  const matrix = into.subarray(0, matrixRows * columns).fill(0);
  rows.forEach((row, i) => matrix.set(values.subarray(i * columns, (i + 1) * columns), row * columns));
  return matrix;
}

function malformed({ name }: RowSparseSlot, reason: string): ProtocolError {
  return new ProtocolError(CLOSE_CODES.MALFORMED_MESSAGE.code, `rows of ${name}: ${reason}`);
}
