/** The hash by which a site sees that a run began with the model folder that it means. */
import { bytesOf } from '../array-bytes.ts';
import { isOutputKept } from '../model/classifier.ts';
import { isClassifier, type ModelConfig } from '../model/model-config.ts';
import { readModelConfig } from './model-config.ts';
import { openModelWeights } from './model-weights.ts';
import { compareNames, WeightsHasher } from './weights-hash.ts';

/**
 * SHA-256, in hexadecimal, of the model's weights as a run with this seed takes them from the folder.
 * @throws DataError, ConfigError if the folder is not one of such a model
 */
export async function baseHash(folder: string, model: ModelConfig, seed: number): Promise<string> {
  const isOutputNew = isClassifier(model) && !isOutputKept(await readModelConfig(folder), model);
  await using weights = await openModelWeights(folder, model, { newHead: { seed, isOutputNew } });
  const hasher = new WeightsHasher();
  for (const spec of weights.specs.toSorted((a, b) => compareNames(a.name, b.name))) {
    hasher.begin(spec.name);
    for await (const { values } of weights.pieces(spec)) hasher.update(bytesOf(values));
  }
  return Buffer.from(hasher.digest()).toString('hex');
}
