import test from 'ava';
import '@tensorflow/tfjs-node-gpu';
import * as tf from '@tensorflow/tfjs-core';
import { generate, type GenerateOptions } from '../../../src/trainer/model/generate.ts';
import { KeyValueCache } from '../../../src/trainer/model/key-value-cache.ts';
import type { LlamaModel } from '../../../src/trainer/model/llama.ts';
import { tinyConfig, tinyModel } from '../../helpers/tiny-llama.ts';

const GREEDY: GenerateOptions = { maxTokens: 12, temperature: 0, topK: 0, topP: 1, seed: 0, stopId: null };

for (const fields of [{}, { tieWordEmbeddings: true, numKeyValueHeads: 1 }, { numKeyValueHeads: 4 }]) {
  test(`greedy tokens with the cache are those of computing everything again: ${JSON.stringify(fields)}`, (t) => {
    const model = tinyModel(t, tinyConfig(fields));
    const prompt = [3, 1, 4, 1, 5];
    const ids = [...prompt];
    for (let i = 0; i < GREEDY.maxTokens; i++) ids.push(mostLikelyNext(model, ids));
    t.deepEqual([...prompt, ...generate(model, prompt, GREEDY)], ids);
    t.true(new Set(ids.slice(5)).size > 3); // not one token for ever
  });
}

test('logits after several tokens at once equal those after each alone', (t) => {
  const model = tinyModel(t, tinyConfig());
  const read = (...chunks: number[][]): Float32Array => {
    using cache = new KeyValueCache(model.config.numHiddenLayers);
    const all = chunks.map((ids) => {
      const logits = model.nextLogits(Int32Array.from(ids), cache);
      const values = Float32Array.from(logits.dataSync());
      logits.dispose();
      return values;
    });
    t.is(cache.length, chunks.flat().length);
    return all.at(-1) ?? new Float32Array();
  };
  const whole = read([3, 1, 4, 1, 5, 9]);
  for (const other of [read([3, 1], [4, 1, 5], [9]), read([3], [1], [4], [1], [5], [9])]) {
    t.true(whole.every((value, i) => Math.abs(value - (other[i] as number)) < 1e-4));
  }
});

test('the seed decides what is sampled', (t) => {
  const model = tinyModel(t, tinyConfig());
  const sampled = (seed: number): number[] => [
    ...generate(model, [3, 1], { ...GREEDY, temperature: 1.5, seed }),
  ];
  t.deepEqual(sampled(1), sampled(1));
  t.notDeepEqual(sampled(1), sampled(2));
});

test('generation ends at the stop token, which is not given out', (t) => {
  const model = tinyModel(t, tinyConfig());
  const tokens = [...generate(model, [3, 1, 4], GREEDY)];
  const stopId = tokens[4] as number;
  t.deepEqual(
    [...generate(model, [3, 1, 4], { ...GREEDY, stopId })],
    tokens.slice(0, tokens.indexOf(stopId)),
  );
});

test('generation ends when the model has no position left', (t) => {
  const model = tinyModel(t, tinyConfig({ maxPositionEmbeddings: 6 }));
  // positions 0..3 hold the prompt, 4 and 5 the first two new tokens; the third needs none
  t.is([...generate(model, [3, 1, 4, 1], { ...GREEDY, maxTokens: 100 })].length, 3);
  t.throws(() => generate(model, [1, 2, 3, 4, 5, 6, 7], GREEDY), {
    instanceOf: RangeError,
    message: 'the prompt has 7 tokens; the model has 6 positions',
  });
});

test('an empty prompt stands for the begin-of-text token', (t) => {
  const model = tinyModel(t, tinyConfig({ bosTokenId: 5 }));
  t.deepEqual([...generate(model, [], GREEDY)], [...generate(model, [5], GREEDY)]);
  t.throws(() => generate(tinyModel(t, tinyConfig()), [], GREEDY), { instanceOf: RangeError });
});

test('no tensor is left when the loop ends or is left', (t) => {
  const model = tinyModel(t, tinyConfig());
  const before = tf.memory().numTensors;
  t.is([...generate(model, [3, 1, 4], GREEDY)].length, GREEDY.maxTokens);
  t.is(tf.memory().numTensors, before);
  let count = 0;
  for (const token of generate(model, [3, 1, 4], GREEDY)) {
    t.true(token >= 0);
    if (++count === 3) break;
  }
  t.is(count, 3);
  t.is(tf.memory().numTensors, before);
});

function mostLikelyNext(model: LlamaModel, ids: readonly number[]): number {
  const logits = model.logits({ ids: Int32Array.from(ids), sequences: 1, length: ids.length });
  const last = logits.dataSync<'float32'>().subarray(-model.config.vocabSize);
  logits.dispose();
  return last.indexOf(Math.max(...last));
}
