/**
 * What a BERT or RoBERTa with a classification head is made of: the Hugging Face `config.json`, and the
 * tensors in Hugging Face names and order. Pure: no files, no tensors.
 */
import { z } from 'zod';
import type { ConfigFault } from '../errors.ts';
import type { TensorSpec } from '../galore/slot.ts';
import {
  modelTypeOf,
  schemaFaults,
  shownValue,
  sizeFaults,
  unknownFamily,
  unusable,
} from './config-faults.ts';
import type { HuggingFaceDtype } from './llama-config.ts';
import { POOLINGS, type Pooling } from './pooling.ts';

/** The architecture of one encoder with its head; everything that decides shapes and arithmetic. */
export interface BertConfig {
  readonly modelType: BertFamily;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly numHiddenLayers: number;
  readonly numAttentionHeads: number;
  /** Rows of the position embedding. A RoBERTa does not use those up to that of the padding token. */
  readonly maxPositionEmbeddings: number;
  readonly typeVocabSize: number;
  readonly layerNormEps: number;
  /** Standard deviation of new weights. */
  readonly initializerRange: number;
  readonly padTokenId: number;
  readonly bosTokenId: number | null;
  readonly eosTokenId: number | null;
  readonly pooling: Pooling;
  /** Names of the classes, in the order of their indices; at least two. */
  readonly labels: readonly string[];
}

/** `model_type` of the models that are read. */
export type BertFamily = (typeof BERT_FAMILIES)[number];
export const BERT_FAMILIES = ['bert', 'roberta'] as const;

/** The field of config.json that says so: as ModernBERT has it. Absent: `cls`. */
export const POOLING_FIELD = 'classifier_pooling';

/** The longest text, in tokens with the special ones. */
export function longestText({ modelType, maxPositionEmbeddings, padTokenId }: BertConfig): number {
  return modelType === 'bert' ? maxPositionEmbeddings : maxPositionEmbeddings - padTokenId - 1;
}

/** Names of the head's tensors: there is nothing of the encoder in them, and a folder may be without. */
export function headTensors(config: BertConfig): readonly TensorSpec[] {
  const { modelType, hiddenSize, pooling, labels } = config;
  const linear = (name: string, out: number): TensorSpec[] => [
    { name: `${name}.weight`, shape: [out, hiddenSize] },
    { name: `${name}.bias`, shape: [out] },
  ];
  if (pooling === 'mean') return linear('classifier', labels.length);
  const { dense, out } = headNames(modelType);
  return [...linear(dense, hiddenSize), ...linear(out, labels.length)];
}

/** Names of the two layers of a head with pooling `cls`. */
export function headNames(modelType: BertFamily): { readonly dense: string; readonly out: string } {
  return modelType === 'bert'
    ? { dense: 'bert.pooler.dense', out: 'classifier' }
    : { dense: 'classifier.dense', out: 'classifier.out_proj' };
}

/** The tensors of the model in the names, shapes and order of a Hugging Face checkpoint. */
export function bertTensors(config: BertConfig): readonly TensorSpec[] {
  const { modelType, vocabSize, hiddenSize, intermediateSize } = config;
  const tensors: TensorSpec[] = [];
  const add = (name: string, ...shape: number[]): void => {
    tensors.push({ name: `${modelType}.${name}`, shape });
  };
  const linear = (name: string, out: number, width: number): void => {
    add(`${name}.weight`, out, width);
    add(`${name}.bias`, out);
  };
  const norm = (name: string): void => {
    add(`${name}.LayerNorm.weight`, hiddenSize);
    add(`${name}.LayerNorm.bias`, hiddenSize);
  };
  add('embeddings.word_embeddings.weight', vocabSize, hiddenSize);
  add('embeddings.position_embeddings.weight', config.maxPositionEmbeddings, hiddenSize);
  add('embeddings.token_type_embeddings.weight', config.typeVocabSize, hiddenSize);
  norm('embeddings');
  for (let layer = 0; layer < config.numHiddenLayers; layer++) {
    const prefix = `encoder.layer.${layer}`;
    for (const part of ['query', 'key', 'value']) {
      linear(`${prefix}.attention.self.${part}`, hiddenSize, hiddenSize);
    }
    linear(`${prefix}.attention.output.dense`, hiddenSize, hiddenSize);
    norm(`${prefix}.attention.output`);
    linear(`${prefix}.intermediate.dense`, intermediateSize, hiddenSize);
    linear(`${prefix}.output.dense`, hiddenSize, intermediateSize);
    norm(`${prefix}.output`);
  }
  return [...tensors, ...headTensors(config)];
}

