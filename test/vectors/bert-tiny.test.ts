/**
 * The BERT against BertForSequenceClassification of transformers: every case of `bert-tiny/bert-tiny.json` in the
 * folder that GALORE_VECTORS names, by default the one in the repository.
 */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import test from 'ava';
import '@tensorflow/tfjs-node-gpu';
import * as tf from '@tensorflow/tfjs-core';
import { bertTensors, parseBertConfig, type BertConfig } from '../../src/model/bert-config.ts';
import type { ClassBatch } from '../../src/trainer/model/batch.ts';
import { BertModel } from '../../src/trainer/model/bert.ts';
import { WeightStore } from '../../src/trainer/model/weights.ts';
import { readSafetensors, type ReadTensor } from '../helpers/safetensors.ts';

interface GoldenArray {
  readonly shape: readonly number[];
  readonly data: readonly number[];
}

interface Tolerance {
  readonly atol: number;
  readonly rtol: number;
}

interface GoldenCase {
  readonly name: string;
  readonly dir: string;
  readonly input_ids: GoldenArray;
  readonly attention_mask: GoldenArray;
  readonly token_type_ids: GoldenArray;
  readonly labels: GoldenArray;
  readonly logits: GoldenArray;
  readonly loss: number;
  readonly pooler_output: GoldenArray;
  readonly mean_pooled_embedding: GoldenArray;
  readonly mean_pooled_embedding_l2: GoldenArray;
}

interface Golden {
  readonly tolerance: Readonly<Record<'logits' | 'loss' | 'grads' | 'embedding', Tolerance>>;
  readonly cases: readonly GoldenCase[];
}

const repository = path.join(import.meta.dirname, '..', '..', '..');
const folder = process.env['GALORE_VECTORS'] ?? path.join(repository, 'test', 'vectors');
const file = path.join(folder, 'bert-tiny', 'bert-tiny.json');
const golden = readJson(file) as Golden;

test('the vectors hold at least one case', (t) => {
  t.true(golden.cases.length > 0);
});

for (const golding of golden.cases) {
  const { name } = golding;
  const dir = path.join(folder, golding.dir);
  const config = parseBertConfig(readJson(path.join(dir, 'config.json')), dir);
  const batch = batchOf(golding);

  test(`${name}: the tensors of the file are those of the configuration`, (t) => {
    const byName = (a: { name: string }, b: { name: string }): number => (a.name < b.name ? -1 : 1);
    const inFile = [...readSafetensors(path.join(dir, 'model.safetensors')).values()];
    t.deepEqual(
      inFile.map(({ name, shape }) => ({ name, shape })).toSorted(byName),
      bertTensors(config).toSorted(byName),
    );
  });

  test(`${name}: logits equal the reference`, (t) => {
    const model = load(dir, config, false);
    const logits = model.logits(batch);
    t.deepEqual(logits.shape, golding.logits.shape);
    t.is(worst(logits.dataSync(), golding.logits.data, golden.tolerance.logits), undefined);
    logits.dispose();
    model.weights.dispose();
  });

  test(`${name}: the pooled first token and the mean over tokens equal the reference`, (t) => {
    const { pooler_output: first, mean_pooled_embedding: mean, mean_pooled_embedding_l2: unit } = golding;
    for (const [pooling, want] of [['cls', first], ['mean', mean]] as const) {
      const model = load(dir, { ...config, pooling }, false);
      const pooled = model.pooled(batch);
      t.is(worst(pooled.dataSync(), want.data, golden.tolerance.embedding), undefined, pooling);
      if (pooling === 'mean') {
        const lengths = tf.norm(pooled, 2, -1, true);
        const divided = tf.div(pooled, lengths).dataSync();
        t.is(worst(divided, unit.data, golden.tolerance.embedding), undefined);
      }
      model.weights.dispose();
    }
  });

  for (const recompute of [false, true]) {
    test(`${name}: loss and every gradient equal the reference with recompute ${recompute}`, (t) => {
      const model = load(dir, config, recompute);
      const expected = readSafetensors(path.join(dir, 'grads.safetensors'));
      const before = tf.memory().numTensors;
      const gradients = new Map<string, Float32Array>();
      const { lossSum, tokens } = model.forwardBackward(batch, 1 / batch.sequences, (name, gradient) => {
        t.false(gradients.has(name), `${name} comes once`);
        t.deepEqual(gradient.shape, [...(expected.get(name)?.shape ?? [])]);
        gradients.set(name, gradient.dataSync<'float32'>());
      });
      t.is(tf.memory().numTensors, before);
      t.is(tokens, batch.sequences);
      t.is(worst([lossSum / tokens], [golding.loss], golden.tolerance.loss), undefined);
      t.deepEqual([...gradients.keys()].toSorted(), [...expected.keys()].toSorted());
      for (const [name, { values }] of expected) {
        t.is(worst(gradients.get(name) ?? [], values, golden.tolerance.grads), undefined, name);
      }
      model.weights.dispose();
    });
  }
}

function readJson(path: string): unknown {
  return JSON.parse(readFileSync(path, 'utf8'));
}

function load(dir: string, config: BertConfig, recompute: boolean): BertModel {
  const tensors = readSafetensors(path.join(dir, 'model.safetensors'));
  const weights = bertTensors(config).map((spec) => tensors.get(spec.name) as ReadTensor);
  return new BertModel(config, WeightStore.fromArrays(weights), { recompute, lossChunk: 0 });
}

function batchOf(golding: GoldenCase): ClassBatch {
  const [sequences = 0, length = 0] = golding.input_ids.shape;
  const mask = golding.attention_mask.data;
  return {
    ids: Int32Array.from(golding.input_ids.data),
    types: Int32Array.from(golding.token_type_ids.data),
    classes: Int32Array.from(golding.labels.data),
    lengths: Int32Array.from({ length: sequences }, (_, row) =>
      mask.slice(row * length, (row + 1) * length).reduce((sum, bit) => sum + bit, 0),
    ),
    sequences,
    length,
  };
}

/** Undefined if every value is within the tolerance, otherwise the worst in words. */
function worst(got: ArrayLike<number>, want: ArrayLike<number>, { atol, rtol }: Tolerance): string | undefined {
  if (got.length !== want.length) return `${got.length} values instead of ${want.length}`;
  let worstRatio = 1;
  let report: string | undefined;
  for (let i = 0; i < want.length; i++) {
    const [actual, expected] = [got[i] ?? NaN, want[i] ?? NaN];
    const ratio = Math.abs(actual - expected) / (atol + rtol * Math.abs(expected));
    if (ratio <= worstRatio) continue; // false for NaN, which is reported
    if (!Number.isNaN(ratio)) worstRatio = ratio;
    report = `value ${i} is ${actual} instead of ${expected}`;
  }
  return report;
}
