/**
 * What a Llama is made of: sizes by name or by field, the Hugging Face `config.json` in both layouts
 * in use, and the tensors in Hugging Face names and order. Pure: no files, no tensors.
 */
import { z } from 'zod';
import type { RunConfigInput } from '../config/schema.ts';
import type { ConfigFault } from '../errors.ts';
import { sizeOf, type TensorSpec } from '../galore/slot.ts';
import {
  configError,
  GREATEST_SIZES,
  modelTypeOf,
  schemaFaults,
  shownValue,
  sizeFaults,
  unknownFamily,
  unusable,
} from './config-faults.ts';

/** The architecture of one Llama; everything that decides shapes and arithmetic. */
export interface LlamaConfig {
  readonly modelType: 'llama';
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly numHiddenLayers: number;
  readonly numAttentionHeads: number;
  /** Equal to `numAttentionHeads`, or a divisor of it: grouped-query attention. */
  readonly numKeyValueHeads: number;
  /** Usually hiddenSize / numAttentionHeads; a config.json may say otherwise. */
  readonly headDim: number;
  /** The head uses the embedding matrix; there is no `lm_head.weight`. */
  readonly tieWordEmbeddings: boolean;
  readonly ropeTheta: number;
  readonly rmsNormEps: number;
  /** Standard deviation of new weights. */
  readonly initializerRange: number;
  readonly maxPositionEmbeddings: number;
  readonly bosTokenId: number | null;
  readonly eosTokenId: number | null;
}

/** The fields of the `model` section that describe a model made from scratch. */
export type ModelFields = Omit<RunConfigInput['model'], 'path'>;

/** What the `model` section leaves to other sections: the tokenizer and the sequence length. */
export interface ModelDefaults {
  readonly vocabSize: number;
  readonly maxPositionEmbeddings: number;
}

type SizeName = NonNullable<ModelFields['size']>;

/** hidden_size, intermediate_size, num_attention_heads, num_hidden_layers of the GaLore paper's models. */
const SIZES: Readonly<Record<SizeName, readonly [number, number, number, number]>> = {
  '9m': [128, 352, 4, 4],
  '20m': [256, 688, 4, 4],
  '35m': [384, 1024, 8, 6],
  '40m': [416, 1024, 8, 8],
  '60m': [512, 1376, 8, 8],
  '71m': [512, 1368, 8, 12],
  '100m': [640, 1708, 10, 12],
  '130m': [768, 2048, 12, 12],
  '250m': [768, 2560, 16, 24],
  '350m': [1024, 2736, 16, 24],
  '1b': [2048, 5461, 32, 24],
  '3b': [2560, 6848, 32, 32],
  '7b': [4096, 11008, 32, 32],
};

const REQUIRED_FIELDS = [
  'hidden_size',
  'intermediate_size',
  'num_hidden_layers',
  'num_attention_heads',
] as const;

/**
 * The model the `model` section describes: a size by name, any field on top of it, or fields alone.
 * @throws ConfigError with every fault: fields missing without a size, relations that do not hold.
 */
export function llamaConfigFromFields(fields: ModelFields, defaults: ModelDefaults): LlamaConfig {
  const named = fields.size === undefined ? undefined : SIZES[fields.size];
  const missing = named === undefined ? REQUIRED_FIELDS.filter((field) => fields[field] === undefined) : [];
  if (missing.length > 0) {
    throw configError(
      missing.map((field) => ({
        field: `model.${field}`,
        value: 'nothing',
        allowed: 'a whole number of at least 1, or a model.size that sets it',
      })),
    );
  }
  const [hiddenSize, intermediateSize, numAttentionHeads, numHiddenLayers] = [
    fields.hidden_size ?? named?.[0] ?? 0,
    fields.intermediate_size ?? named?.[1] ?? 0,
    fields.num_attention_heads ?? named?.[2] ?? 0,
    fields.num_hidden_layers ?? named?.[3] ?? 0,
  ];
  const config: LlamaConfig = {
    modelType: 'llama',
    vocabSize: fields.vocab_size ?? defaults.vocabSize,
    hiddenSize,
    intermediateSize,
    numHiddenLayers,
    numAttentionHeads,
    numKeyValueHeads: fields.num_key_value_heads ?? numAttentionHeads,
    headDim: hiddenSize / numAttentionHeads,
    tieWordEmbeddings: fields.tie_word_embeddings ?? false,
    ropeTheta: fields.rope_theta ?? 10_000,
    rmsNormEps: fields.rms_norm_eps ?? 1e-6,
    initializerRange: fields.initializer_range ?? 0.02,
    maxPositionEmbeddings: defaults.maxPositionEmbeddings,
    bosTokenId: null,
    eosTokenId: null,
  };
  const faults = relationFaults(config).map((fault) => ({ ...fault, field: `model.${fault.field}` }));
  if (faults.length > 0) throw configError(faults);
  return config;
}

