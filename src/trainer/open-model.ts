/**
 * A model in a folder, on the engine and ready to be used: config.json, safetensors, tokenizer.json. For
 * a run's checkpoint and for a Hugging Face folder alike; training does not come this way.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { RunConfig } from '../config/schema.ts';
import { DataError } from '../errors.ts';
import { readModelConfig } from '../files/model-config.ts';
import { byteTokenizer, checkVocabulary, loadTokenizer, type Tokenizer } from '../files/tokenizer.ts';
import { isClassifier, type ModelConfig } from '../model/model-config.ts';
import { openMadeWeights } from './made-weights.ts';
import { loadEngine } from './engine/load.ts';
import type { ReadyDevice } from './engine/ready-device.ts';
import type { BertModel } from './model/bert.ts';
import type { LlamaModel } from './model/llama.ts';
import { makeModel, type ModelOf } from './model/make-model.ts';
import { WeightStore, type WeightValues } from './model/weights.ts';

/** A folder with config.json and weights, and the run it belongs to where there is one. */
export interface ModelFolder {
  readonly path: string;
  /** Step of the checkpoint; null for a folder from elsewhere. */
  readonly step: number | null;
  readonly config: RunConfig | null;
  /** Instead of the tokenizer.json in the folder. */
  readonly tokenizer?: GivenTokenizer;
  /** The folder of a peft adapter to use the model with. */
  readonly adapter?: string;
}

/** What of it the weights come from. */
export type WeightsFolder = Pick<ModelFolder, 'path' | 'config' | 'adapter'>;

/** A tokenizer named on the command line: the bytes of UTF-8, or a tokenizer.json or its folder. */
export type GivenTokenizer = { readonly type: 'byte' } | { readonly type: 'file'; readonly path: string };

/** A model of any family. */
export type AnyModel = LlamaModel | BertModel;

/** A model that can be used until it is disposed. */
export interface OpenModel<M extends AnyModel = AnyModel> extends Disposable {
  readonly model: M;
  readonly tokenizer: Tokenizer;
}

/** Loads the engine (which must be installed) and the model. @throws DataError, ConfigError, EngineError */
export async function openModel(
  folder: ModelFolder,
  threads: number,
  device?: ReadyDevice,
): Promise<OpenModel> {
  const config = await readModelConfig(folder.path);
  const tokenizer = tokenizerFor(folder, config);
  return { ...(await openWeights(folder, config, threads, device)), tokenizer };
}

/** The same for a model that continues texts. @throws DataError for another */
export async function openLanguageModel(
  folder: ModelFolder,
  threads: number,
  device?: ReadyDevice,
): Promise<OpenModel<LlamaModel>> {
  const config = await readModelConfig(folder.path);
  if (isClassifier(config)) {
    const reason = 'it tells classes of texts and continues none: galore predict';
    throw new DataError(folder.path, `${folder.path} holds a classifier (${config.modelType}): ${reason}`);
  }
  const tokenizer = tokenizerFor(folder, config);
  return { ...(await openWeights(folder, config, threads, device)), tokenizer };
}

/** The same for a model that tells classes. @throws DataError for another */
export async function openClassifier(
  folder: ModelFolder,
  threads: number,
  device?: ReadyDevice,
): Promise<OpenModel<BertModel>> {
  const config = await readModelConfig(folder.path);
  if (!isClassifier(config)) {
    const reason = 'it continues texts and tells no classes: galore generate';
    throw new DataError(folder.path, `${folder.path} holds a Llama: ${reason}`);
  }
  const tokenizer = tokenizerFor(folder, config);
  return { ...(await openWeights(folder, config, threads, device)), tokenizer };
}

/** The tokenizer of `folder`, which must fit its model. */
function tokenizerFor(folder: ModelFolder, config: ModelConfig): Tokenizer {
  const tokenizer = tokenizerOf(folder);
  checkVocabulary(tokenizer, config.vocabSize);
  return tokenizer;
}

/** A model without a tokenizer. */
export async function openWeights<C extends ModelConfig>(
  folder: WeightsFolder,
  config: C,
  threads: number,
  device?: ReadyDevice,
): Promise<Omit<OpenModel<ModelOf<C>>, 'tokenizer'>> {
  await loadEngine({ precision: 'f32', threads, device });
  const weights = await WeightStore.fromStream(readWeights(folder, config));
  const model = makeModel(config, weights, { recompute: false, lossChunk: 0 });
  return { model, [Symbol.dispose]: () => weights.dispose() };
}

/** The tokenizer asked for, or the folder's own. */
function tokenizerOf({ path, tokenizer }: ModelFolder): Tokenizer {
  if (tokenizer !== undefined) {
    return tokenizer.type === 'byte' ? byteTokenizer() : loadTokenizer(tokenizer.path);
  }
  const names = ['tokenizer.json', 'tokenizer.model']; // loadTokenizer knows what to say of the second
  if (names.some((name) => existsSync(join(path, name)))) return loadTokenizer(path);
  throw new DataError(path, `${path} has no tokenizer.json; --tokenizer PATH names one from elsewhere`);
}

async function* readWeights(
  folder: WeightsFolder,
  config: ModelConfig,
): AsyncGenerator<WeightValues, void, void> {
  await using source = await openMadeWeights(folder, config);
  for (const spec of source.specs) yield { ...spec, values: await source.read(spec) };
}
