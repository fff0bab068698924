/** The model of a configuration, over weights it does not own. */
import type { BertConfig } from '../../model/bert-config.ts';
import { isClassifier, type ModelConfig } from '../../model/model-config.ts';
import { BertModel } from './bert.ts';
import { LlamaModel } from './llama.ts';
import type { ModelOptions } from './model.ts';
import type { WeightStore } from './weights.ts';

/** The model that a configuration describes. */
export type ModelOf<C extends ModelConfig> = C extends BertConfig ? BertModel : LlamaModel;

/** @throws TensorShapeError if `weights` lacks a tensor of the model or has it in another shape */
export function makeModel<C extends ModelConfig>(
  config: C,
  weights: WeightStore,
  options: ModelOptions,
): ModelOf<C> {
  const model = isClassifier(config)
    ? new BertModel(config, weights, options)
    : new LlamaModel(config, weights, options);
  return model as ModelOf<C>;
}
