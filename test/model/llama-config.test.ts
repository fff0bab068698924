import test from 'ava';
import { ConfigError, DataError } from '../../src/errors.ts';
import {
  llamaConfigFromFields,
  llamaTensors,
  parameterCount,
  parseLlamaConfig,
  toHuggingFace,
  type LlamaConfig,
} from '../../src/model/llama-config.ts';

const DEFAULTS = { vocabSize: 32000, maxPositionEmbeddings: 256 };

/** A config.json as transformers writes it, without optional keys. */
const MINIMAL = {
  model_type: 'llama',
  vocab_size: 67,
  hidden_size: 40,
  intermediate_size: 72,
  num_hidden_layers: 2,
  num_attention_heads: 4,
};

for (const [size, millions] of [
  ['60m', 58.07],
  ['130m', 134.11],
  ['350m', 367.97],
  ['1b', 1339.08],
  ['7b', 6738.42],
] as const) {
  test(`the ${size} model has the paper's ${millions} million parameters`, (t) => {
    const config = llamaConfigFromFields({ size }, DEFAULTS);
    t.is(Math.round(parameterCount(config) / 1e4) / 100, millions);
  });
}

test('fields override the size they come with', (t) => {
  const config = llamaConfigFromFields(
    { size: '9m', hidden_size: 96, num_key_value_heads: 2, vocab_size: 257, rope_theta: 500 },
    DEFAULTS,
  );
  t.deepEqual(config, {
    modelType: 'llama',
    vocabSize: 257,
    hiddenSize: 96,
    intermediateSize: 352,
    numHiddenLayers: 4,
    numAttentionHeads: 4,
    numKeyValueHeads: 2,
    headDim: 24,
    tieWordEmbeddings: false,
    ropeTheta: 500,
    rmsNormEps: 1e-6,
    initializerRange: 0.02,
    maxPositionEmbeddings: 256,
    bosTokenId: null,
    eosTokenId: null,
  });
});

test('any size can be given by fields alone', (t) => {
  const config = llamaConfigFromFields(
    { hidden_size: 10, intermediate_size: 7, num_hidden_layers: 1, num_attention_heads: 5 },
    { vocabSize: 3, maxPositionEmbeddings: 8 },
  );
  // 2 embeddings of 3 x 10, 4 attention matrices of 10 x 10, 3 of 7 x 10, 3 norms of 10
  t.is(parameterCount(config), 2 * 30 + 4 * 100 + 3 * 70 + 3 * 10);
});

test('without a size every missing field is named', (t) => {
  const error = t.throws(() => llamaConfigFromFields({ hidden_size: 64 }, DEFAULTS), {
    instanceOf: ConfigError,
  });
  t.deepEqual(
    error?.faults.map((fault) => fault.field),
    ['model.intermediate_size', 'model.num_hidden_layers', 'model.num_attention_heads'],
  );
});

test('relations that do not hold are all reported', (t) => {
  const fields = { size: '9m', hidden_size: 130, num_key_value_heads: 3 } as const;
  const error = t.throws(() => llamaConfigFromFields(fields, DEFAULTS), { instanceOf: ConfigError });
  t.deepEqual(error?.faults, [
    { field: 'model.hidden_size', value: '130', allowed: 'a multiple of num_attention_heads (4)' },
    { field: 'model.num_key_value_heads', value: '3', allowed: 'a divisor of num_attention_heads (4)' },
  ]);
  const odd = t.throws(() => llamaConfigFromFields({ size: '9m', hidden_size: 132 }, DEFAULTS));
  t.regex(odd?.message ?? '', /each of 4 heads 33 dimensions; allowed: an even number/);
});

test('more key-value heads than query heads are refused', (t) => {
  t.throws(() => llamaConfigFromFields({ size: '9m', num_key_value_heads: 8 }, DEFAULTS), {
    instanceOf: ConfigError,
    message: /num_key_value_heads: is 8/,
  });
});

test('tensors are in Hugging Face names, shapes and order', (t) => {
  const config = parseLlamaConfig(
    { ...MINIMAL, num_key_value_heads: 2, num_hidden_layers: 1 },
    'config.json',
  );
  t.deepEqual(llamaTensors(config), [
    { name: 'model.embed_tokens.weight', shape: [67, 40] },
    { name: 'model.layers.0.self_attn.q_proj.weight', shape: [40, 40] },
    { name: 'model.layers.0.self_attn.k_proj.weight', shape: [20, 40] },
    { name: 'model.layers.0.self_attn.v_proj.weight', shape: [20, 40] },
    { name: 'model.layers.0.self_attn.o_proj.weight', shape: [40, 40] },
    { name: 'model.layers.0.mlp.gate_proj.weight', shape: [72, 40] },
    { name: 'model.layers.0.mlp.up_proj.weight', shape: [72, 40] },
    { name: 'model.layers.0.mlp.down_proj.weight', shape: [40, 72] },
    { name: 'model.layers.0.input_layernorm.weight', shape: [40] },
    { name: 'model.layers.0.post_attention_layernorm.weight', shape: [40] },
    { name: 'model.norm.weight', shape: [40] },
    { name: 'lm_head.weight', shape: [67, 40] },
  ]);
  t.false(llamaTensors({ ...config, tieWordEmbeddings: true }).some(({ name }) => name === 'lm_head.weight'));
});

