import test from 'ava';
import '@tensorflow/tfjs-node-gpu';
import * as tf from '@tensorflow/tfjs-core';
import { parameterTable, type Parametrisation } from '../../src/galore/parametrisation/parametrisation.ts';
import { buildSlots } from '../../src/galore/slot.ts';
import { WeightStore } from '../../src/trainer/model/weights.ts';
import { slotGradients, weightMaker } from '../../src/trainer/parameters.ts';
import { slotOptions } from '../helpers/slot-options.ts';

/** Two matrices that are one shared part, twice and three times, and a tensor that is not trained. */
const SHARED = { name: 'shared', shape: [2], isTrained: true };
const FACTOR: Readonly<Record<string, number>> = { a: 2, b: 3 };
const TIED: Parametrisation = {
  treat: ({ name }) => (name === 'c' ? 'frozen' : [SHARED]),
  initialise: () => new Float32Array(2),
  materialise: ({ made, values }) => tf.mul(values[0]!, FACTOR[made.tensor.name]!),
  pullback: (gradient, { made }) => [tf.mul(gradient, FACTOR[made.tensor.name]!)],
};
const MODEL = ['a', 'b', 'c'].map((name) => ({ name, shape: [2] }));

test('the gradient of a part of several tensors comes once, when the last of them has come, and is their sum', (t) => {
  const table = parameterTable(MODEL, TIED);
  t.deepEqual(
    table.parts.map(({ name }) => name),
    ['shared', 'c'],
  );
  const slots = buildSlots(table.parts, slotOptions('full', 1));
  const store = WeightStore.fromArrays(
    table.parts.map(({ name, shape }) => ({ name, shape, values: Float32Array.of(1, 10) })),
  );
  store.makeWith(weightMaker(table));
  const before = tf.memory().numTensors;
  const taken: unknown[] = [];
  const { onGradient, wants } = slotGradients(table, slots, store, (slot, gradient) =>
    taken.push([slot.name, [...gradient.dataSync()]]),
  );
  t.deepEqual(['a', 'b', 'c'].map(wants), [true, true, false]);
  for (const [name, ...values] of [
    ['b', 1, 0],
    ['a', 10, 100],
  ] as const) {
    const gradient = tf.tensor1d(values);
    onGradient(name, gradient);
    gradient.dispose();
  }
  t.deepEqual(taken, [['shared', [1 * 3 + 10 * 2, 100 * 2]]]);
  t.is(tf.memory().numTensors, before);
  store.dispose();
});

test('a store makes weights of its parts until they are released, and then of what the parts are then', (t) => {
  const table = parameterTable(MODEL, TIED);
  const store = WeightStore.fromArrays(
    table.parts.map(({ name, shape }) => ({ name, shape, values: Float32Array.of(1, 10) })),
  );
  // The parts' names are what a store knows; the model's are made.
  const own = tf.memory().numTensors;
  store.makeWith(weightMaker(table));
  t.deepEqual([...store.get('b').dataSync()], [3, 30]);
  t.is(store.get('b'), store.get('b'));
  t.deepEqual(store.shapeOf('b'), [2]);
  t.deepEqual([...store.part('shared').dataSync()], [1, 10]);
  store.set('shared', tf.tensor1d([2, 20]));
  t.deepEqual([...store.get('b').dataSync()], [3, 30], 'good until the release');
  store.release();
  t.is(tf.memory().numTensors, own);
  t.deepEqual([...store.get('b').dataSync()], [6, 60]);
  store.dispose();
  t.is(tf.memory().numTensors, own - table.parts.length);
});
