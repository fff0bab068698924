/** Folders of encoders: under which names tensors are found, what may be missing or too much, how texts are pooled. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { DataError } from '../../src/errors.ts';
import { readModelConfig } from '../../src/files/model-config.ts';
import { openModelWeights, type ModelWeights } from '../../src/files/model-weights.ts';
import { sizeOf } from '../../src/galore/slot.ts';
import { bertTensors, bertToHuggingFace, type BertConfig } from '../../src/model/bert-config.ts';
import { initialiseTensor } from '../../src/model/initialise.ts';
import { tinyBertConfig } from '../helpers/tiny-bert.ts';
import { tinyFolder, type FileTensor } from './tiny-folder.ts';
import { f32 } from './safetensors-samples.ts';

const CONFIG = tinyBertConfig({ numHiddenLayers: 1 });
const SEED = 7;

/** The tensors of `config` under other names; null leaves one out. */
function tensorsOf(
  config: BertConfig,
  rename: (name: string) => string | null = (name) => name,
): FileTensor[] {
  return bertTensors(config).flatMap(({ name, shape }, index) => {
    const stored = rename(name);
    const values = Array.from({ length: sizeOf(shape) }, () => index);
    return stored === null ? [] : [{ name: stored, dtype: 'F32', shape, data: f32(...values) }];
  });
}

function extra(...names: string[]): FileTensor[] {
  return names.map((name) => ({ name, dtype: 'F32', shape: [1], data: f32(1) }));
}

function folderOf(t: ExecutionContext, tensors: readonly FileTensor[], json: object = {}): string {
  return tinyFolder(t, { ...bertToHuggingFace(CONFIG), ...json }, tensors);
}

async function open(
  folder: string,
  isOutputNew?: boolean,
): Promise<{ weights: ModelWeights; notices: string[] }> {
  const notices: string[] = [];
  const newHead = isOutputNew === undefined ? {} : { newHead: { seed: SEED, isOutputNew } };
  const onNotice = (text: string): void => void notices.push(text.replaceAll(folder, 'DIR'));
  return { weights: await openModelWeights(folder, CONFIG, { ...newHead, onNotice }), notices };
}

async function firstNumbers(weights: ModelWeights): Promise<number[]> {
  const numbers: number[] = [];
  for (const spec of weights.specs) {
    numbers.push((await weights.read(spec))[0]!);
    for await (const { values } of weights.pieces(spec)) numbers.push(values[0]!);
  }
  return numbers.filter((_, i) => i % 2 === 0);
}

test('tensors are found with the prefix of the family, without it, and by the oldest names', async (t) => {
  const indices = bertTensors(CONFIG).map((_, index) => index);
  const older = (name: string): string =>
    name.replace('LayerNorm.weight', 'LayerNorm.gamma').replace('LayerNorm.bias', 'LayerNorm.beta');
  const bare = (name: string): string => name.replace(/^bert\./, '');
  for (const rename of [(name: string) => name, bare, older, (name: string) => older(bare(name))]) {
    const { weights, notices } = await open(folderOf(t, tensorsOf(CONFIG, rename)));
    t.deepEqual(await firstNumbers(weights), indices);
    t.deepEqual(notices, []);
    await weights[Symbol.asyncDispose]();
  }
});

test('a head that is not there is made from the seed and told, and so are tensors without a use', async (t) => {
  const encoder = tensorsOf(CONFIG, (name) => (/classifier|pooler/.test(name) ? null : name));
  const folder = folderOf(t, [...encoder, ...extra('embeddings.position_ids', 'cls.predictions.bias')]);
  const { weights, notices } = await open(folder, false);
  t.deepEqual(notices, [
    'weights of DIR that this model does not use: embeddings.position_ids, cls.predictions.bias',
    'new weights, made from the seed: bert.pooler.dense.weight, bert.pooler.dense.bias, classifier.weight and 1 more; DIR has none for these classes',
  ]);
  const spec = weights.specs.find(({ name }) => name === 'classifier.weight')!;
  t.deepEqual(await weights.read(spec), initialiseTensor(spec, CONFIG, SEED));
  const bias = weights.specs.find(({ name }) => name === 'classifier.bias')!;
  t.deepEqual([...(await weights.read(bias))], [0, 0, 0]);
  await weights[Symbol.asyncDispose]();
  await t.throwsAsync(open(folder), {
    instanceOf: DataError,
    message:
      /has no tensor bert.pooler.dense.weight, .*: it has no classification head yet: train one first|it has no classification head yet/,
  });
});

test('an output layer for other classes is replaced, the rest of the head stays', async (t) => {
  const { weights, notices } = await open(folderOf(t, tensorsOf(CONFIG)), true);
  t.deepEqual(notices, [
    'weights of DIR that this model does not use: classifier.weight, classifier.bias',
    'new weights, made from the seed: classifier.weight, classifier.bias; DIR has none for these classes',
  ]);
  const pooler = weights.specs.findIndex(({ name }) => name === 'bert.pooler.dense.weight');
  t.is((await weights.read(weights.specs[pooler]!))[0], pooler);
  await weights[Symbol.asyncDispose]();
});

test('an encoder that lacks a tensor, or has more of them than config.json says, is refused', async (t) => {
  const lacking = folderOf(
    t,
    tensorsOf(CONFIG, (name) => (name.includes('query.bias') ? null : name)),
  );
  await t.throwsAsync(open(lacking, false), {
    message: /has no tensor bert.encoder.layer.0.attention.self.query.bias; its config.json asks/,
  });
  const more = folderOf(t, [...tensorsOf(CONFIG), ...extra('bert.encoder.layer.1.output.dense.bias')]);
  await t.throwsAsync(open(more, false), {
    message: /holds tensor bert.encoder.layer.1.output.dense.bias: a BERT of its/,
  });
});

test('pooling is what config.json says, a classifier keeps its way, sentence-transformers says it beside', async (t) => {
  const poolingOf = async (json: object, tensors = tensorsOf(CONFIG), beside?: object): Promise<string> => {
    const folder = folderOf(t, tensors, json);
    if (beside !== undefined) {
      mkdirSync(join(folder, '1_Pooling'));
      writeFileSync(join(folder, '1_Pooling/config.json'), JSON.stringify(beside));
    }
    const config = await readModelConfig(folder);
    return config.modelType === 'llama' ? 'none' : config.pooling;
  };
  const silent = { classifier_pooling: undefined };
  const bare = { ...silent, architectures: ['BertModel'] };
  const withoutPooler = tensorsOf(CONFIG, (name) => (name.includes('pooler') ? null : name));
  t.is(await poolingOf({ classifier_pooling: 'mean' }), 'mean');
  t.is(await poolingOf(silent, withoutPooler), 'cls');
  t.is(await poolingOf(bare), 'cls');
  t.is(await poolingOf(bare, withoutPooler), 'mean');
  t.is(await poolingOf(bare, undefined, { pooling_mode_mean_tokens: true }), 'mean');
  t.is(await poolingOf(bare, undefined, { pooling_mode_cls_token: true }), 'cls');
  await t.throwsAsync(poolingOf(bare, undefined, { pooling_mode_max_tokens: true }), {
    message: /asks for neither/,
  });
});