/** Limits, and relations between the fields, that must hold whichever way the configuration came about. */
export function relationFaults(config: LlamaConfig): ConfigFault[] {
  const { hiddenSize, numAttentionHeads: heads, numKeyValueHeads: keyValueHeads, headDim } = config;
  const faults = llamaSizeFaults(config);
  if (!Number.isInteger(headDim)) {
    faults.push({
      field: 'hidden_size',
      value: String(hiddenSize),
      allowed: `a multiple of num_attention_heads (${heads})`,
    });
  } else if (headDim % 2 !== 0) {
    const isGiven = headDim * heads !== hiddenSize;
    faults.push({
      field: isGiven ? 'head_dim' : 'hidden_size',
      value: isGiven
        ? String(headDim)
        : `${hiddenSize}, which gives each of ${heads} heads ${headDim} dimensions`,
      allowed: 'an even number of dimensions per head (rotary embeddings turn pairs)',
    });
  }
  if (heads % keyValueHeads !== 0) {
    faults.push({
      field: 'num_key_value_heads',
      value: String(keyValueHeads),
      allowed: `a divisor of num_attention_heads (${heads})`,
    });
  }
  return faults;
}

function llamaSizeFaults(config: LlamaConfig): ConfigFault[] {
  return sizeFaults({
    vocab_size: config.vocabSize,
    hidden_size: config.hiddenSize,
    intermediate_size: config.intermediateSize,
    num_hidden_layers: config.numHiddenLayers,
    num_attention_heads: config.numAttentionHeads,
    num_key_value_heads: config.numKeyValueHeads,
    // A head that follows from a width that is too large is no second mistake.
    head_dim: config.hiddenSize > GREATEST_SIZES.hidden_size ? 0 : config.headDim,
  });
}

/** The tensors of the model in the names, shapes and order of a Hugging Face checkpoint. */
export function llamaTensors(config: LlamaConfig): readonly TensorSpec[] {
  const { vocabSize, hiddenSize, intermediateSize } = config;
  const queryWidth = config.numAttentionHeads * config.headDim;
  const keyValueWidth = config.numKeyValueHeads * config.headDim;
  const tensors: TensorSpec[] = [{ name: 'model.embed_tokens.weight', shape: [vocabSize, hiddenSize] }];
  for (let layer = 0; layer < config.numHiddenLayers; layer++) {
    const prefix = `model.layers.${layer}.`;
    tensors.push(
      { name: `${prefix}self_attn.q_proj.weight`, shape: [queryWidth, hiddenSize] },
      { name: `${prefix}self_attn.k_proj.weight`, shape: [keyValueWidth, hiddenSize] },
      { name: `${prefix}self_attn.v_proj.weight`, shape: [keyValueWidth, hiddenSize] },
      { name: `${prefix}self_attn.o_proj.weight`, shape: [hiddenSize, queryWidth] },
      { name: `${prefix}mlp.gate_proj.weight`, shape: [intermediateSize, hiddenSize] },
      { name: `${prefix}mlp.up_proj.weight`, shape: [intermediateSize, hiddenSize] },
      { name: `${prefix}mlp.down_proj.weight`, shape: [hiddenSize, intermediateSize] },
      { name: `${prefix}input_layernorm.weight`, shape: [hiddenSize] },
      { name: `${prefix}post_attention_layernorm.weight`, shape: [hiddenSize] },
    );
  }
  tensors.push({ name: 'model.norm.weight', shape: [hiddenSize] });
  if (!config.tieWordEmbeddings) {
    tensors.push({ name: 'lm_head.weight', shape: [vocabSize, hiddenSize] });
  }
  return tensors;
}

