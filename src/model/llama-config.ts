/**
 * What a Llama is made of: sizes by name or by field, the Hugging Face `config.json` in both layouts
 * in use, and the tensors in Hugging Face names and order. Pure: no files, no tensors.
 */
import { z } from 'zod';
import type { RunConfigInput } from '../config/schema.ts';
import { ConfigError, DataError, type ConfigFault } from '../errors.ts';
import { sizeOf, type TensorSpec } from '../galore/slot.ts';

/** The architecture of one Llama; everything that decides shapes and arithmetic. */
export interface LlamaConfig {
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

/** Relations between the fields that must hold whichever way the configuration came about. */
export function relationFaults(config: LlamaConfig): ConfigFault[] {
  const { hiddenSize, numAttentionHeads: heads, numKeyValueHeads: keyValueHeads, headDim } = config;
  const faults: ConfigFault[] = [];
  if (!Number.isInteger(headDim)) {
    faults.push({
      field: 'hidden_size',
      value: String(hiddenSize),
      allowed: `a multiple of num_attention_heads (${heads})`,
    });
  } else if (headDim % 2 !== 0) {
    faults.push({
      field: 'hidden_size',
      value: `${hiddenSize}, which gives each of ${heads} heads ${headDim} dimensions`,
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

const count = z.int().min(1);

/** The keys of config.json that are read; others are left alone. `null` counts as absent where a default exists. */
const huggingFaceSchema = z.object({
  vocab_size: count,
  hidden_size: count,
  intermediate_size: count,
  num_hidden_layers: count,
  num_attention_heads: count,
  num_key_value_heads: count.nullish(),
  head_dim: count.nullish(),
  hidden_act: z.string().nullish(),
  max_position_embeddings: count.nullish(),
  max_sequence_length: count.nullish(), // what the GaLore repository's own configurations call it
  initializer_range: z.number().positive().nullish(),
  rms_norm_eps: z.number().positive().nullish(),
  tie_word_embeddings: z.boolean().nullish(),
  attention_bias: z.boolean().nullish(),
  mlp_bias: z.boolean().nullish(),
  rope_theta: z.number().positive().nullish(),
  rope_scaling: z.record(z.string(), z.unknown()).nullish(),
  rope_parameters: z.record(z.string(), z.unknown()).nullish(),
  quantization_config: z.unknown().optional(),
  bos_token_id: z.int().min(0).nullish(),
  eos_token_id: z.union([z.int().min(0), z.array(z.int().min(0)).min(1)]).nullish(),
});
type HuggingFaceConfig = z.output<typeof huggingFaceSchema>;

/**
 * Reads a Hugging Face `config.json`; what is absent takes the default of transformers' LlamaConfig.
 * Of several end-of-text tokens the first is kept.
 * @param path where `json` came from, for the error
 * @throws DataError that lists everything in it which this Llama does not do
 */
export function parseLlamaConfig(json: unknown, path: string): LlamaConfig {
  const modelType = modelTypeOf(json);
  if (modelType !== 'llama') {
    throw new DataError(path, `${path}: model_type is ${modelType}; only "llama" can be trained`);
  }
  const parsed = huggingFaceSchema.safeParse(json);
  if (!parsed.success) {
    const faults = parsed.error.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`);
    throw unusable(path, faults);
  }
  const fields = parsed.data;
  const config: LlamaConfig = {
    vocabSize: fields.vocab_size,
    hiddenSize: fields.hidden_size,
    intermediateSize: fields.intermediate_size,
    numHiddenLayers: fields.num_hidden_layers,
    numAttentionHeads: fields.num_attention_heads,
    numKeyValueHeads: fields.num_key_value_heads ?? fields.num_attention_heads,
    headDim: fields.head_dim ?? fields.hidden_size / fields.num_attention_heads,
    tieWordEmbeddings: fields.tie_word_embeddings ?? false,
    ropeTheta: ropeThetaOf(fields),
    rmsNormEps: fields.rms_norm_eps ?? 1e-6,
    initializerRange: fields.initializer_range ?? 0.02,
    maxPositionEmbeddings: fields.max_position_embeddings ?? fields.max_sequence_length ?? 2048,
    bosTokenId: fields.bos_token_id ?? null,
    eosTokenId: (Array.isArray(fields.eos_token_id) ? fields.eos_token_id[0] : fields.eos_token_id) ?? null,
  };
  const faults = [
    ...unsupportedFeatures(fields),
    ...relationFaults(config).map((fault) => `${fault.field}: is ${fault.value}; allowed: ${fault.allowed}`),
  ];
  if (faults.length > 0) throw unusable(path, faults);
  return config;
}

/**
 * The `config.json` of this model. It carries both layouts, so transformers 4 and 5 load it and find
 * the same rotary base.
 */
export function toHuggingFace(config: LlamaConfig): Record<string, unknown> {
  return {
    architectures: ['LlamaForCausalLM'],
    attention_bias: false,
    attention_dropout: 0,
    bos_token_id: config.bosTokenId,
    dtype: 'float32',
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
    torch_dtype: 'float32',
    use_cache: true,
    vocab_size: config.vocabSize,
  };
}

function modelTypeOf(json: unknown): string {
  if (typeof json !== 'object' || json === null || Array.isArray(json)) return 'missing (not a JSON object)';
  if (!('model_type' in json)) return 'missing';
  return json.model_type === 'llama' ? 'llama' : JSON.stringify(json.model_type);
}

/** The newer layout nests the base in `rope_parameters`; the older one has it at the top. */
function ropeThetaOf(fields: HuggingFaceConfig): number {
  const nested = fields.rope_parameters?.['rope_theta'];
  return typeof nested === 'number' && nested > 0 ? nested : (fields.rope_theta ?? 10_000);
}

/** What a config.json may ask for that this Llama does not do, in words. */
function unsupportedFeatures(fields: HuggingFaceConfig): string[] {
  const faults: string[] = [];
  for (const key of ['rope_scaling', 'rope_parameters'] as const) {
    const rope = fields[key];
    if (rope === null || rope === undefined) continue;
    const type = rope['rope_type'] ?? rope['type'] ?? 'default';
    if (type !== 'default')
      faults.push(`${key}: is ${JSON.stringify(type)}; allowed: "default" (no scaling)`);
    const partial = rope['partial_rotary_factor'] ?? 1;
    if (partial !== 1) {
      faults.push(`${key}.partial_rotary_factor: is ${JSON.stringify(partial)}; allowed: 1`);
    }
  }
  for (const key of ['attention_bias', 'mlp_bias'] as const) {
    if (fields[key] === true) faults.push(`${key}: is true; allowed: false (no bias terms)`);
  }
  const activation = fields.hidden_act ?? 'silu';
  if (activation !== 'silu' && activation !== 'swish') {
    faults.push(`hidden_act: is ${JSON.stringify(activation)}; allowed: "silu"`);
  }
  if (fields.quantization_config !== undefined && fields.quantization_config !== null) {
    faults.push('quantization_config: is set; allowed: weights that are not quantised');
  }
  return faults;
}

function unusable(path: string, faults: readonly string[]): DataError {
  const lines = faults.map((fault) => `  ${fault}`);
  return new DataError(path, `${path}: not a Llama that can be trained:\n${lines.join('\n')}`);
}

function configError(faults: readonly ConfigFault[]): ConfigError {
  const lines = faults.map((fault) => `  ${fault.field}: is ${fault.value}; allowed: ${fault.allowed}`);
  return new ConfigError(`the model cannot be built:\n${lines.join('\n')}`, faults);
}
