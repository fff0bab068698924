import test from 'ava';
import fc from 'fast-check';
import { sequenceAt, siteOrder } from '../../src/files/order.ts';

const epoch = (count: number, seed: number, number: number): number[] =>
  Array.from({ length: count }, (_, i) => sequenceAt(number * count + i, count, seed, 'shuffled'));

test('every epoch uses each sequence once', (t) => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 700 }), fc.nat(0xffffffff), fc.nat(20), (count, seed, number) => {
      const seen = epoch(count, seed, number).toSorted((a, b) => a - b);
      return seen.every((index, i) => index === i);
    }),
    { numRuns: 60 },
  );
  t.pass();
});

test('the same position, count and seed always give the same sequence', (t) => {
  t.deepEqual(epoch(100, 7, 3), epoch(100, 7, 3));
  t.deepEqual(epoch(10, 7, 0), [9, 6, 0, 8, 5, 1, 2, 3, 4, 7], 'a change here changes every run');
});

test('epochs and seeds have orders of their own', (t) => {
  t.notDeepEqual(epoch(100, 7, 0), epoch(100, 7, 1));
  t.notDeepEqual(epoch(100, 7, 0), epoch(100, 8, 0));
});

test('every sequence comes equally often at every place', (t) => {
  // 12 sequences over 6000 epochs: each (place, sequence) is expected 500 times. Chi-square with
  // 11 * 11 = 121 degrees of freedom has a mean of 121 and a standard deviation of 15.6.
  const count = 12;
  const epochs = 6000;
  const seen = new Float64Array(count * count);
  for (let e = 0; e < epochs; e++) {
    epoch(count, 3, e).forEach((index, place) => {
      seen[place * count + index]!++;
    });
  }
  const expected = epochs / count;
  const chiSquare = seen.reduce((sum, n) => sum + (n - expected) ** 2 / expected, 0);
  t.true(chiSquare < 121 + 5 * 15.6, `chi-square is ${chiSquare}`);
});

test('neighbours in the order are no neighbours in the data', (t) => {
  const count = 5000;
  const order = epoch(count, 1, 0);
  const close = order.filter((index, i) => i > 0 && Math.abs(index - order[i - 1]!) <= 10).length;
  t.true(close < 60, `${close} of ${count} steps are short; chance gives about 20`);
});

test('sequential order counts up and starts again with each epoch', (t) => {
  t.deepEqual(
    Array.from({ length: 7 }, (_, i) => sequenceAt(i, 3, 99, 'sequential')),
    [0, 1, 2, 0, 1, 2, 0],
  );
});

test('a count beyond 32 bits and positions after many epochs stay in range', (t) => {
  const count = 2 ** 40 + 12345;
  for (let i = 0; i < 1000; i++) {
    const index = sequenceAt(count * 3 + i * 1_000_003, count, 5, 'shuffled');
    if (!Number.isInteger(index) || index < 0 || index >= count) t.fail(`index ${index}`);
  }
  t.pass();
});

test('a position or count that makes no sense is refused', (t) => {
  for (const count of [0, -1, 1.5, Number.NaN, Infinity]) {
    t.throws(() => sequenceAt(0, count, 0, 'shuffled'), { instanceOf: RangeError });
  }
  for (const position of [-1, 0.5, Number.NaN, 2 ** 53]) {
    t.throws(() => sequenceAt(position, 4, 0, 'shuffled'), { instanceOf: RangeError });
  }
});

test('the steps of a site use each of its examples once an epoch, also across a step and with few examples', (t) => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 60 }),
      fc.integer({ min: 1, max: 40 }),
      fc.nat(0xffffffff),
      (count, batch, seed) => {
        const orderOf = siteOrder(seed, count);
        const steps = Math.ceil((2 * count) / batch);
        const used = Array.from({ length: steps }, (_, k) => orderOf(k, batch)).flat();
        for (const start of [0, count]) {
          const seen = used.slice(start, start + count).toSorted((a, b) => a - b);
          if (!seen.every((index, i) => index === i)) return false;
        }
        return used.length === steps * batch;
      },
    ),
    { numRuns: 60 },
  );
  const orderOf = siteOrder(7, 3);
  t.is(orderOf(4, 8).length, 8);
  t.deepEqual(orderOf(4, 8), siteOrder(7, 3)(4, 8), 'nothing has to be remembered');
  t.notDeepEqual(siteOrder(7, 100)(0, 100), siteOrder(7, 100)(1, 100), 'epochs differ');
});