/** Number of trainable numbers; a tied head counts once. */
export function parameterCount(config: LlamaConfig): number {
  return llamaTensors(config).reduce((total, tensor) => total + sizeOf(tensor.shape), 0);
}

const WHOLE = 'a whole number of at least 1';
const count = z.int(WHOLE).min(1, WHOLE);
const positive = z.number('a number above 0').positive('a number above 0');
const flag = z.boolean('true or false');
const tokenId = z.int('a token id').min(0, 'a token id');
const rope = z.looseObject(
  {
    rope_theta: positive.nullish(),
    rope_type: z.string('a text').nullish(),
    type: z.string('a text').nullish(),
    partial_rotary_factor: z.number('a number').nullish(),
  },
  'an object',
);

/**
 * The keys of config.json that are read; others are left alone. `null` counts as absent where a default
 * exists. The messages say what is allowed.
 */
const huggingFaceSchema = z.object({
  vocab_size: count,
  hidden_size: count,
  intermediate_size: count,
  num_hidden_layers: count,
  num_attention_heads: count,
  num_key_value_heads: count.nullish(),
  head_dim: count.nullish(),
  hidden_act: z.string('a text').nullish(),
  max_position_embeddings: count.nullish(),
  max_sequence_length: count.nullish(), // what the GaLore repository's own configurations call it
  initializer_range: positive.nullish(),
  rms_norm_eps: positive.nullish(),
  tie_word_embeddings: flag.nullish(),
  attention_bias: flag.nullish(),
  mlp_bias: flag.nullish(),
  rope_theta: positive.nullish(),
  rope_scaling: rope.nullish(),
  rope_parameters: rope.nullish(),
  sliding_window: count.nullish(),
  quantization_config: z.unknown().optional(),
  bos_token_id: tokenId.nullish(),
  eos_token_id: z.union([tokenId, z.array(tokenId).min(1)], 'a token id or a list of them').nullish(),
});
type HuggingFaceConfig = z.output<typeof huggingFaceSchema>;

/**
 * Families whose mathematics is a Llama's once nothing below is refused. The fields named are those whose
 * default in that family is another than a Llama's: there the file must say.
 */
export const LLAMA_FAMILIES: Readonly<Record<string, readonly string[]>> = {
  llama: [],
  mistral: ['num_key_value_heads', 'sliding_window', 'max_position_embeddings'],
};

/**
 * Reads a Hugging Face `config.json`; what is absent takes the default of transformers' LlamaConfig.
 * Of several end-of-text tokens the first is kept.
 * @param path where `json` came from, for the error
 * @throws DataError that lists everything in it which this Llama does not do
 */
export function parseLlamaConfig(json: unknown, path: string): LlamaConfig {
  const modelType = modelTypeOf(json);
  if (typeof json !== 'object' || json === null || !Object.hasOwn(LLAMA_FAMILIES, modelType)) {
    throw unknownFamily(path, modelType, Object.keys(LLAMA_FAMILIES));
  }
  const unsaid = (LLAMA_FAMILIES[modelType] ?? []).filter((field) => !(field in json));
  const parsed = huggingFaceSchema.safeParse(json);
  if (!parsed.success || unsaid.length > 0) {
    const faults = schemaFaults(json, parsed.error?.issues ?? []);
    const silent = unsaid.map((field) => ({
      field,
      value: 'missing',
      allowed: `to be there where model_type is "${modelType}"`,
    }));
    throw unusable(path, 'Llama', [...faults, ...silent]);
  }
  const fields = parsed.data;
  const config: LlamaConfig = {
    modelType: 'llama',
    vocabSize: fields.vocab_size,
    hiddenSize: fields.hidden_size,
    intermediateSize: fields.intermediate_size,
    numHiddenLayers: fields.num_hidden_layers,
    numAttentionHeads: fields.num_attention_heads,
    numKeyValueHeads: fields.num_key_value_heads ?? fields.num_attention_heads,
    headDim: fields.head_dim ?? fields.hidden_size / fields.num_attention_heads,
    tieWordEmbeddings: fields.tie_word_embeddings ?? false,
    // The newer layout nests the base; the older one has it at the top.
    ropeTheta: fields.rope_parameters?.rope_theta ?? fields.rope_theta ?? 10_000,
    rmsNormEps: fields.rms_norm_eps ?? 1e-6,
    initializerRange: fields.initializer_range ?? 0.02,
    maxPositionEmbeddings: fields.max_position_embeddings ?? fields.max_sequence_length ?? 2048,
    bosTokenId: fields.bos_token_id ?? null,
    eosTokenId: (Array.isArray(fields.eos_token_id) ? fields.eos_token_id[0] : fields.eos_token_id) ?? null,
  };
  const faults = [...unsupportedFeatures(fields, config), ...relationFaults(config)];
  if (faults.length > 0) throw unusable(path, 'Llama', faults);
  return config;
}

