/**
 * LoRA against the peft package (lora.json, lora/: adapters as peft saves them, on the models of llama-tiny/), and the
 * merge of ReLoRA against its formulas in f64 (methods.json).
 */
import { join } from 'node:path';
import test from 'ava';
import '@tensorflow/tfjs-node-gpu';
import * as tf from '@tensorflow/tfjs-core';
import { readModelConfig } from '../../src/files/model-config.ts';
import { openModelWeights } from '../../src/files/model-weights.ts';
import { loraOptionsOf, openPeftAdapter } from '../../src/files/peft-adapter.ts';
import { lora } from '../../src/galore/parametrisation/lora.ts';
import { parameterTable, type MadeTensor } from '../../src/galore/parametrisation/parametrisation.ts';
import { relora } from '../../src/galore/parametrisation/relora.ts';
import { pruned, quantile } from '../../src/galore/optimizer/prune.ts';
import { product } from '../../src/galore/product.ts';
import { buildSlots } from '../../src/galore/slot.ts';
import type { LlamaConfig } from '../../src/model/llama-config.ts';
import { openMadeWeights } from '../../src/trainer/made-weights.ts';
import { IGNORED_LABEL, type TokenBatch } from '../../src/trainer/model/batch.ts';
import { LlamaModel } from '../../src/trainer/model/llama.ts';
import { WeightStore, type WeightValues } from '../../src/trainer/model/weights.ts';
import { slotGradients, weightMaker } from '../../src/trainer/parameters.ts';
import { assertClose, hasGolden, readGolden, VECTORS, type GoldenArray, type Tolerance } from '../galore/golden.ts';
import { readSafetensors } from '../helpers/safetensors.ts';
import { slotOptions } from '../helpers/slot-options.ts';

interface LoraCase {
  readonly name: string;
  readonly base_dir: string;
  readonly adapter_dir: string;
  readonly r: number;
  readonly lora_alpha: number;
  readonly target_modules: readonly string[];
  readonly input_ids: GoldenArray;
  readonly labels: GoldenArray;
  readonly loss_base: number;
  readonly loss_adapter: number;
  readonly loss_merged: number;
  readonly logits_base: GoldenArray;
  readonly logits_adapter: GoldenArray;
  readonly logits_merged: GoldenArray;
}

interface LoraGolden {
  readonly tolerance: Readonly<Record<'logits' | 'loss' | 'grads' | 'merged_weights', Tolerance>>;
  readonly cases: readonly LoraCase[];
}

interface ReloraCase {
  readonly name: string;
  readonly method: 'relora';
  readonly inputs: Readonly<Record<'W0' | 'A' | 'B' | 'A_new' | 'x' | 'optimizer_state', GoldenArray>> & {
    readonly r: number;
    readonly alpha: number;
    readonly prune_ratio: number;
  };
  readonly expected: Readonly<
    Record<
      | 'delta'
      | 'merged_W'
      | 'B_after'
      | 'A_after'
      | 'output_before'
      | 'output_after'
      | 'prune_mask'
      | 'optimizer_state_after',
      GoldenArray
    >
  > & { readonly prune_threshold: number };
}

interface MethodsGolden {
  readonly tolerance: { readonly default_float32: Tolerance };
  readonly cases: readonly { readonly name: string; readonly method: string }[];
}

const OPTIONS = { recompute: false, lossChunk: 0 };
const ENGINE = { tf, product };

const golden = hasGolden('lora.json') ? readGolden<LoraGolden>('lora.json') : null;
for (const golding of golden?.cases ?? []) {
  const { name } = golding;
  const tolerance = golden!.tolerance;
  const [base, adapter] = [join(VECTORS, golding.base_dir), join(VECTORS, golding.adapter_dir)];

  test.serial(`${name}: without the adapter, with it and merged the logits and losses are those of peft`, async (t) => {
    const config = (await readModelConfig(base)) as LlamaConfig;
    const ways = [
      [{ path: base, config: null }, golding.logits_base, golding.loss_base],
      [{ path: base, config: null, adapter }, golding.logits_adapter, golding.loss_adapter],
      [{ path: base, config: null, adapter }, golding.logits_merged, golding.loss_merged],
    ] as const;
    for (const [folder, logits, loss] of ways) {
      await using weights = await openMadeWeights(folder, config);
      const values: WeightValues[] = [];
      for (const spec of weights.specs) values.push({ ...spec, values: await weights.read(spec) });
      const model = new LlamaModel(config, WeightStore.fromArrays(values), OPTIONS);
      const batch = batchOf(golding);
      const got = model.logits(batch);
      assertClose(t, got.dataSync(), logits.data, tolerance.logits, 'logits');
      const { lossSum, tokens } = model.loss(batch);
      assertClose(t, [lossSum / tokens], [loss], tolerance.loss, 'loss');
      got.dispose();
      model.weights.dispose();
    }
  });

  test.serial(`${name}: the merged matrices are those of peft, all others stay as they are`, async (t) => {
    const config = (await readModelConfig(base)) as LlamaConfig;
    const merged = readSafetensors(join(adapter, 'merged.safetensors'));
    const before = readSafetensors(join(base, 'model.safetensors'));
    await using weights = await openMadeWeights({ path: base, config: null, adapter }, config);
    const names = weights.specs.map((spec) => spec.name);
    t.deepEqual([...merged.keys()].filter((key) => !names.includes(key)), []);
    for (const spec of weights.specs) {
      const values = await weights.read(spec);
      const want = merged.get(spec.name);
      if (want === undefined) t.deepEqual(values, before.get(spec.name)!.values, spec.name);
      else assertClose(t, values, want.values, tolerance.merged_weights, spec.name);
    }
  });

  test.serial(`${name}: adapters alone have gradients, and they are those of peft`, async (t) => {
    const config = (await readModelConfig(base)) as LlamaConfig;
    await using own = await openModelWeights(base, config);
    await using opened = await openPeftAdapter(adapter, own.specs);
    t.is(opened.rank, golding.r);
    const table = parameterTable(own.specs, lora(loraOptionsOf(opened)));
    const slots = buildSlots(table.parts, slotOptions('full', 1));
    const values: WeightValues[] = [];
    for (const spec of table.parts) {
      const isOwn = own.specs.some((other) => other.name === spec.name);
      values.push({ ...spec, values: await (isOwn ? own : opened).read(spec) });
    }
    const store = WeightStore.fromArrays(values);
    store.makeWith(weightMaker(table));
    const model = new LlamaModel(config, store, OPTIONS);
    const batch = batchOf(golding);
    const before = tf.memory().numTensors;
    const gradients = new Map<string, ArrayLike<number>>();
    const { onGradient, wants } = slotGradients(table, slots, store, (slot, gradient) => {
      t.deepEqual(gradient.shape, [...slot.shape]);
      gradients.set(slot.name, gradient.dataSync());
    });
    const scale = 1 / batch.labels.filter((label) => label !== IGNORED_LABEL).length;
    const { lossSum, tokens } = model.forwardBackward(batch, scale, onGradient, wants);
    t.is(tf.memory().numTensors, before);
    assertClose(t, [lossSum / tokens], [golding.loss_adapter], tolerance.loss, 'loss');
    const want = [...readSafetensors(join(adapter, 'grads.safetensors'))].map(
      ([key, tensor]) => [key.replace('base_model.model.', ''), tensor.values] as const,
    );
    t.deepEqual([...gradients.keys()].toSorted(), want.map(([key]) => key).toSorted());
    for (const [key, expected] of want) assertClose(t, gradients.get(key)!, expected, tolerance.grads, key);
    store.dispose();
  });
}

