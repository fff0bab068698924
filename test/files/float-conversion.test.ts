import test from 'ava';
import fc from 'fast-check';
import { convertFromFloat32, convertToFloat32, type StoredDtype } from '../../src/files/float-conversion.ts';

/** Bits of values converted, and the index of the first that does not fit. */
function bitsOf(dtype: StoredDtype, ...values: number[]): number[] {
  const bytes = new Uint8Array(2 * values.length);
  const overflow = convertFromFloat32(dtype, new Float32Array(values), bytes);
  return overflow === -1 ? [...new Uint16Array(bytes.buffer)] : [-1, overflow];
}

/** Every 16-bit pattern as float32. */
function everyValue(dtype: 'F16' | 'BF16'): Float32Array {
  const values = new Float32Array(65536);
  convertToFloat32(dtype, new Uint8Array(Uint16Array.from(values, (_, i) => i).buffer), values, 0);
  return values;
}

for (const dtype of ['F16', 'BF16'] as const) {
  const values = everyValue(dtype);
  const infinity = dtype === 'F16' ? 0x7c00 : 0x7f80;

  test(`${dtype}: each of its numbers goes to float32 and back`, (t) => {
    for (const sign of [0, 0x8000]) {
      const range = Array.from({ length: infinity + 1 }, (_, i) => sign + i);
      t.deepEqual(bitsOf(dtype, ...range.map((bits) => values[bits]!)), range);
    }
    t.true(Number.isNaN(values[bitsOf(dtype, NaN)[0]!]));
  });

  test(`${dtype}: between two of its numbers the nearer is taken, half-way the even one`, (t) => {
    const words = new Uint32Array(1);
    const asFloat = new Float32Array(words.buffer);
    const next = (value: number, by: number): number => {
      asFloat[0] = value;
      words[0] = words[0]! + by; // the float32 above or below a positive one
      return asFloat[0];
    };
    for (let bits = 0; bits < infinity - 1; bits++) {
      const middle = (values[bits]! + values[bits + 1]!) / 2; // exact in float32 but among bfloat16 subnormals
      if (Math.fround(middle) !== middle) continue;
      const even = bits % 2 === 0 ? bits : bits + 1;
      const got = bitsOf(dtype, middle, -middle, next(middle, -1), next(middle, 1));
      if (got.join() !== [even, even | 0x8000, bits, bits + 1].join()) t.fail(`${bits}: ${got.join()}`);
    }
    t.pass();
  });

  test(`${dtype}: the nearest of all its numbers, for any float32`, (t) => {
    const finite = values.filter((value) => Number.isFinite(value)).sort();
    const nearest = (value: number): number => {
      let [low, high] = [0, finite.length - 1];
      while (high - low > 1) {
        const at = (low + high) >> 1;
        if (finite[at]! <= value) low = at;
        else high = at;
      }
      return Math.min(Math.abs(finite[low]! - value), Math.abs(finite[high]! - value));
    };
    const greatest = finite.at(-1)!;
    fc.assert(
      fc.property(fc.float({ min: -greatest, max: greatest, noNaN: true }), (value) => {
        const [bits] = bitsOf(dtype, value);
        t.is(Math.abs(values[bits!]! - value), nearest(value));
      }),
    );
  });
}

test('a finite number that would become infinite is pointed at', (t) => {
  t.deepEqual(bitsOf('F16', 65519), [0x7bff], 'rounds down to 65504');
  t.deepEqual(bitsOf('F16', 1, -65520), [-1, 1]);
  t.deepEqual(bitsOf('F16', 1e30), [-1, 0]);
  t.deepEqual(bitsOf('F16', Infinity, -Infinity), [0x7c00, 0xfc00]);
  const greatest = 2 ** 128 - 2 ** 104;
  t.deepEqual(bitsOf('BF16', 1, 2, greatest), [-1, 2]);
  t.deepEqual(bitsOf('BF16', Infinity), [0x7f80]);
});

test('float32 stays as it is, at any alignment', (t) => {
  const bytes = new Uint8Array(9).subarray(1);
  t.is(convertFromFloat32('F32', new Float32Array([1, -0]), bytes), -1);
  t.deepEqual([...bytes], [0, 0, 0x80, 0x3f, 0, 0, 0, 0x80]);
});
