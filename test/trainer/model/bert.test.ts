/** The classifier against a plain double-precision one, and what it computes and keeps. */
import test from 'ava';
import '@tensorflow/tfjs-node-gpu';
import * as tf from '@tensorflow/tfjs-core';
import { TensorShapeError } from '../../../src/errors.ts';
import { bertTensors, type BertConfig } from '../../../src/model/bert-config.ts';
import { derive, randomUint32 } from '../../../src/random.ts';
import { UNKNOWN_CLASS, type Batch, type ClassBatch } from '../../../src/trainer/model/batch.ts';
import type { BertModel } from '../../../src/trainer/model/bert.ts';
import { plainClassLogits, plainClassLossSum } from '../../helpers/plain-bert.ts';
import { classBatch, tinyBert, tinyBertConfig, tinyBertWeights } from '../../helpers/tiny-bert.ts';

const KINDS: Readonly<Record<string, Partial<BertConfig>>> = {
  'BERT, first token': { modelType: 'bert', pooling: 'cls' },
  'BERT, mean': { modelType: 'bert', pooling: 'mean' },
  'RoBERTa, first token': { modelType: 'roberta', pooling: 'cls', typeVocabSize: 1 },
  'RoBERTa, mean': { modelType: 'roberta', pooling: 'mean', typeVocabSize: 1 },
};

for (const [title, fields] of Object.entries(KINDS)) {
  test(`loss, logits and gradients equal a plain double-precision model: ${title}`, (t) => {
    const config = tinyBertConfig(fields);
    const values = tinyBertWeights(config);
    const batch = classBatch(config, [5, 1, 7], { hasTypes: true });
    const plain = new Map([...values].map(([name, array]) => [name, Float64Array.from(array)]));
    const model = tinyBert(t, config, false, values);
    const logits = model.logits(batch);
    const want = [0, 1, 2].flatMap((text) => [...plainClassLogits(config, plain, batch, text)]);
    t.deepEqual(logits.shape, [3, 3]);
    t.true(want.every((value, i) => Math.abs(value - logits.dataSync()[i]!) < 1e-5));
    logits.dispose();
    const lossSum = plainClassLossSum(config, plain, batch);
    t.true(Math.abs(model.loss(batch).lossSum - lossSum) < 1e-5);
    const gradients = gradientsOf(model, batch);
    t.deepEqual(
      [...gradients.keys()].toSorted(),
      bertTensors(config)
        .map(({ name }) => name)
        .toSorted(),
    );
    for (const { name } of bertTensors(config)) {
      const weight = plain.get(name)!;
      const key = derive(3, name);
      for (let sample = 0; sample < 3; sample++) {
        const at = randomUint32(key, sample) % weight.length;
        const difference = centralDifference(weight, at, () => plainClassLossSum(config, plain, batch));
        const got = gradients.get(name)![at]!;
        const isNear = Math.abs(got - difference) < 2e-5 + 2e-5 * Math.abs(difference);
        t.true(isNear, `${name}[${at}]: ${got} instead of ${difference}`);
      }
    }
  });
}

test('padding changes nothing, whatever stands in it', (t) => {
  const config = tinyBertConfig();
  const model = tinyBert(t, config);
  const batch = classBatch(config, [5, 1, 6]);
  const other = {
    ...batch,
    ids: batch.ids.map((id, i) => (i % 7 < batch.lengths[Math.floor(i / 7)]! ? id : 9)),
  };
  t.deepEqual(gradientsOf(model, other), gradientsOf(model, batch));
  // Alone and without padding a text has the same logits but for rounding.
  const together = model.logits(batch).dataSync();
  const alone = model.logits({
    ids: batch.ids.slice(0, 5),
    classes: Int32Array.of(0),
    lengths: Int32Array.of(5),
    sequences: 1,
    length: 5,
  });
  alone.dataSync().forEach((logit, i) => t.true(Math.abs(logit - together[i]!) < 1e-5));
});

test('recompute gives the same numbers, and no tensor stays behind', (t) => {
  const config = tinyBertConfig({ pooling: 'mean' });
  const batch = classBatch(config);
  const [kept, again] = [tinyBert(t, config), tinyBert(t, config, true)];
  const before = tf.memory().numTensors;
  t.deepEqual(gradientsOf(again, batch), gradientsOf(kept, batch));
  kept.loss(batch);
  t.is(tf.memory().numTensors, before);
  kept.pooled(batch).dispose();
  t.throws(() => kept.forwardBackward(batch, 1, () => { throw new Error('enough'); }), { message: 'enough' }); // prettier-ignore
  t.is(tf.memory().numTensors, before);
});