const methods = readGolden<MethodsGolden>('methods.json');
for (const golding of methods.cases.filter(({ method }) => method === 'relora') as unknown as ReloraCase[]) {
  test(`${golding.name}: the base takes the adapter in, B is zero, and the model is the same`, (t) => {
    const { inputs, expected } = golding;
    const close = methods.tolerance.default_float32;
    const [w0, a, b, aNew, x] = [inputs.W0, inputs.A, inputs.B, inputs.A_new, inputs.x].map(({ shape, data }) =>
      tf.tensor(data, shape),
    ) as [tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor];
    const method = { lora_alpha: inputs.alpha, use_rslora: false, target_modules: ['w'], modules_to_save: [] };
    const merges = { merge_every: 5, prune_ratio: inputs.prune_ratio };
    const { treat, materialise, renewal } = relora({ rank: inputs.r, method: { ...method, ...merges } });
    const tensor = { name: 'w.weight', shape: inputs.W0.shape };
    const made: MadeTensor = { tensor, parts: treat(tensor) as MadeTensor['parts'] };
    const outputOf = (weight: tf.Tensor): ArrayLike<number> =>
      tf.matMul(x as tf.Tensor2D, weight as tf.Tensor2D, false, true).dataSync();

    t.deepEqual([4, 5, 6, 10].map((step) => renewal!.times(step)), [0, 1, 1, 2]);
    const input = { made, values: [w0, a, b], engine: ENGINE };
    assertClose(t, outputOf(materialise(input)), expected.output_before.data, close, 'output before');
    const [merged, freshA, freshB] = renewal!.renew({ ...input, step: 5, seed: 1 }) as [tf.Tensor, tf.Tensor, tf.Tensor];
    assertClose(t, merged.dataSync(), expected.merged_W.data, close, 'merged W');
    assertClose(t, tf.sub(merged, w0).dataSync(), expected.delta.data, close, 'delta');
    t.deepEqual([...freshB.dataSync()], expected.B_after.data.map(() => 0));
    t.deepEqual(freshA.shape, expected.A_after.shape);
    const bound = 1 / Math.sqrt(inputs.A.shape[1]!);
    t.true(freshA.dataSync<'float32'>().every((value) => Math.abs(value) <= bound));
    t.notDeepEqual(freshA.dataSync(), a.dataSync());
    for (const fresh of [freshA, aNew]) {
      const after = materialise({ ...input, values: [merged, fresh, freshB] });
      assertClose(t, outputOf(after), expected.output_after.data, close, 'output after');
    }
  });

  test(`${golding.name}: of the optimizer's state the least numbers become zero`, (t) => {
    const state = Float32Array.from(golding.inputs.optimizer_state.data);
    const { prune_ratio: share } = golding.inputs;
    const { expected } = golding;
    const close = methods.tolerance.default_float32;
    assertClose(t, [quantile(state.map(Math.abs), share)], [expected.prune_threshold], close, 'threshold');
    const kept = pruned(state, share);
    t.deepEqual([...kept].map((value) => (value === 0 ? 0 : 1)), expected.prune_mask.data);
    assertClose(t, kept, expected.optimizer_state_after.data, close, 'state');
  });
}

/** The reference shifts inside the model; here the label of a position is the next one's. */
function batchOf({ input_ids: ids, labels }: LoraCase): TokenBatch {
  const [sequences, length] = ids.shape as [number, number];
  const shifted = Int32Array.from(labels.data, (_, i) =>
    i % length === length - 1 ? IGNORED_LABEL : labels.data[i + 1]!,
  );
  return { ids: Int32Array.from(ids.data), labels: shifted, sequences, length };
}
