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
import type { LlamaConfig } from '../model/llama-config.ts';
import { openMadeWeights } from './made-weights.ts';
import { loadEngine } from './engine/load.ts';
import type { ReadyDevice } from './engine/ready-device.ts';
import { LlamaModel } from './model/llama.ts';
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

/** A tokenizer named on the command line: the bytes of UTF-8, or a tokenizer.json or its folder. */
export type GivenTokenizer = { readonly type: 'byte' } | { readonly type: 'file'; readonly path: string };

/** A model that can be used until it is disposed. */
export interface OpenModel extends Disposable {
  readonly model: LlamaModel;
  readonly tokenizer: Tokenizer;
}

/** Loads the engine (which must be installed) and the model. @throws DataError, ConfigError, EngineError */
export async function openModel(
  folder: ModelFolder,
  threads: number,
  device?: ReadyDevice,
): Promise<OpenModel> {
  const config = await readModelConfig(folder.path);
  const tokenizer = tokenizerOf(folder);
  checkVocabulary(tokenizer, config.vocabSize);
  return { ...(await openLlama(folder, config, threads, device)), tokenizer };
}

/** The same without a tokenizer. */
export async function openLlama(
  folder: Pick<ModelFolder, 'path' | 'config' | 'adapter'>,
  config: LlamaConfig,
  threads: number,
  device?: ReadyDevice,
): Promise<Omit<OpenModel, 'tokenizer'>> {
  await loadEngine({ precision: 'f32', threads, device });
  const weights = await WeightStore.fromStream(readWeights(folder, config));
  const model = new LlamaModel(config, weights, { recompute: false, lossChunk: 0 });
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
  folder: Pick<ModelFolder, 'path' | 'config' | 'adapter'>,
  config: LlamaConfig,
): AsyncGenerator<WeightValues, void, void> {
  await using source = await openMadeWeights(folder, config);
  for (const spec of source.specs) yield { ...spec, values: await source.read(spec) };
}
