/** The models there are, as one: what any of them is described by. Pure. */
import type { TensorSpec } from '../galore/slot.ts';
import {
  BERT_FAMILIES,
  bertTensors,
  bertToHuggingFace,
  isBertFamily,
  parseBertConfig,
  type BertConfig,
} from './bert-config.ts';
import { modelTypeOf, unknownFamily } from './config-faults.ts';
import {
  LLAMA_FAMILIES,
  llamaTensors,
  parseLlamaConfig,
  toHuggingFace,
  type HuggingFaceDtype,
  type LlamaConfig,
} from './llama-config.ts';

export type ModelConfig = LlamaConfig | BertConfig;

/**
 * Reads a Hugging Face `config.json`; its `model_type` decides.
 * @param path where `json` came from, for the error
 * @throws DataError that lists everything in it that is not supported
 */
export function parseModelConfig(json: unknown, path: string): ModelConfig {
  const modelType = modelTypeOf(json);
  if (isBertFamily(modelType)) return parseBertConfig(json, path);
  if (Object.hasOwn(LLAMA_FAMILIES, modelType)) return parseLlamaConfig(json, path);
  throw unknownFamily(path, modelType, [...Object.keys(LLAMA_FAMILIES), ...BERT_FAMILIES]);
}

/** The tensors of the model in the names, shapes and order of a Hugging Face checkpoint. */
export function modelTensors(config: ModelConfig): readonly TensorSpec[] {
  return isClassifier(config) ? bertTensors(config) : llamaTensors(config);
}

/** The `config.json` of the model. */
export function toConfigJson(config: ModelConfig, dtype?: HuggingFaceDtype): Record<string, unknown> {
  return isClassifier(config) ? bertToHuggingFace(config, dtype) : toHuggingFace(config, dtype);
}

/** Whether the model tells classes of texts; otherwise it continues them. */
export function isClassifier(config: ModelConfig): config is BertConfig {
  return config.modelType !== 'llama';
}

/**
 * Parts of tensors' names for entries of `target_modules`: `attn` and `mlp` mean the attention and feed-forward
 * matrices of the layers in every model, anything else means itself.
 */
export function targetParts(config: ModelConfig, modules: readonly string[]): readonly string[] {
  if (!isClassifier(config)) return modules;
  const layers = Array.from({ length: config.numHiddenLayers }, (_, layer) => `layer.${layer}.`);
  const parts: Readonly<Record<string, readonly string[]>> = {
    attn: ['attention.'],
    mlp: layers.flatMap((layer) => [`${layer}intermediate.dense`, `${layer}output.dense`]),
  };
  return modules.flatMap((module) => parts[module] ?? [module]);
}
