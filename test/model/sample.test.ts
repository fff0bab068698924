import test from 'ava';
import { checkSampleOptions, sampleToken } from '../../src/model/sample.ts';

const ALL = { temperature: 1, topK: 0, topP: 1 };

/** Logits of the probabilities 0.1, 0.5, 0.1, 0.3. */
const logits = Float32Array.of(Math.log(0.1), Math.log(0.5), Math.log(0.1), Math.log(0.3));

/** The tokens that 1000 evenly spaced draws give, counted. */
function countsOf(options: typeof ALL, from = logits): number[] {
  const counts = Array.from(from, () => 0);
  for (let i = 0; i < 1000; i++) counts[sampleToken(from, options, (i + 0.5) / 1000)]! += 1;
  return counts;
}

test('temperature 0 gives the most likely token, the first of equals', (t) => {
  t.is(sampleToken(logits, { ...ALL, temperature: 0 }, 0.99), 1);
  t.is(sampleToken(Float32Array.of(1, 3, 3), { ...ALL, temperature: 0 }, 0), 1);
});

test('temperature 1 draws from the distribution of the model', (t) => {
  t.deepEqual(countsOf(ALL), [100, 500, 100, 300]);
});

test('a low temperature favours likely tokens', (t) => {
  // at 0.5 the weights are squared: 1, 25, 1, 9 of 36
  t.deepEqual(
    countsOf({ ...ALL, temperature: 0.5 }).map((count) => Math.round((count * 36) / 1000)),
    [1, 25, 1, 9],
  );
});

test('top-k keeps the k most likely', (t) => {
  t.deepEqual(countsOf({ ...ALL, topK: 2 }), [0, 625, 0, 375]);
  t.deepEqual(countsOf({ ...ALL, topK: 1 }), [0, 1000, 0, 0]);
  t.deepEqual(countsOf({ ...ALL, topK: 3 }), [111, 556, 0, 333]);
});

test('top-p keeps the fewest tokens that reach the sum', (t) => {
  t.deepEqual(countsOf({ ...ALL, topP: 0.4 }), [0, 1000, 0, 0]);
  t.deepEqual(countsOf({ ...ALL, topP: 0.7 }), [0, 625, 0, 375]);
  t.deepEqual(countsOf({ ...ALL, topP: 1e-9 }), [0, 1000, 0, 0]);
});

test('top-p counts within what top-k left', (t) => {
  // of 0.625 and 0.375 the first alone reaches 0.6
  t.deepEqual(countsOf({ ...ALL, topK: 2, topP: 0.6 }), [0, 1000, 0, 0]);
});

test('extreme logits and draws stay within the vocabulary', (t) => {
  const extreme = Float32Array.of(-1e30, 0, 1e30, 1e30);
  t.is(sampleToken(extreme, ALL, 0), 2);
  t.is(sampleToken(extreme, ALL, 1 - 2 ** -32), 3);
  t.is(sampleToken(Float32Array.of(-1e30, 0), ALL, 0), 1);
});

test('logits that are not finite are refused', (t) => {
  t.throws(() => sampleToken(Float32Array.of(1, NaN), ALL, 0), { instanceOf: RangeError });
});

test('options that mean nothing are refused', (t) => {
  checkSampleOptions(ALL);
  for (const change of [
    { temperature: -1 },
    { temperature: NaN },
    { topK: 1.5 },
    { topK: -1 },
    { topP: 0 },
    { topP: 1.1 },
  ]) {
    t.throws(
      () => checkSampleOptions({ ...ALL, ...change }),
      { instanceOf: RangeError },
      JSON.stringify(change),
    );
  }
});
