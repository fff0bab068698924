/** What a run makes of the model in a folder: the classes it is to tell, and what it is to tell them from. Pure. */
import type { RunConfig } from '../config/schema.ts';
import { ConfigError } from '../errors.ts';
import { genericLabels, longestText, type BertConfig } from './bert-config.ts';
import { isClassifier, type ModelConfig } from './model-config.ts';

/**
 * The model of `folder` for the task of a run: a classifier with the run's labels.
 * @throws ConfigError for a model that does another task, or texts that are too long for it
 */
export function classifierOf(
  model: ModelConfig,
  { task, seq_len: length }: Pick<RunConfig, 'task' | 'seq_len'>,
  folder: string,
): ModelConfig {
  const isWanted = task.type === 'sequence-classification';
  if (isClassifier(model) !== isWanted) {
    const what = isClassifier(model)
      ? `${folder} holds an encoder (model_type ${model.modelType}), which classifies texts`
      : `${folder} holds a Llama, which continues texts`;
    const type = isWanted ? 'causal-lm' : 'sequence-classification';
    throw fault('task.type', task.type, `${type}: ${what}`);
  }
  if (!isClassifier(model)) return model;
  const longest = longestText(model);
  if (length > longest) {
    throw fault(
      'seq_len',
      String(length),
      `at most ${longest}: the model of ${folder} has no more positions`,
    );
  }
  return { ...model, labels: task.labels ?? model.labels, pooling: task.pooling ?? model.pooling };
}

/** Whether the output layer of the model in a folder tells the classes of `model`: labels without names fit any. */
export function isOutputKept(stored: ModelConfig, { labels, pooling }: BertConfig): boolean {
  if (!isClassifier(stored) || stored.pooling !== pooling || stored.labels.length !== labels.length)
    return false;
  const isSame = (others: readonly string[]): boolean =>
    others.every((label, i) => label === stored.labels[i]);
  return isSame(labels) || isSame(genericLabels(labels.length));
}

function fault(field: string, value: string, allowed: string): ConfigError {
  return new ConfigError(`${field} is ${value}; it must be ${allowed}`, [{ field, value, allowed }]);
}
