/** The conformance vectors of docs/vectors/, as scripts/conformance.mjs writes them and a test compares them. */
import { galore } from '#messages';
import { CODEC_NAMES, codecFor, type CodecName } from '../../src/galore/codec/codec.ts';
import { encodeRows, openRows } from '../../src/galore/rows.ts';
import type { RowSparseSlot } from '../../src/galore/slot.ts';
import { encodeEnvelope } from '../../src/protocol/envelope.ts';
import { derive, randomNormal } from '../../src/random.ts';
import { SAMPLES } from './samples.ts';

const { Envelope } = galore.v1;

/** Names and contents of the files. */
export function conformanceFiles(): ReadonlyMap<string, string> {
  return new Map([
    ['codecs.json', json({ encoded: codecVectors(), refused: refusals(), ...rowVectors() })],
    ['messages.json', json(messageVectors())],
  ]);
}

/** Numbers by name: odd counts, more than a block of each codec, nothing, and the ends of the range of f32. */
function inputs(): Readonly<Record<string, Float32Array>> {
  const normals = (count: number, scale: number): Float32Array =>
    Float32Array.from({ length: count }, (_, i) => scale * randomNormal(derive(1, 'vectors', count), i));
  const withZeroBlock = normals(321, 0.02).fill(0, 64, 128);
  const largest = (2 - 2 ** -23) * 2 ** 127;
  return {
    one: Float32Array.of(-0.75),
    five: Float32Array.of(1, -2, 0.5, 0, 3.25),
    'two blocks of int8 and a zero block of int4': withZeroBlock,
    'tiny gradients': normals(67, 1e-12),
    'below what a scale can be': Float32Array.of(1e-45, -1e-40, 0),
    'the largest': Float32Array.of(largest, -largest, 1),
    'halfway between two of bf16': Float32Array.of(1 + 2 ** -8, 1 + 3 * 2 ** -8, -1 - 2 ** -8),
  };
}

function codecVectors(): object[] {
  return CODEC_NAMES.flatMap((name) =>
    Object.entries(inputs()).map(([numbers, values], index) => {
      const key = derive(42, 'vectors', index);
      const encoded = codecFor(name).encode(values, key);
      const decoded = codecFor(name).decode(encoded, values.length);
      return {
        ...{ codec: name, name: numbers, count: values.length, key, numbers: hex(bytesOf(values)) },
        ...{ encoded: hex(encoded), decoded: hex(bytesOf(decoded)) },
      };
    }),
  );
}

function refusals(): object[] {
  const refused = (codec: CodecName, count: number, why: string, encoded: string): object => {
    return { codec, count, why, encoded };
  };
  return [
    refused('f32', 2, 'a number short', '0000803f'),
    refused('f32', 1, 'an infinity', '0000807f'),
    refused('bf16', 1, 'not a number', 'c17f'),
    refused('bf16', 1, 'a byte too many', '803f00'),
    refused('int8', 2, 'a negative scale', '000080bf0102'),
    refused('int8', 2, 'a scale that is not a number', '0000c07f0102'),
    refused('int8', 2, 'a scale that makes numbers overflow', '0000007e0102'),
    refused('int8', 2, 'a code short', '0000803f01'),
    refused('int4', 2, 'code -8', '803f81'),
    refused('int4', 1, 'something in the half byte that is left over', '803f11'),
    refused('int4', 1, 'an infinite scale', '807f01'),
    refused('int4', 1, 'a negative scale', '80bf01'),
    refused('int4', 65, 'a scale short', `803f${'11'.repeat(32)}01`),
  ];
}

/** Rows of a matrix of 9 x 130: the numbers of two are more than a block of each codec. */
export const ROWS_SLOT: RowSparseSlot = {
  ...{ name: 'rows', shape: [9, 130], index: 0 },
  ...{ policy: 'row-sparse', rule: 'adamw', mostRows: 4 },
};

function rowVectors(): object {
  const [matrixRows, columns] = ROWS_SLOT.shape;
  const most = ROWS_SLOT.mostRows;
  const key = derive(42, 'rows');
  const encodedOf = (codec: CodecName, rows: readonly number[]): Uint8Array => {
    const values = Float32Array.from({ length: rows.length * columns! }, (_, i) => randomNormal(key, i));
    return encodeRows(codec, Uint32Array.from(rows), values, key);
  };
  const encoded = CODEC_NAMES.flatMap((codec) =>
    [[], [4], [0, 3, 8]].map((rows) => {
      const bytes = encodedOf(codec, rows);
      const { numbers } = openRows(ROWS_SLOT, codec, bytes);
      const decoded = codecFor(codec).decode(numbers, rows.length * columns!);
      return { codec, matrixRows, columns, most, rows, encoded: hex(bytes), decoded: hex(bytesOf(decoded)) };
    }),
  );
  const refused = [
    { why: 'a row that the matrix does not have', rows: [4, 9] },
    { why: 'a row twice', rows: [4, 4] },
    { why: 'rows that descend', rows: [5, 4] },
    { why: 'more rows than may travel', rows: [0, 1, 2, 3, 4] },
  ].map(({ why, rows }) => ({
    codec: 'f32',
    matrixRows,
    columns,
    most,
    why,
    encoded: hex(encodedOf('f32', rows)),
  }));
  const short = { codec: 'f32', matrixRows, columns, most, why: 'a row short', encoded: '0200000001000000' };
  return { rows: encoded, refusedRows: [...refused, short] };
}

/** `fields` as protobuf's JSON mapping has them: names in camel case, bytes in base64, enums by name. */
function messageVectors(): object[] {
  return SAMPLES.map(({ from, message }) => {
    const envelope = encodeEnvelope(message);
    return { sender: from, fields: Envelope.decode(envelope).toJSON(), envelope: hex(envelope) };
  });
}

function json(value: unknown): string {
  return `${JSON.stringify(value, null, 1)}\n`;
}

function bytesOf(values: Float32Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex');
}
