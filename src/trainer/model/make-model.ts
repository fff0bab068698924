/** The model of a configuration, over weights it does not own. */
import type { BertConfig } from '../../model/bert-config.ts';
import type { LlamaConfig } from '../../model/llama-config.ts';
import { isClassifier, type ModelConfig } from '../../model/model-config.ts';
import { BertModel } from './bert.ts';
import { LlamaModel } from './llama.ts';
import type { ModelOptions } from './model.ts';
import type { WeightStore } from './weights.ts';

/** @throws TensorShapeError if `weights` lacks a tensor of the model or has it in another shape */
export function makeModel(config: LlamaConfig, weights: WeightStore, options: ModelOptions): LlamaModel;
export function makeModel(config: BertConfig, weights: WeightStore, options: ModelOptions): BertModel;
export function makeModel(
  config: ModelConfig,
  weights: WeightStore,
  options: ModelOptions,
): LlamaModel | BertModel;
export function makeModel(
  config: ModelConfig,
  weights: WeightStore,
  options: ModelOptions,
): LlamaModel | BertModel {
  return isClassifier(config)
    ? new BertModel(config, weights, options)
    : new LlamaModel(config, weights, options);
}
