import test from 'ava';
import { DataError } from '../../src/errors.ts';
import {
  bertTensors,
  bertToHuggingFace,
  headTensors,
  longestText,
  parseBertConfig,
} from '../../src/model/bert-config.ts';
import { classifierOf, isOutputKept } from '../../src/model/classifier.ts';
import { modelTensors, parseModelConfig, targetParts, toConfigJson } from '../../src/model/model-config.ts';
import { tinyBertConfig } from '../helpers/tiny-bert.ts';
import { tinyConfig } from '../helpers/tiny-llama.ts';

/** A config.json as transformers writes it, without optional keys. */
const MINIMAL = {
  model_type: 'bert',
  vocab_size: 70,
  hidden_size: 32,
  intermediate_size: 64,
  num_hidden_layers: 2,
  num_attention_heads: 4,
};

test('what config.json leaves out is what transformers takes', (t) => {
  t.deepEqual(parseBertConfig({ ...MINIMAL, hidden_dropout_prob: 0.1 }, 'c'), {
    modelType: 'bert',
    vocabSize: 70,
    hiddenSize: 32,
    intermediateSize: 64,
    numHiddenLayers: 2,
    numAttentionHeads: 4,
    maxPositionEmbeddings: 512,
    typeVocabSize: 2,
    layerNormEps: 1e-12,
    initializerRange: 0.02,
    padTokenId: 0,
    bosTokenId: null,
    eosTokenId: null,
    pooling: 'cls',
    labels: ['LABEL_0', 'LABEL_1'],
  });
  const roberta = parseBertConfig({ ...MINIMAL, model_type: 'roberta', max_position_embeddings: 514 }, 'c');
  t.is(roberta.padTokenId, 1);
  t.is(longestText(roberta), 512);
  t.deepEqual(parseBertConfig({ ...MINIMAL, num_labels: 3 }, 'c').labels, ['LABEL_0', 'LABEL_1', 'LABEL_2']);
});

test('what an encoder of this kind does not do is refused, all of it at once', (t) => {
  const json = {
    ...MINIMAL,
    hidden_size: 30,
    hidden_act: 'gelu_new',
    position_embedding_type: 'relative_key',
    is_decoder: true,
    problem_type: 'regression',
    pad_token_id: 70,
    id2label: { '0': 'a', '2': 'b' },
  };
  const error = t.throws(() => parseBertConfig(json, 'm/config.json'), { instanceOf: DataError });
  for (const field of Object.keys(json).slice(6)) t.regex(error?.message ?? '', new RegExp(`  ${field}: is`));
  t.regex(
    error?.message ?? '',
    /^m\/config.json: not a BERT that can be used:\n {2}hidden_act: is "gelu_new"/,
  );
  t.regex(error?.message ?? '', /hidden_size: is 30; allowed: a multiple of num_attention_heads \(4\)/);
});

test('fields of another kind are named with what is allowed', (t) => {
  const refused = (changes: object, message: RegExp): void => {
    t.throws(() => parseBertConfig({ ...MINIMAL, ...changes }, 'c'), { instanceOf: DataError, message });
  };
  refused({ vocab_size: 0 }, /vocab_size: is 0; allowed: a whole number of at least 1/);
  refused({ num_labels: 1 }, /num_labels: is 1; allowed: at least two classes/);
  refused({ id2label: { '0': 'a', '1': 'a' } }, /another name for each class/);
  refused({ classifier_pooling: 'max' }, /classifier_pooling: is "max"; allowed: "cls" or "mean"/);
  refused({ model_type: 'roberta', max_position_embeddings: 2 }, /more than pad_token_id \+ 1 \(2\)/);
});

test('a model that is written is read as the same model', (t) => {
  for (const modelType of ['bert', 'roberta'] as const) {
    for (const pooling of ['cls', 'mean'] as const) {
      const config = tinyBertConfig({ modelType, pooling, labels: ['ham', 'spam', 'egg'] });
      t.deepEqual(parseBertConfig(bertToHuggingFace(config), 'c'), config);
    }
  }
});