test('a config.json without optional keys takes the defaults of transformers', (t) => {
  t.deepEqual(parseLlamaConfig(MINIMAL, 'config.json'), {
    modelType: 'llama',
    vocabSize: 67,
    hiddenSize: 40,
    intermediateSize: 72,
    numHiddenLayers: 2,
    numAttentionHeads: 4,
    numKeyValueHeads: 4,
    headDim: 10,
    tieWordEmbeddings: false,
    ropeTheta: 10_000,
    rmsNormEps: 1e-6,
    initializerRange: 0.02,
    maxPositionEmbeddings: 2048,
    bosTokenId: null,
    eosTokenId: null,
  } satisfies LlamaConfig);
});

test('the rotary base is read from either layout, and null counts as absent', (t) => {
  const theta = (extra: object): number => parseLlamaConfig({ ...MINIMAL, ...extra }, 'c').ropeTheta;
  t.is(theta({ rope_theta: 5e5, rope_scaling: null }), 5e5);
  t.is(theta({ rope_parameters: { rope_theta: 5e4, rope_type: 'default' } }), 5e4);
  t.is(theta({ rope_parameters: null, rope_theta: null }), 1e4);
});

test('what other files of this family say is understood', (t) => {
  const read = (extra: object): LlamaConfig => parseLlamaConfig({ ...MINIMAL, ...extra }, 'c');
  t.is(read({ max_sequence_length: 1024 }).maxPositionEmbeddings, 1024);
  t.is(read({ eos_token_id: [128001, 128008] }).eosTokenId, 128001);
  t.is(read({ head_dim: 16 }).headDim, 16);
  t.is(read({ head_dim: null, num_key_value_heads: null }).numKeyValueHeads, 4);
});

test('what this Llama does not do is refused, all of it at once', (t) => {
  const json = {
    ...MINIMAL,
    rope_scaling: { rope_type: 'llama3', factor: 8 },
    attention_bias: true,
    mlp_bias: true,
    hidden_act: 'gelu',
    quantization_config: { bits: 4 },
    num_key_value_heads: 3,
  };
  const error = t.throws(() => parseLlamaConfig(json, 'm/config.json'), { instanceOf: DataError });
  t.is(error?.path, 'm/config.json');
  for (const part of [
    'rope_scaling: is "llama3"',
    'attention_bias: is true',
    'mlp_bias: is true',
    'hidden_act: is "gelu"',
    'quantization_config: is set',
    'num_key_value_heads: is 3',
  ]) {
    t.true(error?.message.includes(part), part);
  }
});

test('the newer layout can also ask for scaling that is refused', (t) => {
  const json = { ...MINIMAL, rope_parameters: { rope_type: 'yarn', partial_rotary_factor: 0.5 } };
  const error = t.throws(() => parseLlamaConfig(json, 'c'), { instanceOf: DataError });
  t.regex(error?.message ?? '', /"yarn"[^]*partial_rotary_factor: is 0.5/);
});

test('other models and things that are no configuration are refused by name', (t) => {
  const message = (json: unknown): string | undefined =>
    t.throws(() => parseLlamaConfig(json, 'config.json'), { instanceOf: DataError })?.message;
  const allowed = 'allowed: "llama" or "mistral"';
  t.is(message({ model_type: 'bert' }), `config.json: model_type is "bert"; ${allowed}`);
  t.is(message({ model_type: 'toString' }), `config.json: model_type is "toString"; ${allowed}`);
  t.regex(message({}) ?? '', /model_type is missing/);
  for (const json of [null, 7, 'llama', [], undefined]) t.regex(message(json) ?? '', /not a JSON object/);
  t.regex(message({ ...MINIMAL, hidden_size: '40', vocab_size: 0 }) ?? '', /vocab_size[^]*hidden_size/);
});