test('what is not wanted is not handed out, and backward ends with the last that is', (t) => {
  const config = tinyBertConfig();
  const model = tinyBert(t, config);
  const batch = classBatch(config);
  const all = gradientsOf(model, batch);
  const names = bertTensors(config).map(({ name }) => name);
  for (const part of ['classifier', 'layer.1.', 'layer.0.attention.self.value', 'word_embeddings', 'bias']) {
    const isWanted = (name: string): boolean => name.includes(part);
    const got = gradientsOf(model, batch, isWanted);
    t.deepEqual([...got.keys()].toSorted(), names.filter(isWanted).toSorted());
    for (const [name, values] of got) t.deepEqual(values, all.get(name), name);
  }
  // With the head alone nothing of the encoder is computed again.
  const kernels = countKernels(() => gradientsOf(model, batch, (name) => name.startsWith('classifier')));
  const forward = countKernels(() => model.loss(batch));
  t.true(kernels < forward + 40, `${kernels} kernels after ${forward} forward`);
});

test('a text of unknown class has logits but no loss; correct counts the likeliest', (t) => {
  const config = tinyBertConfig();
  const model = tinyBert(t, config);
  const batch = classBatch(config);
  const values = model.logits(batch).dataSync();
  const best = [0, 1, 2].map((text) => {
    const row = [...values.subarray(3 * text, 3 * text + 3)];
    return row.indexOf(Math.max(...row));
  });
  t.like(model.loss({ ...batch, classes: Int32Array.from(best) }), { tokens: 3, correct: 3 });
  const unknown = { ...batch, classes: Int32Array.of(best[0]!, UNKNOWN_CLASS, (best[2]! + 1) % 3) };
  t.like(model.loss(unknown), { tokens: 2, correct: 1 });
  const one = { ...batch, classes: Int32Array.of(best[0]!, UNKNOWN_CLASS, UNKNOWN_CLASS) };
  t.is(model.forwardBackward(one, 1, () => {}).lossSum, model.loss(one).lossSum);
});

test('batches that cannot be are refused with what is wrong', (t) => {
  const config = tinyBertConfig({ modelType: 'roberta' }); // 12 positions, from 2 on
  const model = tinyBert(t, config);
  const batch = classBatch(config);
  const refused = (changes: Partial<ClassBatch>, message: RegExp): void => {
    t.throws(() => model.loss({ ...batch, ...changes }), { message });
  };
  refused({ classes: Int32Array.of(0, 3, 0) }, /class 3 of sequence 1 is none of 3/);
  refused({ lengths: Int32Array.of(5, 0, 7) }, /sequence 1 has 0 tokens in a row of 7/);
  refused({ lengths: Int32Array.of(5, 8, 7) }, /sequence 1 has 8 tokens/);
  refused({ types: new Int32Array(21).fill(2) }, /token type 2 at position 0 is unknown/);
  refused({ types: new Int32Array(3) }, /3 token types for 21 token ids/);
  refused({ ids: batch.ids.map(() => 17) }, /token id 17/);
  t.throws(() => model.loss(classBatch(config, [11], { length: 11 })), {
    message: /11 tokens; the model has 10/,
  });
  const tokens: Batch = { ids: batch.ids, labels: batch.ids, sequences: 3, length: 7 };
  t.throws(() => model.loss(tokens), { instanceOf: TensorShapeError });
});

function gradientsOf(
  model: BertModel,
  batch: ClassBatch,
  wants?: (name: string) => boolean,
): Map<string, Float32Array> {
  const gradients = new Map<string, Float32Array>();
  const take = (name: string, gradient: tf.Tensor): void =>
    void gradients.set(name, gradient.dataSync<'float32'>().slice());
  model.forwardBackward(batch, 1, take, wants);
  return gradients;
}

function centralDifference(weight: Float64Array, at: number, loss: () => number): number {
  const [value, step] = [weight[at]!, 1e-4];
  weight[at] = value + step;
  const above = loss();
  weight[at] = value - step;
  const below = loss();
  weight[at] = value;
  return (above - below) / (2 * step);
}

function countKernels(run: () => void): number {
  let count = 0;
  const engine = tf.engine();
  const original = engine.runKernel.bind(engine);
  engine.runKernel = ((...args: Parameters<typeof original>) => {
    count += 1;
    return original(...args);
  }) as typeof engine.runKernel;
  try {
    run();
  } finally {
    engine.runKernel = original;
  }
  return count;
}