test('model_type decides which model a config.json is of', (t) => {
  t.is(parseModelConfig(MINIMAL, 'c').modelType, 'bert');
  t.is(parseModelConfig({ ...MINIMAL, model_type: 'llama' }, 'c').modelType, 'llama');
  const message = 'c: model_type is "gpt2"; allowed: "llama" or "mistral" or "bert" or "roberta"';
  t.throws(() => parseModelConfig({ model_type: 'gpt2' }, 'c'), { message });
  const bert = tinyBertConfig();
  t.deepEqual(parseModelConfig(toConfigJson(bert), 'c'), bert);
  t.deepEqual(modelTensors(bert), bertTensors(bert));
});

test('the head has the names of transformers, and one layer where the mean is taken', (t) => {
  const namesOf = (fields: object): string[] => headTensors(tinyBertConfig(fields)).map(({ name }) => name);
  const both = (name: string): string[] => [`${name}.weight`, `${name}.bias`];
  t.deepEqual(namesOf({}), [...both('bert.pooler.dense'), ...both('classifier')]);
  const roberta = [...both('classifier.dense'), ...both('classifier.out_proj')];
  t.deepEqual(namesOf({ modelType: 'roberta' }), roberta);
  t.deepEqual(namesOf({ modelType: 'roberta', pooling: 'mean' }), both('classifier'));
});

test('attn and mlp of target_modules mean the matrices of layers in an encoder, too', (t) => {
  const config = tinyBertConfig();
  const names = bertTensors(config)
    .filter(({ shape }) => shape.length === 2)
    .map(({ name }) => name);
  const matched = (modules: readonly string[]): string[] => {
    const parts = targetParts(config, modules);
    return names.filter((name) => parts.some((part) => name.includes(part)));
  };
  t.is(matched(['attn']).length, 2 * 4);
  t.is(matched(['mlp']).length, 2 * 2);
  t.is(matched(['attn', 'mlp']).length, 2 * 6);
  t.deepEqual(matched(['query', 'classifier']).length, 3);
  t.deepEqual(targetParts(tinyConfig(), ['attn']), ['attn']);
});

test('a run gives the model its classes; one that cannot do the task is refused', (t) => {
  const task = { type: 'sequence-classification' as const, labels: ['ham', 'spam'] };
  const config = tinyBertConfig({ maxPositionEmbeddings: 40 });
  const model = classifierOf(config, { task: { ...task, pooling: 'mean' }, seq_len: 40 }, 'm');
  t.deepEqual(model, { ...config, labels: task.labels, pooling: 'mean' });
  t.throws(() => classifierOf(config, { task, seq_len: 41 }, 'm'), {
    message: /^seq_len is 41; it must be at most 40/,
  });
  t.throws(() => classifierOf(tinyConfig(), { task, seq_len: 8 }, 'm'), {
    message:
      'task.type is sequence-classification; it must be causal-lm: m holds a Llama, which continues texts',
  });
  t.throws(() => classifierOf(config, { task: { type: 'causal-lm' }, seq_len: 8 }, 'm'), {
    message: /holds an encoder/,
  });
});

test('the output layer of a folder is kept for the same classes, or classes without names', (t) => {
  const wanted = tinyBertConfig({ labels: ['ham', 'spam'] });
  const isKept = (fields: object): boolean => isOutputKept(tinyBertConfig(fields), wanted);
  t.true(isKept({ labels: ['ham', 'spam'] }));
  t.true(isKept({ labels: ['LABEL_0', 'LABEL_1'] }));
  t.false(isKept({ labels: ['spam', 'ham'] }));
  t.false(isKept({ labels: ['LABEL_0', 'LABEL_1', 'LABEL_2'] }));
  t.false(isKept({ labels: ['ham', 'spam'], pooling: 'mean' }));
});
