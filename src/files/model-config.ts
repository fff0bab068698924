/** Reads the config.json of a model folder. */
import { join } from 'node:path';
import { DataError } from '../errors.ts';
import { parseLlamaConfig, type LlamaConfig } from '../model/llama-config.ts';
import { readSmallFile } from './small-file.ts';
import { parseStrictJson } from './strict-json.ts';

const CONFIG_FILE = 'config.json';
const MAX_CONFIG_BYTES = 1_048_576;
const LIMITS = { depth: 32, keys: 10_000, values: 100_000 } as const;

/** A config.json: what it means, and what it says. */
export interface ModelConfigFile {
  readonly config: LlamaConfig;
  readonly json: Readonly<Record<string, unknown>>;
}

/** The model that `folder` describes. @throws DataError that says what is missing or not supported. */
export async function readModelConfig(folder: string): Promise<LlamaConfig> {
  return (await readModelConfigFile(folder)).config;
}

/** As readModelConfig, with the fields as they stand in the file. */
export async function readModelConfigFile(folder: string): Promise<ModelConfigFile> {
  const path = join(folder, CONFIG_FILE);
  const bytes = await readSmallFile(path, MAX_CONFIG_BYTES);
  const json = parseStrictJson(bytes, LIMITS, (reason) => {
    throw new DataError(path, `${path} cannot be used: ${reason}`);
  });
  const config = parseLlamaConfig(json, path);
  return { config, json: json as Record<string, unknown> };
}