const WHOLE = 'a whole number of at least 1';
const count = z.int(WHOLE).min(1, WHOLE);
const positive = z.number('a number above 0').positive('a number above 0');
const flag = z.boolean('true or false');
const tokenId = z.int('a token id').min(0, 'a token id');

/** The keys of config.json that are read; others are left alone. `null` counts as absent where a default exists. */
const huggingFaceSchema = z.object({
  vocab_size: count,
  hidden_size: count,
  intermediate_size: count,
  num_hidden_layers: count,
  num_attention_heads: count,
  max_position_embeddings: count.nullish(),
  type_vocab_size: count.nullish(),
  hidden_act: z.string('a text').nullish(),
  layer_norm_eps: positive.nullish(),
  initializer_range: positive.nullish(),
  pad_token_id: tokenId.nullish(),
  bos_token_id: tokenId.nullish(),
  eos_token_id: tokenId.nullish(),
  position_embedding_type: z.string('a text').nullish(),
  is_decoder: flag.nullish(),
  add_cross_attention: flag.nullish(),
  problem_type: z.string('a text').nullish(),
  quantization_config: z.unknown().optional(),
  num_labels: count.nullish(),
  id2label: z.record(z.string(), z.string('a text'), 'an object of names by class index').nullish(),
  classifier_pooling: z.enum(POOLINGS, '"cls" or "mean"').nullish(),
});
type HuggingFaceConfig = z.output<typeof huggingFaceSchema>;

/** What transformers takes where the file says nothing, and is not the same in both. */
const DEFAULTS = {
  bert: { type_vocab_size: 2, layer_norm_eps: 1e-12, pad_token_id: 0 },
  roberta: { type_vocab_size: 2, layer_norm_eps: 1e-12, pad_token_id: 1 },
} as const;

/**
 * Reads a Hugging Face `config.json`; what is absent takes the default of transformers' BertConfig or
 * RobertaConfig. Dropout is for training in PyTorch and not read.
 * @param path where `json` came from, for the error
 * @throws DataError that lists everything in it which this encoder does not do
 */
export function parseBertConfig(json: unknown, path: string): BertConfig {
  const modelType = modelTypeOf(json);
  if (!isBertFamily(modelType)) throw unknownFamily(path, modelType, BERT_FAMILIES);
  const what = modelType === 'bert' ? 'BERT' : 'RoBERTa';
  const parsed = huggingFaceSchema.safeParse(json);
  if (!parsed.success) throw unusable(path, what, schemaFaults(json, parsed.error.issues));
  const fields = parsed.data;
  const defaults = DEFAULTS[modelType];
  const config: BertConfig = {
    modelType,
    vocabSize: fields.vocab_size,
    hiddenSize: fields.hidden_size,
    intermediateSize: fields.intermediate_size,
    numHiddenLayers: fields.num_hidden_layers,
    numAttentionHeads: fields.num_attention_heads,
    maxPositionEmbeddings: fields.max_position_embeddings ?? 512,
    typeVocabSize: fields.type_vocab_size ?? defaults.type_vocab_size,
    layerNormEps: fields.layer_norm_eps ?? defaults.layer_norm_eps,
    initializerRange: fields.initializer_range ?? 0.02,
    padTokenId: fields.pad_token_id ?? defaults.pad_token_id,
    bosTokenId: fields.bos_token_id ?? null,
    eosTokenId: fields.eos_token_id ?? null,
    pooling: fields.classifier_pooling ?? 'cls',
    labels: labelsOf(fields) ?? [],
  };
  const faults = [...unsupportedFeatures(fields), ...relationFaults(config)];
  if (faults.length > 0) throw unusable(path, what, faults);
  return config;
}

/** Whether this is a `model_type` of this file. */
export function isBertFamily(modelType: string): modelType is BertFamily {
  return (BERT_FAMILIES as readonly string[]).includes(modelType);
}

/** Names that transformers gives to classes without names. */
export function genericLabels(count: number): readonly string[] {
  return Array.from({ length: count }, (_, index) => `LABEL_${index}`);
}

/** In order; undefined where the indices have gaps. */
function labelsOf({ id2label, num_labels: count }: HuggingFaceConfig): readonly string[] | undefined {
  if (id2label === null || id2label === undefined) return genericLabels(count ?? 2);
  const labels = Object.keys(id2label).map((_, index) => id2label[String(index)]);
  return labels.includes(undefined) ? undefined : (labels as string[]);
}

