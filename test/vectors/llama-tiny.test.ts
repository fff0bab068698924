/**
 * The Llama against LlamaForCausalLM of transformers: every case of `llama-tiny/llama-tiny.json` in
 * the folder that GALORE_VECTORS names, by default the one in the repository.
 */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import test from 'ava';
import '@tensorflow/tfjs-node-gpu';
import * as tf from '@tensorflow/tfjs-core';
import { llamaTensors, parseLlamaConfig, type LlamaConfig } from '../../src/model/llama-config.ts';
import { IGNORED_LABEL, type TokenBatch } from '../../src/trainer/model/batch.ts';
import { LlamaModel, type LlamaOptions } from '../../src/trainer/model/llama.ts';
import { WeightStore } from '../../src/trainer/model/weights.ts';
import { adamwStep, type AdamwState } from '../helpers/adamw.ts';
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
  readonly labels: GoldenArray;
  readonly logits: GoldenArray;
  readonly loss: number;
  readonly row_loss_sum: GoldenArray;
  readonly row_target_count: GoldenArray;
  readonly train: {
    readonly lr: number;
    readonly betas: readonly [number, number];
    readonly eps: number;
    readonly weight_decay: number;
    readonly losses: readonly number[];
  };
}

interface Golden {
  readonly tolerance: Readonly<Record<'logits' | 'loss' | 'grads' | 'train.losses', Tolerance>>;
  readonly cases: readonly GoldenCase[];
}

const repository = path.join(import.meta.dirname, '..', '..', '..');
const folder = process.env['GALORE_VECTORS'] ?? path.join(repository, 'test', 'vectors');
const golden = readJson(path.join(folder, 'llama-tiny', 'llama-tiny.json')) as Golden;

const MODES: readonly LlamaOptions[] = [
  { recompute: false, lossChunk: 0 },
  { recompute: true, lossChunk: 0 },
  { recompute: false, lossChunk: 5 },
  { recompute: true, lossChunk: 5 },
];

test('the vectors hold at least one case', (t) => {
  t.true(golden.cases.length > 0);
});

for (const golding of golden.cases) {
  const { name } = golding;
  const dir = path.join(folder, golding.dir);
  const config = parseLlamaConfig(readJson(path.join(dir, 'config.json')), dir);

  test(`${name}: both layouts of config.json describe the same model`, (t) => {
    const older = path.join(dir, 'config.older-layout.json');
    t.deepEqual(parseLlamaConfig(readJson(older), older), config);
  });

  test(`${name}: the tensors of the file are those of the configuration`, (t) => {
    const byName = (a: { name: string }, b: { name: string }): number => (a.name < b.name ? -1 : 1);
    const inFile = [...readSafetensors(path.join(dir, 'model.safetensors')).values()];
    t.deepEqual(
      inFile.map(({ name, shape }) => ({ name, shape })).toSorted(byName),
      llamaTensors(config).toSorted(byName),
    );
  });

  test(`${name}: logits equal the reference`, (t) => {
    const model = load(dir, config, { recompute: false, lossChunk: 0 });
    const logits = model.logits(batchOf(golding));
    t.deepEqual(logits.shape, golding.logits.shape);
    t.is(worst(logits.dataSync(), golding.logits.data, golden.tolerance.logits), undefined);
    logits.dispose();
    model.weights.dispose();
  });

  test(`${name}: the loss sum and the count of each sequence equal the reference`, (t) => {
    const model = load(dir, config, { recompute: false, lossChunk: 4 });
    const rows = rowsOf(batchOf(golding)).map((row) => model.loss(row));
    t.deepEqual(
      rows.map((row) => row.tokens),
      [...golding.row_target_count.data],
    );
    const sums = rows.map((row) => row.lossSum);
    t.is(worst(sums, golding.row_loss_sum.data, golden.tolerance.loss), undefined);
    model.weights.dispose();
  });

  for (const mode of MODES) {
    test(`${name}: loss and every gradient equal the reference with ${JSON.stringify(mode)}`, (t) => {
      const model = load(dir, config, mode);
      const batch = batchOf(golding);
      const expected = readSafetensors(path.join(dir, 'grads.safetensors'));
      const before = tf.memory().numTensors;
      const gradients = new Map<string, Float32Array>();
      const { lossSum, tokens } = model.forwardBackward(batch, 1 / countLabels(batch), (name, gradient) => {
        t.false(gradients.has(name), `${name} comes once`);
        t.deepEqual(gradient.shape, [...(expected.get(name)?.shape ?? [])]);
        gradients.set(name, gradient.dataSync<'float32'>());
      });
      t.is(tf.memory().numTensors, before);
      t.is(worst([lossSum / tokens], [golding.loss], golden.tolerance.loss), undefined);
      t.deepEqual([...gradients.keys()].toSorted(), [...expected.keys()].toSorted());
      for (const [name, { values }] of expected) {
        t.is(worst(gradients.get(name) ?? [], values, golden.tolerance.grads), undefined, name);
      }
      model.weights.dispose();
    });
  }

  test(`${name}: the losses of AdamW steps equal the reference`, (t) => {
    const model = load(dir, config, { recompute: true, lossChunk: 7 });
    const batch = batchOf(golding);
    const states = new Map<string, AdamwState>();
    const { losses, lr, betas, eps, weight_decay: weightDecay } = golding.train;
    const got: number[] = [];
    for (let step = 1; step <= losses.length; step++) {
      const { lossSum, tokens } = model.forwardBackward(batch, 1 / countLabels(batch), (name, gradient) => {
        const old = model.weights.get(name);
        const weight = Float32Array.from(old.dataSync());
        const state = states.get(name) ?? { m: new Float64Array(weight.length), v: new Float64Array(weight.length) };
        states.set(name, state);
        adamwStep(weight, gradient.dataSync(), state, { step, lr, betas, eps, weightDecay });
        model.weights.set(name, tf.tensor(weight, old.shape));
      });
      got.push(lossSum / tokens);
    }
    t.is(worst(got, losses, golden.tolerance['train.losses']), undefined);
    model.weights.dispose();
  });
}

function readJson(file: string): unknown {
  return JSON.parse(readFileSync(file, 'utf8'));
}

function load(dir: string, config: LlamaConfig, options: LlamaOptions): LlamaModel {
  const tensors = readSafetensors(path.join(dir, 'model.safetensors'));
  const weights = llamaTensors(config).map((spec) => tensors.get(spec.name) as ReadTensor);
  return new LlamaModel(config, WeightStore.fromArrays(weights), options);
}

/** The reference shifts inside the model; here the label of a position is the next one's. */
function batchOf({ input_ids: ids, labels }: GoldenCase): TokenBatch {
  const [sequences = 0, length = 0] = ids.shape;
  const shifted = labels.data.map((_, at) =>
    (at + 1) % length === 0 ? IGNORED_LABEL : (labels.data[at + 1] ?? IGNORED_LABEL),
  );
  return { ids: Int32Array.from(ids.data), labels: Int32Array.from(shifted), sequences, length };
}

function rowsOf({ ids, labels, sequences, length }: TokenBatch): TokenBatch[] {
  return Array.from({ length: sequences }, (_, row) => ({
    ids: ids.slice(row * length, (row + 1) * length),
    labels: labels.slice(row * length, (row + 1) * length),
    sequences: 1,
    length,
  }));
}

function countLabels({ labels }: TokenBatch): number {
  return labels.reduce((count, label) => count + (label === IGNORED_LABEL ? 0 : 1), 0);
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
