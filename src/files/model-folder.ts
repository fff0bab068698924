/**
 * The weights of a model folder in Hugging Face's layout: `model.safetensors`, or
 * `model.safetensors.index.json` and the shards it names, read the same way.
 */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { DataError } from '../errors.ts';
import { openSafetensors } from './safetensors.ts';
import type { SafetensorsFile, TensorEntry, TensorPiece, TensorSource } from './safetensors.ts';
import { readSmallFile } from './small-file.ts';
import { parseStrictJson } from './strict-json.ts';
import { explaining, systemErrorCode } from './system-error.ts';

export const WEIGHTS_FILE = 'model.safetensors';
export const INDEX_FILE = 'model.safetensors.index.json';
const MAX_INDEX_BYTES = 100_000_000;
const INDEX_LIMITS = { depth: 8, keys: 1_000_000, values: 1_000_000 } as const;
const MAX_SHARDS = 4096;

/**
 * Opens the weights of a model folder. Where both are there, the single file wins, as in transformers.
 * @throws DataError when the folder holds no usable weights, naming what is wrong.
 */
export async function openModelFolder(dir: string): Promise<TensorSource> {
  const names = new Set(await listFolder(dir));
  if (names.has(WEIGHTS_FILE)) return await openSafetensors(join(dir, WEIGHTS_FILE));
  if (names.has(INDEX_FILE)) return await openShards(dir);
  const other = [...names].find((name) => /^pytorch_model.*\.bin$/.test(name));
  const hint =
    other === undefined
      ? ''
      : `; ${other} is in PyTorch's own format: save the model with save_pretrained(safe_serialization=True)`;
  throw new DataError(dir, `${dir} holds neither ${WEIGHTS_FILE} nor ${INDEX_FILE}${hint}`);
}

async function listFolder(dir: string): Promise<string[]> {
  try {
    return await readdir(dir);
  } catch (error) {
    const code = systemErrorCode(error);
    if (code === 'ENOENT') throw new DataError(dir, `model folder ${dir} does not exist`, { cause: error });
    if (code === 'ENOTDIR') throw new DataError(dir, `${dir} is not a folder`, { cause: error });
    return await explaining(`read ${dir}`, Promise.reject(error as Error));
  }
}

async function openShards(dir: string): Promise<TensorSource> {
  const indexPath = join(dir, INDEX_FILE);
  const fileOf = parseIndex(indexPath, await readSmallFile(indexPath, MAX_INDEX_BYTES));
  const fileNames = [...new Set(fileOf.values())].sort();
  if (fileNames.length > MAX_SHARDS) {
    throw new DataError(
      indexPath,
      `${indexPath} names ${fileNames.length} files, at most ${MAX_SHARDS} are read`,
    );
  }
  const shards = new Map<string, SafetensorsFile>();
  try {
    for (const name of fileNames) shards.set(name, await openSafetensors(join(dir, name)));
    return new ShardedWeights(indexPath, fileOf, shards);
  } catch (error) {
    for (const shard of shards.values()) await shard.close();
    throw error;
  }
}

/** File name by tensor name. Names with a path in them are refused: shards lie beside the index. */
function parseIndex(path: string, bytes: Uint8Array): Map<string, string> {
  const index = parseStrictJson(bytes, INDEX_LIMITS, (reason) => {
    throw new DataError(path, `${path} cannot be used: ${reason}`);
  });
  const weightMap = (index as { weight_map?: unknown } | null)?.weight_map;
  if (typeof weightMap !== 'object' || weightMap === null || Array.isArray(weightMap)) {
    throw new DataError(path, `${path} has no weight_map`);
  }
  const fileOf = new Map<string, string>();
  for (const [tensor, file] of Object.entries(weightMap)) {
    if (typeof file !== 'string' || !/^[^/\\\0]+\.safetensors$/.test(file)) {
      throw new DataError(
        path,
        `${path}: tensor ${tensor} is said to be in ${JSON.stringify(file)}, not a .safetensors file`,
      );
    }
    fileOf.set(tensor, file);
  }
  return fileOf;
}

/** What is in the shards is in the index: no tensor is in two of them, and none is left out. */
function checkIndexIsWhole(
  path: string,
  fileOf: ReadonlyMap<string, string>,
  shards: ReadonlyMap<string, SafetensorsFile>,
): void {
  for (const [file, { tensors }] of shards) {
    for (const name of tensors.keys()) {
      const stated = fileOf.get(name);
      if (stated === file) continue;
      const reason =
        stated === undefined
          ? `tensor ${name}, which it does not name`
          : `tensor ${name} too, as ${stated} has`;
      throw new DataError(path, `${path}: ${file} holds ${reason}`);
    }
  }
}

class ShardedWeights implements TensorSource {
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  readonly metadata: Readonly<Record<string, string>>;
  readonly #path: string;
  readonly #shardOf = new Map<string, SafetensorsFile>();
  readonly #shards: readonly SafetensorsFile[];

  constructor(
    path: string,
    fileOf: ReadonlyMap<string, string>,
    shards: ReadonlyMap<string, SafetensorsFile>,
  ) {
    const tensors = new Map<string, TensorEntry>();
    for (const [name, file] of fileOf) {
      const shard = shards.get(file);
      const entry = shard?.tensors.get(name);
      if (shard === undefined || entry === undefined) {
        throw new DataError(path, `${path}: tensor ${name} is said to be in ${file}, which does not have it`);
      }
      tensors.set(name, entry);
      this.#shardOf.set(name, shard);
    }
    checkIndexIsWhole(path, fileOf, shards);
    this.#path = path;
    this.#shards = [...shards.values()];
    this.tensors = tensors;
    this.metadata = this.#shards[0]?.metadata ?? {};
  }

  async readBytes(name: string, offset: number, length: number): Promise<Uint8Array> {
    return await this.#shard(name).readBytes(name, offset, length);
  }

  async readFloat32(name: string): Promise<Float32Array> {
    return await this.#shard(name).readFloat32(name);
  }

  readPieces(name: string): AsyncGenerator<TensorPiece, void, void> {
    return this.#shard(name).readPieces(name);
  }

  async close(): Promise<void> {
    for (const shard of this.#shards) await shard.close();
  }

  #shard(name: string): SafetensorsFile {
    const shard = this.#shardOf.get(name);
    if (shard === undefined) throw new DataError(this.#path, `${this.#path} has no tensor ${name}`);
    return shard;
  }
}
