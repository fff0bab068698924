import test from 'ava';
import '@tensorflow/tfjs-node-gpu';
import * as tf from '@tensorflow/tfjs-core';
import { TensorShapeError } from '../../../src/errors.ts';
import { WeightStore } from '../../../src/trainer/model/weights.ts';

const a = { name: 'a', shape: [2, 2], values: Float32Array.of(1, 2, 3, 4) };
const b = { name: 'b', shape: [3], values: Float32Array.of(5, 6, 7) };

test('weights are found by name, in the order given, until the store is disposed', (t) => {
  const before = tf.memory().numTensors;
  const store = WeightStore.fromArrays([b, a]);
  t.deepEqual(store.names(), ['b', 'a']);
  t.deepEqual(store.get('a').arraySync(), [[1, 2], [3, 4]]); // prettier-ignore
  store.dispose();
  t.is(tf.memory().numTensors, before);
  t.throws(() => store.get('a'), { instanceOf: TensorShapeError });
});

test('setting a weight disposes the old one and keeps the new one through a tidy', (t) => {
  const store = WeightStore.fromArrays([a, b]);
  const old = store.get('a');
  const before = tf.memory().numTensors;
  tf.tidy(() => store.set('a', tf.mul(store.get('a'), 2)));
  t.true(old.isDisposed);
  t.is(tf.memory().numTensors, before);
  t.deepEqual([...store.get('a').dataSync()], [2, 4, 6, 8]);
  store.set('a', store.get('a'));
  t.false(store.get('a').isDisposed);
  store.dispose();
});

test('a weight with a source is a tensor only from when it is asked for until it is released', (t) => {
  const before = tf.memory().numTensors;
  const source = { shape: [2], bytes: 7, materialise: () => tf.tensor1d([1, 2]) };
  const store = WeightStore.fromArrays([{ name: 'c', source }, a]);
  t.deepEqual(store.names(), ['c', 'a']);
  t.deepEqual(store.shapeOf('c'), [2]);
  t.is(store.bytesOf('c'), 7);
  t.is(tf.memory().numTensors, before + 1);
  const made = tf.tidy(() => store.get('c'));
  t.is(store.get('c'), made, 'made once');
  t.deepEqual([...made.dataSync()], [1, 2]);
  store.release();
  t.true(made.isDisposed);
  t.false(store.get('a').isDisposed);
  t.throws(() => store.set('c', { ...source, shape: [3] }), { message: 'c is [2], not [3]' });
  const again = store.get('c');
  store.set('c', tf.tensor1d([3, 4]));
  t.true(again.isDisposed);
  t.is(store.sourceOf('c'), null);
  store.release();
  t.deepEqual([...store.get('c').dataSync()], [3, 4], 'a tensor stays');
  store.set('a', { ...source, shape: [2, 2] });
  store.get('c');
  store.dispose();
  t.is(tf.memory().numTensors, before);
});

test('a weight of another shape or name is refused and changes nothing', (t) => {
  const store = WeightStore.fromArrays([a, b]);
  const other = tf.zeros([4]);
  t.throws(() => store.set('a', other), { instanceOf: TensorShapeError, message: 'a is [2, 2], not [4]' });
  t.throws(() => store.set('c', other), { instanceOf: TensorShapeError });
  t.deepEqual([...store.get('a').dataSync()], [1, 2, 3, 4]);
  other.dispose();
  store.dispose();
});

test('arrays that do not fit their shape and repeated names are refused without leaving a tensor', (t) => {
  const before = tf.memory().numTensors;
  t.throws(() => WeightStore.fromArrays([a, { ...b, shape: [4] }]), {
    instanceOf: TensorShapeError,
    message: 'b has 3 values; its shape [4] needs 4',
  });
  t.throws(() => WeightStore.fromArrays([a, a]), {
    instanceOf: TensorShapeError,
    message: 'a is there twice',
  });
  t.is(tf.memory().numTensors, before);
});

test('weights may come one by one', async (t) => {
  const before = tf.memory().numTensors;
  const counts: number[] = [];
  async function* stream(): AsyncGenerator<typeof a> {
    for (const weight of [b, a]) {
      counts.push(tf.memory().numTensors - before);
      yield weight;
    }
  }
  const store = await WeightStore.fromStream(stream());
  t.deepEqual(counts, [0, 1], 'each is on the engine before the next is asked for');
  t.deepEqual(store.names(), ['b', 'a']);
  t.deepEqual([...store.get('a').dataSync()], [1, 2, 3, 4]);
  t.is(tf.memory().numTensors, before + 2);
  store.dispose();
});

test('a stream that breaks off leaves no tensor', async (t) => {
  const before = tf.memory().numTensors;
  async function* stream(): AsyncGenerator<typeof a> {
    yield a;
    throw new RangeError('cut short');
  }
  await t.throwsAsync(WeightStore.fromStream(stream()), { message: 'cut short' });
  await t.throwsAsync(WeightStore.fromStream((async function* () { yield a; yield a; })()), { message: 'a is there twice' }); // prettier-ignore
  t.is(tf.memory().numTensors, before);
});
