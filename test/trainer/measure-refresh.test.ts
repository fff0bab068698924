import test from 'ava';
import { measureRefresh, syntheticGradients } from '../../src/trainer/measure-refresh.ts';
import { tf } from '../galore/tensors.ts';

const QUESTION = { rank: 12, oversample: 8, powerIterations: 1, repeats: 1 };

for (const [rows, cols] of [
  [48, 80],
  [80, 48],
] as const) {
  test(`a refresh of ${rows} x ${cols} is timed and its basis compared with the best`, (t) => {
    const pair = syntheticGradients(rows, cols);
    const before = tf.memory().numTensors;
    const found = measureRefresh(pair, QUESTION);
    t.is(tf.memory().numTensors, before);
    t.like(found, { name: 'synthetic', rows, cols, rank: 12 });
    t.true(found.bestShare > 0.5 && found.bestShare < 1);
    t.true(Math.abs(found.exact.capturedShare - 1) < 1e-4);
    for (const way of [found.cold, found.warm!]) {
      t.true(way.capturedShare > 0.98 && way.capturedShare < 1.0001, `${way.capturedShare}`);
      t.true(way.capturedShare > found.earlierCapturedShare);
      t.is(way.ratio, found.svdMs / way.ms);
    }
    tf.dispose([pair.gradient, pair.earlier]);
  });
}

test('more power iterations are better, and without them there is no warm start', (t) => {
  const pair = syntheticGradients(48, 80);
  const [q0, q1, q2] = [0, 1, 2].map((powerIterations) =>
    measureRefresh(pair, { ...QUESTION, powerIterations }),
  );
  t.is(q0!.warm, null);
  t.true(q0!.cold.capturedShare < q1!.cold.capturedShare);
  t.true(q1!.warm!.capturedShare < q2!.warm!.capturedShare);
  tf.dispose([pair.gradient, pair.earlier]);
});
