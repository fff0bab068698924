/** Reads the config.json of a model folder. */
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { DataError } from '../errors.ts';
import { parseLlamaConfig, type LlamaConfig } from '../model/llama-config.ts';

const CONFIG_FILE = 'config.json';
const MAX_CONFIG_BYTES = 1_048_576;

/** The model that `folder` describes. @throws DataError that says what is missing or not supported. */
export async function readModelConfig(folder: string): Promise<LlamaConfig> {
  const path = join(folder, CONFIG_FILE);
  let text: string;
  try {
    const { size } = await stat(path);
    if (size > MAX_CONFIG_BYTES) {
      throw new DataError(path, `${path} has ${size} bytes; a config.json has at most ${MAX_CONFIG_BYTES}`);
    }
    text = await readFile(path, 'utf8');
  } catch (error) {
    if (error instanceof DataError) throw error;
    throw new DataError(path, `cannot read ${path}: ${messageOf(error)}`, { cause: error });
  }
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw new DataError(path, `${path} is not JSON: ${messageOf(error)}`, { cause: error });
  }
  return parseLlamaConfig(json, path);
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
