import test from 'ava';
import fc from 'fast-check';
import {
  derive,
  mix32,
  randomNormal,
  randomSign,
  randomSigns,
  randomUint32,
  randomUniform,
} from '../src/random.ts';

const MASK = 0xffffffffn;

/** The permutation again, in arbitrary-precision integers. */
function mix32Plainly(x: bigint): bigint {
  x = ((x ^ (x >> 16n)) * 0x21f0aaadn) & MASK;
  x = ((x ^ (x >> 15n)) * 0xd35a2d97n) & MASK;
  return x ^ (x >> 15n);
}

const uint32 = fc.nat(0xffffffff);

test('mix32 is the published permutation', (t) => {
  fc.assert(fc.property(uint32, (x) => BigInt(mix32(x)) === mix32Plainly(BigInt(x))));
  t.is(mix32(1), Number(mix32Plainly(1n)));
});

test('number i of a stream is the hash of key and i that another implementation computes', (t) => {
  fc.assert(
    fc.property(uint32, uint32, uint32, (low, high, index) => {
      const inner = mix32Plainly(BigInt(index) ^ BigInt(low));
      const want = mix32Plainly((inner + BigInt(high)) & MASK);
      return BigInt(randomUint32({ low, high }, index)) === want;
    }),
  );
  t.pass();
});

test('streams do not change between releases', (t) => {
  const key = derive(42, 'omega', 17, 3);
  t.deepEqual(
    [0, 1, 2, 0xffffffff].map((index) => randomUint32(key, index)),
    [3280490889, 3352276388, 1194302056, 810384628],
  );
});

test('labels that differ name different streams', (t) => {
  const keys = [
    derive(1, 'a', 'b'),
    derive(1, 'ab'),
    derive(1, 'b', 'a'),
    derive(2, 'a', 'b'),
    derive(1, 'a'),
    derive(1),
    derive(1, 0),
    derive(1, '0'),
    derive(1, 1),
    derive(1, 2 ** 32),
    derive(1, 2 ** 32 + 1),
  ];
  t.is(new Set(keys.map(({ low, high }) => `${low} ${high}`)).size, keys.length);
});

test('uniform numbers lie in [0, 1) and have the moments of a uniform distribution', (t) => {
  const count = 100_000;
  const key = derive(3, 'uniform');
  let sum = 0;
  let squares = 0;
  for (let i = 0; i < count; i++) {
    const u = randomUniform(key, i);
    if (!(u >= 0 && u < 1)) t.fail(`number ${i} is ${u}`);
    sum += u;
    squares += u * u;
  }
  const error = Math.sqrt(1 / 12 / count); // of the mean
  t.true(Math.abs(sum / count - 0.5) < 4 * error);
  t.true(Math.abs(squares / count - 1 / 3) < 4 * error);
});

test('signs are +1 or -1, half of each, and streams of neighbouring steps are not correlated', (t) => {
  const count = 100_000;
  let sum = 0;
  let product = 0;
  for (let i = 0; i < count; i++) {
    const sign = randomSign(derive(5, 'step', 1), i);
    if (sign !== 1 && sign !== -1) t.fail(String(sign));
    sum += sign;
    product += sign * randomSign(derive(5, 'step', 2), i);
  }
  t.true(Math.abs(sum) < 4 * Math.sqrt(count));
  t.true(Math.abs(product) < 4 * Math.sqrt(count));
});

test('normal numbers have mean 0, variance 1 and fourth moment 3', (t) => {
  const count = 100_000;
  const key = derive(9, 'normal');
  const moments = [0, 0, 0, 0, 0];
  for (let i = 0; i < count; i++) {
    const x = randomNormal(key, i);
    for (let power = 1; power <= 4; power++) moments[power]! += x ** power / count;
  }
  t.true(Math.abs(moments[1]!) < 4 * Math.sqrt(1 / count));
  t.true(Math.abs(moments[2]! - 1) < 4 * Math.sqrt(2 / count));
  t.true(Math.abs(moments[4]! - 3) < 4 * Math.sqrt(96 / count));
});

test('many signs at once are those made one by one', (t) => {
  for (const key of [derive(1), derive(7, 'omega', 201, 3), derive(0xffffffff, 'x')]) {
    t.deepEqual(
      randomSigns(key, 1000),
      Float32Array.from({ length: 1000 }, (_, i) => randomSign(key, i)),
    );
  }
});