const HOSTILE: readonly (readonly [title: string, fields: object, faults: readonly string[]])[] = [
  ['a width of 10^12', { hidden_size: 1e12 }, ['hidden_size: is 1000000000000; allowed: at most 262144']],
  ['10^9 layers', { num_hidden_layers: 1e9 }, ['num_hidden_layers: is 1000000000; allowed: at most 4096']],
  ['2^53 tokens', { vocab_size: 2 ** 53 }, ['vocab_size: is 9007199254740992; allowed: a whole number']],
  ['2^52 tokens', { vocab_size: 2 ** 52 }, ['vocab_size: is 4503599627370496; allowed: at most 16777216']],
  ['a negative width', { hidden_size: -4 }, ['hidden_size: is -4; allowed: a whole number of at least 1']],
  ['half a head', { num_attention_heads: 2.5 }, ['num_attention_heads: is 2.5; allowed: a whole number']],
  ['a width in words', { hidden_size: 'wide' }, ['hidden_size: is "wide"; allowed: a whole number']],
  ['no width', { hidden_size: undefined }, ['hidden_size: is missing; allowed: a whole number']],
  ['a list of layers', { num_hidden_layers: [2] }, ['num_hidden_layers: is [2]; allowed: a whole number']],
  ['an odd head', { head_dim: 7 }, ['head_dim: is 7; allowed: an even number']],
  ['a huge head', { head_dim: 2e9 }, ['head_dim: is 2000000000; allowed: at most 16384']],
  [
    'a rotary base in words',
    { rope_parameters: { rope_theta: 'x' } },
    ['rope_parameters.rope_theta: is "x"; allowed: a number above 0'],
  ],
  ['a rotary base of 0', { rope_theta: 0 }, ['rope_theta: is 0; allowed: a number above 0']],
  ['scaling in words', { rope_scaling: 'linear' }, ['rope_scaling: is "linear"; allowed: an object']],
  [
    'linear scaling of old',
    { rope_scaling: { type: 'linear', factor: 2 } },
    ['rope_scaling: is "linear"; allowed: "default" (no scaling)'],
  ],
  [
    'a short window',
    { sliding_window: 64, max_position_embeddings: 128 },
    ['sliding_window: is 64; allowed: null, or at least max_position_embeddings (128)'],
  ],
  ['no eps', { rms_norm_eps: 0 }, ['rms_norm_eps: is 0; allowed: a number above 0']],
  ['tied perhaps', { tie_word_embeddings: 'yes' }, ['tie_word_embeddings: is "yes"; allowed: true or false']],
  [
    'an end in words',
    { eos_token_id: '</s>' },
    ['eos_token_id: is "</s>"; allowed: a token id or a list of them'],
  ],
  [
    'two mistakes',
    { hidden_size: 0, mlp_bias: 1 },
    ['hidden_size: is 0;', 'mlp_bias: is 1; allowed: true or false'],
  ],
];

for (const [title, fields, faults] of HOSTILE) {
  test(`a config.json is refused with field, value and what is allowed: ${title}`, (t) => {
    const error = t.throws(() => parseLlamaConfig({ ...MINIMAL, ...fields }, 'c'), { instanceOf: DataError });
    for (const fault of faults) t.true(error.message.includes(`\n  ${fault}`), error.message);
    t.is(error.message.split('\n').length, 1 + faults.length, error.message);
  });
}

test('sizes in a run file have the same limits', (t) => {
  t.throws(() => llamaConfigFromFields({ size: '9m', hidden_size: 1e12 }, DEFAULTS), {
    instanceOf: ConfigError,
    message: /model\.hidden_size: is 1000000000000; allowed: at most 262144/,
  });
});

test('a mistral without a window is a Llama; the fields whose defaults differ must be there', (t) => {
  const json = { ...MINIMAL, model_type: 'mistral', num_key_value_heads: 2, max_position_embeddings: 64 };
  const { sliding_window: _, ...silent } = { ...json, sliding_window: null };
  t.deepEqual(parseLlamaConfig({ ...json, sliding_window: null }, 'c'), {
    ...parseLlamaConfig({ ...json, model_type: 'llama' }, 'c'),
  });
  t.is(parseLlamaConfig({ ...json, sliding_window: 64 }, 'c').numKeyValueHeads, 2);
  t.throws(() => parseLlamaConfig({ ...json, sliding_window: 32 }, 'c'), {
    message: /sliding_window: is 32/,
  });
  t.throws(() => parseLlamaConfig(silent, 'c'), {
    message: /sliding_window: is missing; allowed: to be there where model_type is "mistral"/,
  });
});

test('what is written is read back the same', (t) => {
  for (const tieWordEmbeddings of [true, false]) {
    const config: LlamaConfig = {
      ...parseLlamaConfig(MINIMAL, 'c'),
      tieWordEmbeddings,
      headDim: 12,
      numKeyValueHeads: 2,
      ropeTheta: 777,
      bosTokenId: 1,
      eosTokenId: 2,
    };
    t.deepEqual(parseLlamaConfig(JSON.parse(JSON.stringify(toHuggingFace(config))), 'c'), config);
  }
});

test('a written config.json carries both layouts', (t) => {
  const json = toHuggingFace(parseLlamaConfig({ ...MINIMAL, rope_theta: 300 }, 'c'));
  t.is(json['rope_theta'], 300);
  t.deepEqual(json['rope_parameters'], { rope_theta: 300, rope_type: 'default' });
  t.deepEqual(json['architectures'], ['LlamaForCausalLM']);
  const brain = toHuggingFace(parseLlamaConfig(MINIMAL, 'c'), 'bfloat16');
  t.deepEqual([brain['dtype'], brain['torch_dtype']], ['bfloat16', 'bfloat16']);
});