/** Element types of weights, as config.json names them. */
export type HuggingFaceDtype = 'float32' | 'bfloat16' | 'float16';

/**
 * The `config.json` of this model. It carries both layouts, so transformers 4 and 5 load it and find
 * the same rotary base.
 */
export function toHuggingFace(
  config: LlamaConfig,
  dtype: HuggingFaceDtype = 'float32',
): Record<string, unknown> {
  return {
    architectures: ['LlamaForCausalLM'],
    attention_bias: false,
    attention_dropout: 0,
    bos_token_id: config.bosTokenId,
    dtype,
    eos_token_id: config.eosTokenId,
    head_dim: config.headDim,
    hidden_act: 'silu',
    hidden_size: config.hiddenSize,
    initializer_range: config.initializerRange,
    intermediate_size: config.intermediateSize,
    max_position_embeddings: config.maxPositionEmbeddings,
    mlp_bias: false,
    model_type: 'llama',
    num_attention_heads: config.numAttentionHeads,
    num_hidden_layers: config.numHiddenLayers,
    num_key_value_heads: config.numKeyValueHeads,
    pretraining_tp: 1,
    rms_norm_eps: config.rmsNormEps,
    rope_parameters: { rope_theta: config.ropeTheta, rope_type: 'default' },
    rope_theta: config.ropeTheta,
    tie_word_embeddings: config.tieWordEmbeddings,
    torch_dtype: dtype,
    use_cache: true,
    vocab_size: config.vocabSize,
  };
}

/** What a config.json may ask for that this Llama does not do. */
function unsupportedFeatures(fields: HuggingFaceConfig, config: LlamaConfig): ConfigFault[] {
  const faults: ConfigFault[] = [];
  for (const key of ['rope_scaling', 'rope_parameters'] as const) {
    const rope = fields[key];
    if (rope === null || rope === undefined) continue;
    const type = rope.rope_type ?? rope.type ?? 'default';
    if (type !== 'default') {
      faults.push({ field: key, value: shownValue(type), allowed: '"default" (no scaling)' });
    }
    const partial = rope.partial_rotary_factor ?? 1;
    if (partial !== 1) {
      faults.push({ field: `${key}.partial_rotary_factor`, value: shownValue(partial), allowed: '1' });
    }
  }
  for (const field of ['attention_bias', 'mlp_bias'] as const) {
    if (fields[field] === true) faults.push({ field, value: 'true', allowed: 'false (no bias terms)' });
  }
  const activation = fields.hidden_act ?? 'silu';
  if (activation !== 'silu' && activation !== 'swish') {
    faults.push({ field: 'hidden_act', value: shownValue(activation), allowed: '"silu"' });
  }
  const window = fields.sliding_window ?? Infinity;
  if (window < config.maxPositionEmbeddings) {
    const allowed = `null, or at least max_position_embeddings (${config.maxPositionEmbeddings}): every position sees all before it`;
    faults.push({ field: 'sliding_window', value: String(window), allowed });
  }
  if (fields.quantization_config !== undefined && fields.quantization_config !== null) {
    faults.push({
      field: 'quantization_config',
      value: 'set',
      allowed: 'null (weights that are not quantised)',
    });
  }
  return faults;
}
