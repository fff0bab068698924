import test from 'ava';
import { ProtocolError } from '../../../src/errors.ts';
import { clipFactor, sumEncoded, type EncodedPart } from '../../../src/galore/aggregate/mean.ts';
import { codecFor, type CodecName } from '../../../src/galore/codec/codec.ts';
import { derive, randomNormal } from '../../../src/random.ts';

function normals(count: number, label: number): Float32Array {
  const key = derive(4, label);
  return Float32Array.from({ length: count }, (_, i) => randomNormal(key, i));
}

function part(values: Float32Array, name: CodecName, weight: number): EncodedPart {
  const codec = codecFor(name);
  return { bytes: codec.encode(values, derive(5, name)), codec, weight };
}

/** Sum and squared norm straight from the definition. */
function sumPlainly(parts: readonly EncodedPart[], count: number): { sum: number[]; squaredNorm: number } {
  const decoded = parts.map(({ bytes, codec }) => {
    const values = new Float64Array(count);
    codec.decodeRange(bytes, count, 0, count, values);
    return values;
  });
  const sum = Array.from({ length: count }, (_, i) =>
    parts.reduce((total, { weight }, p) => total + weight * decoded[p]![i]!, 0),
  );
  return { sum, squaredNorm: sum.reduce((total, x) => total + x * x, 0) };
}

test('the sum is that of the decoded numbers times their weights, over block borders', (t) => {
  for (const count of [1, 255, 8191, 8192, 8193, 20_001]) {
    const parts = [
      part(normals(count, 1), 'int8', 0.5),
      part(normals(count, 2), 'f32', 0.3),
      part(normals(count, 3), 'int8', 0.2),
    ];
    const want = sumPlainly(parts, count);
    const { sum, squaredNorm } = sumEncoded(parts, count);
    t.true(sum.every((x, i) => Math.abs(x - want.sum[i]!) <= 1e-7 * (1 + Math.abs(want.sum[i]!))));
    t.true(Math.abs(squaredNorm / want.squaredNorm - 1) < 1e-12);
  }
});

test('equal parts whose weights add up to one give the part back, bit by bit', (t) => {
  const values = normals(1000, 6);
  const { sum } = sumEncoded(
    [0.25, 0.25, 0.5].map((weight) => part(values, 'f32', weight)),
    1000,
  );
  t.deepEqual(sum, values);
});

test('the sum is in f64: what f32 would lose is kept', (t) => {
  const parts = [1e8, 1, -1e8].map((x) => part(Float32Array.of(x), 'f32', 1));
  t.deepEqual(sumEncoded(parts, 1).sum, Float32Array.of(1));
});

test('parts sorted by trainer give the same bytes in whatever order they arrived', (t) => {
  const arrived = ['c', 'a', 'b', 'e', 'd'].map((id, i) => ({
    id,
    part: part(normals(5000, i), 'int8', 0.2),
  }));
  const sorted = (all: typeof arrived) =>
    all.toSorted((x, y) => (x.id < y.id ? -1 : 1)).map(({ part: one }) => one);
  const encode = (all: typeof arrived) =>
    codecFor('int8').encode(sumEncoded(sorted(all), 5000).sum, derive(1, 'update'));
  t.deepEqual(encode(arrived), encode(arrived.toReversed()));
});

test('no parts sum to zero, and a given array is filled whatever it held', (t) => {
  const out = new Float32Array(5).fill(7);
  const result = sumEncoded([], 5, out);
  t.is(result.sum, out);
  t.deepEqual(result, { sum: new Float32Array(5), squaredNorm: 0 });
});

test('a part of a wrong length or with numbers that are not finite is refused', (t) => {
  const good = part(normals(10, 1), 'f32', 0.5);
  const short = { ...good, bytes: good.bytes.subarray(4) };
  t.throws(() => sumEncoded([good, short], 10), { instanceOf: ProtocolError, message: /not 36/ });
  const bytes = good.bytes.slice();
  new DataView(bytes.buffer).setFloat32(8, NaN, true);
  t.throws(() => sumEncoded([good, { ...good, bytes }], 10), {
    instanceOf: ProtocolError,
    message: /number 2 of 10 is NaN/,
  });
  t.throws(() => sumEncoded([{ ...good, weight: NaN }], 10), { instanceOf: RangeError });
});

test('a norm within the limit is left alone and one above it is scaled down to it', (t) => {
  t.is(clipFactor(0.5, 1), 1);
  t.is(clipFactor(0, 1), 1);
  t.true(Math.abs(clipFactor(4, 1) * 4 - 1) < 1e-6);
  t.throws(() => clipFactor(NaN, 1), { instanceOf: RangeError });
});
