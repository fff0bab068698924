import test from 'ava';
import fc from 'fast-check';
import { ProtocolError } from '../../src/errors.ts';
import { CODEC_NAMES, codecFor, type CodecName } from '../../src/galore/codec/codec.ts';
import {
  checkRows,
  encodeRows,
  openRows,
  rowsBytes,
  rowsIn,
  scatterRows,
  touchedRows,
} from '../../src/galore/rows.ts';
import type { RowSparseSlot } from '../../src/galore/slot.ts';
import { CLOSE_CODES } from '../../src/protocol/close-codes.ts';
import { derive, randomNormal } from '../../src/random.ts';

const KEY = derive(3, 'rows');

function slotOf(rows: number, columns: number, mostRows = rows): RowSparseSlot {
  const name = 'model.embed_tokens.weight';
  return { name, shape: [rows, columns], index: 0, policy: 'row-sparse', rule: 'adamw', mostRows };
}

function normals(count: number): Float32Array {
  return Float32Array.from({ length: count }, (_, i) => randomNormal(KEY, i));
}

test('rows are their number, which they are, and their numbers', (t) => {
  const bytes = encodeRows('f32', Uint32Array.of(2, 5), Float32Array.of(1, 2, -3, 4), KEY);
  t.deepEqual(bytes.subarray(0, 12), Uint8Array.of(2, 0, 0, 0, 2, 0, 0, 0, 5, 0, 0, 0));
  t.deepEqual(new Float32Array(bytes.slice(12).buffer), Float32Array.of(1, 2, -3, 4));
  const matrix = scatterRows(slotOf(6, 2), 'f32', bytes, new Float32Array(20).fill(9));
  t.deepEqual(matrix, Float32Array.of(0, 0, 0, 0, 1, 2, 0, 0, 0, 0, -3, 4));
});

test('in every codec the numbers of the rows are those of the codec, at any offset of a buffer', (t) => {
  for (const codec of CODEC_NAMES) {
    for (const count of [0, 1, 3, 40]) {
      const slot = slotOf(100, 33);
      const rows = Uint32Array.from({ length: count }, (_, i) => 2 * i + 1);
      const values = normals(33 * count);
      const bytes = encodeRows(codec, rows, values, KEY);
      t.is(bytes.length, rowsBytes(slot, codec, count));
      const moved = new Uint8Array(bytes.length + 1);
      moved.set(bytes, 1);
      const opened = openRows(slot, codec, moved.subarray(1));
      t.deepEqual(opened.rows, rows);
      t.deepEqual(opened.numbers, codecFor(codec).encode(values, KEY));
      const matrix = scatterRows(slot, codec, moved.subarray(1), new Float32Array(3300));
      const decoded = codecFor(codec).decode(opened.numbers, values.length);
      rows.forEach((row, i) =>
        t.deepEqual(matrix.slice(33 * row, 33 * row + 33), decoded.slice(33 * i, 33 * i + 33)),
      );
      t.is(matrix.filter((x) => x !== 0).length, decoded.filter((x) => x !== 0).length);
    }
  }
});

test('a length says how many rows there are, and no other is one', (t) => {
  for (const codec of CODEC_NAMES) {
    const slot = slotOf(300, 65, 70);
    const lengths = Array.from({ length: 71 }, (_, count) => rowsBytes(slot, codec, count));
    for (let length = 0; length <= lengths.at(-1)! + 300; length++) {
      const count = lengths.indexOf(length);
      t.is(rowsIn(slot, codec, length), count < 0 ? null : count);
    }
  }
});

test('touched rows are the tokens of all lists, each once, ascending by number', (t) => {
  t.deepEqual(touchedRows([Int32Array.of(10, 9, 10), Int32Array.of(100, 9)]), Uint32Array.of(9, 10, 100));
  t.deepEqual(touchedRows([]), new Uint32Array(0));
});

test('what is not rows of the matrix is refused with the reason', (t) => {
  const slot = slotOf(6, 2, 3);
  const header = (...numbers: number[]): Uint8Array => new Uint8Array(Uint32Array.from(numbers).buffer);
  const rowsOf = (...rows: number[]): Uint8Array =>
    encodeRows('f32', Uint32Array.from(rows), new Float32Array(2 * rows.length), KEY);
  const notFinite = rowsOf(1);
  new DataView(notFinite.buffer).setFloat32(8, Infinity, true);
  const cases: [Uint8Array, RegExp][] = [
    [new Uint8Array(3), /rows of model\.embed_tokens\.weight: 3 bytes have no number of rows/],
    [header(0xffffffff), /4294967295 rows are more than 3/],
    [rowsOf(0, 1, 2, 3), /4 rows are more than 3/],
    [header(2, 0), /2 rows as f32 take 28 bytes, not 8/],
    [Uint8Array.of(...rowsOf(1), 0), /1 rows as f32 take 16 bytes, not 17/],
    [rowsOf(6), /row 6 is not one of its 6/],
    [rowsOf(0xffffffff), /row 4294967295 is not one of its 6/],
    [rowsOf(4, 3), /row 3 follows row 4/],
    [rowsOf(4, 4), /row 4 follows row 4/],
    [notFinite, /number 0 of 2 is Infinity/],
  ];
  for (const [bytes, message] of cases) {
    const error = t.throws(() => checkRows(slot, 'f32', bytes), { instanceOf: ProtocolError, message });
    t.is(error?.closeCode, CLOSE_CODES.MALFORMED_MESSAGE.code);
  }
});

test('whatever bytes come, they are finite rows of the matrix or a ProtocolError', (t) => {
  const slot = slotOf(9, 5, 7);
  const codec = fc.constantFrom<CodecName>(...CODEC_NAMES);
  const rows = fc.uniqueArray(fc.nat(9), { maxLength: 8 }).map((list) => Uint32Array.from(list).sort());
  // Rows that are right or nearly so, some bytes of them changed.
  const change = fc.record({ at: fc.nat(400), byte: fc.nat(255) });
  fc.assert(
    fc.property(codec, rows, fc.array(change, { maxLength: 3 }), fc.nat(3), (name, list, changes, cut) => {
      const bytes = encodeRows(name, list, normals(5 * list.length), KEY);
      for (const { at, byte } of changes) if (at < bytes.length) bytes[at] = byte;
      const given = bytes.subarray(0, bytes.length - (cut === 3 ? 1 : 0));
      try {
        checkRows(slot, name, given);
      } catch (error) {
        if (!(error instanceof ProtocolError)) throw error;
        return;
      }
      const opened = openRows(slot, name, given);
      const matrix = scatterRows(slot, name, given, new Float32Array(45));
      t.true(matrix.every(Number.isFinite));
      t.true(opened.rows.every((row, i) => row < 9 && (i === 0 || row > opened.rows[i - 1]!)));
    }),
    { numRuns: 500 },
  );
  fc.assert(
    fc.property(codec, fc.uint8Array({ maxLength: 64 }), (name, bytes) => {
      try {
        checkRows(slot, name, bytes);
      } catch (error) {
        if (!(error instanceof ProtocolError)) throw error;
      }
    }),
  );
  t.pass();
});
