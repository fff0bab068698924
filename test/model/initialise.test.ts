import test from 'ava';
import { initialiseTensor } from '../../src/model/initialise.ts';
import { llamaConfigFromFields } from '../../src/model/llama-config.ts';

const config = llamaConfigFromFields(
  { size: '9m', initializer_range: 0.05 },
  { vocabSize: 257, maxPositionEmbeddings: 128 },
);
const spec = { name: 'model.layers.0.mlp.up_proj.weight', shape: [352, 128] };

test('matrices are normal with mean 0 and the configured deviation', (t) => {
  const values = initialiseTensor(spec, config, 1);
  t.is(values.length, 352 * 128);
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const deviation = Math.sqrt(values.reduce((sum, value) => sum + value ** 2, 0) / values.length);
  // 45,056 numbers: the mean's own deviation is 0.05/212 = 0.00024, the deviation's 0.05/300 = 0.00017
  t.true(Math.abs(mean) < 0.001);
  t.true(Math.abs(deviation - 0.05) < 0.0008);
  // 4 sigma: 6.3e-5 of 45,056 numbers lie outside, about 3
  const outside = values.filter((value) => Math.abs(value) > 0.2).length;
  t.true(outside > 0 && outside < 12);
});

test('norm weights are ones', (t) => {
  t.deepEqual(
    initialiseTensor({ name: 'model.norm.weight', shape: [128] }, config, 1),
    new Float32Array(128).fill(1),
  );
});

test('seed and name decide the numbers', (t) => {
  const values = initialiseTensor(spec, config, 1);
  t.deepEqual(initialiseTensor(spec, config, 1), values);
  t.notDeepEqual(initialiseTensor(spec, config, 2), values);
  t.notDeepEqual(initialiseTensor({ ...spec, name: 'model.layers.1.mlp.up_proj.weight' }, config, 1), values);
});
