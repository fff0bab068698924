import test from 'ava';
import { NotFiniteError, ProtocolError } from '../../../src/errors.ts';
import { clipFactor, encodeSum, sumEncoded, type EncodedPart } from '../../../src/galore/aggregate/mean.ts';
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

test('the norm can be of the first numbers alone, wherever they end', (t) => {
  const count = 20_001;
  const parts = [part(normals(count, 1), 'bf16', 0.5), part(normals(count, 2), 'f32', 0.5)];
  const { sum } = sumPlainly(parts, count);
  for (const normed of [0, 1, 8191, 8192, 8193, 20_000, count]) {
    const writer = codecFor('f32').writer(count, derive(5, 'sum'));
    const want = sum.slice(0, normed).reduce((total, x) => total + x * x, 0);
    const got = encodeSum(parts, count, writer, 1, normed);
    t.true(Math.abs(got - want) <= 1e-6 * want, `${normed}: ${got}, not ${want}`);
    t.deepEqual(writer.bytes, codecFor('f32').encode(sumEncoded(parts, count).sum, derive(5, 'sum')));
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

test('no parts sum to zero', (t) => {
  t.deepEqual(sumEncoded([], 5), { sum: new Float32Array(5), squaredNorm: 0 });
});

test('summing and encoding in one pass gives the bytes of one after the other', (t) => {
  for (const codec of ['int8', 'f32'] as const) {
    for (const count of [300, 8192, 20_001]) {
      const parts = [part(normals(count, 1), 'int8', 0.75), part(normals(count, 2), 'f32', 0.25)];
      const { sum, squaredNorm } = sumEncoded(parts, count);
      const key = derive(6, codec);
      for (const factor of [1, 0.3]) {
        const writer = codecFor(codec).writer(count, key);
        t.is(encodeSum(parts, count, writer, factor), squaredNorm);
        const scaled = sum.map((x) => x * factor);
        t.deepEqual(writer.bytes, codecFor(codec).encode(scaled, key));
      }
    }
  }
});

test('a sum beyond f32 is refused with the place of its number', (t) => {
  const values = new Float32Array(9000).fill(1);
  values[8500] = 3e38;
  const parts = [part(values, 'f32', 1), part(values, 'f32', 1)];
  for (const codec of ['int8', 'f32'] as const) {
    const writer = codecFor(codec).writer(9000, derive(6, codec));
    const message = /number 8500 of 9000 is Infinity/;
    t.throws(() => encodeSum(parts, 9000, writer), { instanceOf: NotFiniteError, message });
  }
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
