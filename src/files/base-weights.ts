/** The weights of the model folder that a run begins with, and the hash by which a site sees that it is the one it means. */
import { bytesOf } from '../array-bytes.ts';
import { isOutputKept } from '../model/classifier.ts';
import { isClassifier, type ModelConfig } from '../model/model-config.ts';
import { readModelConfig } from './model-config.ts';
import { openModelWeights, type ModelWeights } from './model-weights.ts';
import { compareNames, WeightsHasher } from './weights-hash.ts';

/**
 * Opens the weights of a folder as a run with this seed takes them: what a classifier lacks is made from the seed.
 * @throws DataError, ConfigError if the folder is not one of such a model
 */
export async function openBaseWeights(
  folder: string,
  model: ModelConfig,
  seed: number,
  onNotice: (text: string) => void = () => {},
): Promise<ModelWeights> {
  const isOutputNew = isClassifier(model) && !isOutputKept(await readModelConfig(folder), model);
  return openModelWeights(folder, model, { newHead: { seed, isOutputNew }, onNotice });
}

/** SHA-256 of them, in hexadecimal. @throws as `openBaseWeights` */
export async function baseHash(folder: string, model: ModelConfig, seed: number): Promise<string> {
  await using weights = await openBaseWeights(folder, model, seed);
  const hasher = new WeightsHasher();
  for (const spec of weights.specs.toSorted((a, b) => compareNames(a.name, b.name))) {
    hasher.begin(spec.name);
    for await (const { values } of weights.pieces(spec)) hasher.update(bytesOf(values));
  }
  return Buffer.from(hasher.digest()).toString('hex');
}
