/** Reads the config.json of a model folder, and of a bare encoder what else says how its texts are pooled. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { DataError } from '../errors.ts';
import { POOLING_FIELD, type BertConfig } from '../model/bert-config.ts';
import { isClassifier, parseModelConfig, type ModelConfig } from '../model/model-config.ts';
import type { Pooling } from '../model/pooling.ts';
import { storedNames } from './bert-names.ts';
import { openModelFolder } from './model-folder.ts';
import { readSmallFile } from './small-file.ts';
import { parseStrictJson } from './strict-json.ts';

const CONFIG_FILE = 'config.json';
/** Of sentence-transformers. */
const POOLING_FILE = join('1_Pooling', 'config.json');
const MAX_CONFIG_BYTES = 1_048_576;
const LIMITS = { depth: 32, keys: 10_000, values: 100_000 } as const;

type Json = Readonly<Record<string, unknown>>;

/** A config.json: what it means, and what it says. */
export interface ModelConfigFile {
  readonly config: ModelConfig;
  readonly json: Json;
}

/** The model that `folder` describes. @throws DataError that says what is missing or not supported. */
export async function readModelConfig(folder: string): Promise<ModelConfig> {
  return (await readModelConfigFile(folder)).config;
}

/** As readModelConfig, with the fields as they stand in the file. */
export async function readModelConfigFile(folder: string): Promise<ModelConfigFile> {
  const path = join(folder, CONFIG_FILE);
  const json = await readJson(path);
  const config = parseModelConfig(json, path);
  if (!isClassifier(config)) return { config, json };
  return { config: { ...config, pooling: await poolingOf(folder, config, json) }, json };
}

/**
 * What config.json says; a model that has been a classifier keeps its way; a folder of sentence-transformers says
 * it beside; of any other encoder the first token is taken if there is a layer for it, else the mean.
 */
async function poolingOf(folder: string, config: BertConfig, json: Json): Promise<Pooling> {
  const { architectures } = json;
  const isHead = (name: unknown): boolean =>
    typeof name === 'string' && name.endsWith('ForSequenceClassification');
  if (json[POOLING_FIELD] !== undefined && json[POOLING_FIELD] !== null) return config.pooling;
  if (Array.isArray(architectures) && architectures.some(isHead)) return config.pooling;
  const beside = join(folder, POOLING_FILE);
  if (existsSync(beside)) {
    const pooling = await readJson(beside);
    if (pooling['pooling_mode_mean_tokens'] === true) return 'mean';
    if (pooling['pooling_mode_cls_token'] === true) return 'cls';
    throw new DataError(
      beside,
      `${beside} asks for neither pooling_mode_mean_tokens nor pooling_mode_cls_token`,
    );
  }
  const source = await openModelFolder(folder);
  const names = storedNames(`${config.modelType}.pooler.dense.weight`, config.modelType);
  const hasLayer = names.some((name) => source.tensors.has(name));
  await source.close();
  return hasLayer ? 'cls' : 'mean';
}

async function readJson(path: string): Promise<Json> {
  const bytes = await readSmallFile(path, MAX_CONFIG_BYTES);
  return parseStrictJson(bytes, LIMITS, (reason) => {
    throw new DataError(path, `${path} cannot be used: ${reason}`);
  }) as Json;
}