/** What a config.json may ask for that this encoder does not do. */
function unsupportedFeatures(fields: HuggingFaceConfig): ConfigFault[] {
  const faults: ConfigFault[] = [];
  const refuse = (field: string, value: unknown, allowed: string): void => {
    faults.push({ field, value: shownValue(value), allowed });
  };
  const activation = fields.hidden_act ?? 'gelu';
  if (activation !== 'gelu') refuse('hidden_act', activation, '"gelu" (the exact one, with erf)');
  const positions = fields.position_embedding_type ?? 'absolute';
  if (positions !== 'absolute') refuse('position_embedding_type', positions, '"absolute"');
  for (const field of ['is_decoder', 'add_cross_attention'] as const) {
    if (fields[field] === true) refuse(field, true, 'false (an encoder)');
  }
  const problem = fields.problem_type ?? 'single_label_classification';
  if (problem !== 'single_label_classification') {
    refuse('problem_type', problem, '"single_label_classification": each text has one class');
  }
  if (fields.quantization_config !== undefined && fields.quantization_config !== null) {
    faults.push({
      field: 'quantization_config',
      value: 'set',
      allowed: 'null (weights that are not quantised)',
    });
  }
  const labels = labelsOf(fields);
  if (labels === undefined) refuse('id2label', fields.id2label, 'names with the keys "0", "1" and so on');
  else if (labels.length < 2) {
    refuse(fields.id2label ? 'id2label' : 'num_labels', labels.length, 'at least two classes');
  } else if (new Set(labels).size < labels.length) {
    refuse('id2label', fields.id2label, 'another name for each class');
  }
  return faults;
}

function relationFaults(config: BertConfig): ConfigFault[] {
  const faults = sizeFaults({
    vocab_size: config.vocabSize,
    hidden_size: config.hiddenSize,
    intermediate_size: config.intermediateSize,
    num_hidden_layers: config.numHiddenLayers,
    num_attention_heads: config.numAttentionHeads,
    max_position_embeddings: config.maxPositionEmbeddings,
    type_vocab_size: config.typeVocabSize,
  });
  if (config.hiddenSize % config.numAttentionHeads !== 0) {
    faults.push({
      field: 'hidden_size',
      value: String(config.hiddenSize),
      allowed: `a multiple of num_attention_heads (${config.numAttentionHeads})`,
    });
  }
  if (config.padTokenId >= config.vocabSize) {
    const allowed = `a token of the vocabulary (below ${config.vocabSize})`;
    faults.push({ field: 'pad_token_id', value: String(config.padTokenId), allowed });
  }
  if (longestText(config) < 1) {
    faults.push({
      field: 'max_position_embeddings',
      value: String(config.maxPositionEmbeddings),
      allowed: `more than pad_token_id + 1 (${config.padTokenId + 1}): a RoBERTa counts positions from there`,
    });
  }
  return faults;
}

const ARCHITECTURES = {
  bert: 'BertForSequenceClassification',
  roberta: 'RobertaForSequenceClassification',
} as const;

/**
 * The `config.json` of this model. With pooling `cls` transformers computes the same; with `mean` it knows
 * no such class, and the field `classifier_pooling` says so to this program.
 */
export function bertToHuggingFace(
  config: BertConfig,
  dtype: HuggingFaceDtype = 'float32',
): Record<string, unknown> {
  const { modelType, labels } = config;
  return {
    architectures: [ARCHITECTURES[modelType]],
    attention_probs_dropout_prob: 0,
    bos_token_id: config.bosTokenId,
    classifier_dropout: null,
    [POOLING_FIELD]: config.pooling,
    dtype,
    eos_token_id: config.eosTokenId,
    hidden_act: 'gelu',
    hidden_dropout_prob: 0,
    hidden_size: config.hiddenSize,
    id2label: Object.fromEntries(labels.map((label, index) => [String(index), label])),
    initializer_range: config.initializerRange,
    intermediate_size: config.intermediateSize,
    label2id: Object.fromEntries(labels.map((label, index) => [label, index])),
    layer_norm_eps: config.layerNormEps,
    max_position_embeddings: config.maxPositionEmbeddings,
    model_type: modelType,
    num_attention_heads: config.numAttentionHeads,
    num_hidden_layers: config.numHiddenLayers,
    pad_token_id: config.padTokenId,
    position_embedding_type: 'absolute',
    problem_type: 'single_label_classification',
    torch_dtype: dtype,
    type_vocab_size: config.typeVocabSize,
    use_cache: true,
    vocab_size: config.vocabSize,
  };
}
