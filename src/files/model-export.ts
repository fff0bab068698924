/**
 * Writes a model folder that Hugging Face transformers loads: config.json, safetensors in one file or in
 * shards, the tokenizer. It is written under a temporary name beside its place and renamed when it is whole, so
 * it is there or not. Weights pass through in pieces. SHELL.
 */
import { randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readdir, realpath, rename, rm, rmdir, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { ConfigError, DataError } from '../errors.ts';
import type { TensorSpec } from '../galore/slot.ts';
import type { HuggingFaceDtype } from '../model/llama-config.ts';
import { longestText } from '../model/bert-config.ts';
import { isClassifier, toConfigJson } from '../model/model-config.ts';
import { syncDirectory, writeSynced } from './atomic.ts';
import { convertFromFloat32, FLOAT_BYTES, GREATEST, type StoredDtype } from './float-conversion.ts';
import { autoMapOf, MEAN_POOLING_FILE, meanPoolingCode } from './mean-pooling-code.ts';
import { readModelConfigFile, type ModelConfigFile } from './model-config.ts';
import { INDEX_FILE, WEIGHTS_FILE } from './model-folder.ts';
import { openModelWeights, type ModelWeights } from './model-weights.ts';
import { tensorBytes } from './safetensors-header.ts';
import { createSafetensors } from './safetensors.ts';
import { readSmallFile } from './small-file.ts';
import { explaining, systemErrorCode } from './system-error.ts';
import { encoderTokenizerConfigJson, loadTokenizer, tokenizerConfigJson } from './tokenizer.ts';

/** What is to be written, and where. */
export interface ExportRequest {
  /** A folder with config.json and weights. */
  readonly from: string;
  readonly out: string;
  readonly dtype: StoredDtype;
  /** A file of weights has at most this many bytes of tensors, unless one tensor alone has more. */
  readonly maxShardBytes: number;
  /** An earlier model folder at `out` is replaced. */
  readonly mayReplace: boolean;
  /** Aborted: nothing is left behind. */
  readonly signal: AbortSignal;
  readonly onProgress: (text: string, share: number) => void;
}

/** What was written. */
export interface ExportResult {
  /** In the order of their names. */
  readonly files: readonly { readonly name: string; readonly bytes: number }[];
  readonly parameters: number;
  /** Whether the folder has a tokenizer: false where `from` has none. */
  readonly hasTokenizer: boolean;
}

/**
 * Writes the folder. Rejects with the signal's reason when aborted.
 * @throws DataError for a model that cannot be read or does not fit the type, ConfigError where `out` is taken,
 * OperatingError
 */
export type ExportModel = (request: ExportRequest) => Promise<ExportResult>;

const HUGGING_FACE_DTYPE: Readonly<Record<StoredDtype, HuggingFaceDtype>> = {
  F32: 'float32',
  BF16: 'bfloat16',
  F16: 'float16',
};

const CONFIG_FILE = 'config.json';
const GENERATION_FILE = 'generation_config.json';
const TOKENIZER_FILE = 'tokenizer.json';
const TOKENIZER_CONFIG_FILE = 'tokenizer_config.json';
/** Files that describe tokenizer and generation: taken over as they are where `from` has them. */
const COPIED_FILES = [
  TOKENIZER_FILE,
  TOKENIZER_CONFIG_FILE,
  'tokenizer.model',
  'special_tokens_map.json',
  'added_tokens.json',
  'chat_template.jinja',
  GENERATION_FILE,
] as const;
/** Longest of them. */
const MAX_COPIED_BYTES = 256 * 1024 * 1024;
const SHARD_NAME = /^model(-\d{5}-of-\d{5})?\.safetensors$/;
const MAX_SHARDS = 99_999;

export const exportModel: ExportModel = async (request) => {
  const model = await readModelConfigFile(request.from);
  await using weights = await openModelWeights(request.from, model.config);
  const out = await checkPlace(request.out, request.mayReplace);
  const parent = dirname(out);
  const made = await explaining(`write ${out}`, mkdir(parent, { recursive: true }));
  const temporary = join(parent, `.${basename(out)}.tmp-${randomUUID().slice(0, 8)}`);
  try {
    await explaining(`write ${out}`, mkdir(temporary));
    await writeWeights(temporary, weights, request);
    await writeDocuments(temporary, model, request);
    request.signal.throwIfAborted();
    const result = await describe(temporary, weights);
    await explaining(`write ${out}`, publish(temporary, out));
    return result;
  } catch (error) {
    await rm(temporary, { recursive: true, force: true }).catch(() => {});
    if (made !== undefined) await removeEmpty(parent, made);
    throw error;
  }
};

/** Where to write, links resolved. @throws ConfigError where something else is there */
async function checkPlace(out: string, mayReplace: boolean): Promise<string> {
  if (!existsSync(out)) return resolve(out);
  const place = await explaining(`write ${out}`, realpath(out));
  const stats = await explaining(`read ${out}`, stat(place));
  if (!stats.isDirectory()) throw new ConfigError(`${out} is a file; name a folder`);
  const names = await explaining(`read ${out}`, readdir(place));
  if (names.length === 0) return place;
  const foreign = names.find((name) => !isModelFile(name));
  if (foreign !== undefined) {
    const reason = mayReplace ? ', which is no file of an exported model: --force does not delete it' : '';
    throw new ConfigError(`${out} is not empty: it holds ${foreign}${reason}; name another folder`);
  }
  if (!mayReplace) {
    throw new ConfigError(`${out} holds a model already; --force replaces it, or name another folder`);
  }
  return place;
}

function isModelFile(name: string): boolean {
  const names: readonly string[] = [CONFIG_FILE, INDEX_FILE, MEAN_POOLING_FILE, ...COPIED_FILES];
  return names.includes(name) || SHARD_NAME.test(name);
}

/** One file of weights to be. */
interface Shard {
  readonly name: string;
  readonly specs: readonly TensorSpec[];
}

/** Tensors in their order, as many to a file as fit. */
export function planShards(
  specs: readonly TensorSpec[],
  dtype: StoredDtype,
  maxShardBytes: number,
): readonly Shard[] {
  const groups: TensorSpec[][] = [];
  let bytes = Infinity;
  for (const spec of specs) {
    const size = tensorBytes(dtype, spec.shape);
    if (bytes + size > maxShardBytes) {
      groups.push([]);
      bytes = 0;
    }
    groups.at(-1)!.push(spec);
    bytes += size;
  }
  if (groups.length > MAX_SHARDS) {
    throw new ConfigError(
      `--max-shard-size would make ${groups.length} files; at most ${MAX_SHARDS} are written`,
    );
  }
  if (groups.length === 1) return [{ name: WEIGHTS_FILE, specs }];
  const number = (n: number): string => String(n).padStart(5, '0');
  return groups.map((group, index) => ({
    name: `model-${number(index + 1)}-of-${number(groups.length)}.safetensors`,
    specs: group,
  }));
}

async function writeWeights(folder: string, weights: ModelWeights, request: ExportRequest): Promise<void> {
  const { dtype, onProgress, signal } = request;
  const shards = planShards(weights.specs, dtype, request.maxShardBytes);
  const totalBytes = sum(weights.specs.map(({ shape }) => tensorBytes(dtype, shape)));
  let doneBytes = 0;
  for (const { name, specs } of shards) {
    const tensors = specs.map((spec) => ({ ...spec, dtype }));
    const file = await createSafetensors(join(folder, name), tensors, { format: 'pt' });
    try {
      for (const spec of specs) {
        for await (const bytes of convertedPieces(weights, spec, request)) {
          signal.throwIfAborted();
          await file.write(spec.name, bytes.offset, bytes.values);
          doneBytes += bytes.values.length;
          onProgress(`writing ${name}`, doneBytes / totalBytes);
        }
      }
      await file.finish();
    } catch (error) {
      await file.abandon();
      throw error;
    }
  }
  if (shards.length === 1) return;
  const fileOf = shards.flatMap(({ name, specs }) => specs.map((spec) => [spec.name, name] as const));
  const index = { metadata: { total_size: totalBytes }, weight_map: Object.fromEntries(fileOf) };
  await writeText(folder, INDEX_FILE, index);
}

/** The tensor's bytes as they are written, at most a piece of them at a time. */
async function* convertedPieces(
  weights: ModelWeights,
  spec: TensorSpec,
  { from, dtype }: ExportRequest,
): AsyncGenerator<{ readonly offset: number; readonly values: Uint8Array }, void, void> {
  const width = FLOAT_BYTES[dtype];
  for await (const { first, values } of weights.pieces(spec)) {
    const bytes = new Uint8Array(width * values.length);
    const overflow = convertFromFloat32(dtype, values, bytes);
    if (overflow !== -1) {
      throw new DataError(
        from,
        `${spec.name} is ${values[overflow]} at index ${first + overflow}; the greatest ${HUGGING_FACE_DTYPE[dtype]} is ${GREATEST[dtype]}: ` +
          `export with --dtype ${dtype === 'F16' ? 'bf16 or f32' : 'f32'}`,
      );
    }
    yield { offset: width * first, values: bytes };
  }
}

async function writeDocuments(
  folder: string,
  { config, json }: ModelConfigFile,
  { from, dtype }: ExportRequest,
): Promise<void> {
  const copied = new Set<string>();
  for (const name of COPIED_FILES) {
    if (!existsSync(join(from, name))) continue;
    const bytes = await readSmallFile(join(from, name), MAX_COPIED_BYTES);
    await explaining(`write ${join(folder, name)}`, writeSynced(join(folder, name), bytes));
    copied.add(name);
  }
  const tokenIds = tokenIdsOf(json);
  const code = isClassifier(config) ? autoMapOf(config) : {};
  await writeText(folder, CONFIG_FILE, {
    ...toConfigJson(config, HUGGING_FACE_DTYPE[dtype]),
    ...code,
    ...tokenIds,
  });
  if (isClassifier(config) && config.pooling === 'mean') {
    const path = join(folder, MEAN_POOLING_FILE);
    await explaining(`write ${path}`, writeSynced(path, meanPoolingCode(config)));
  }
  const { bosTokenId: bos, eosTokenId: eos } = config;
  if (!isClassifier(config) && !copied.has(GENERATION_FILE) && (bos ?? eos) !== null) {
    const generation = { _from_model_config: true, bos_token_id: bos, eos_token_id: eos, ...tokenIds };
    await writeText(folder, GENERATION_FILE, generation);
  }
  if (copied.has(TOKENIZER_FILE) && !copied.has(TOKENIZER_CONFIG_FILE)) {
    const tokenizer = loadTokenizer(from);
    const text = isClassifier(config)
      ? encoderTokenizerConfigJson(tokenizer, longestText(config))
      : tokenizerConfigJson(tokenizer, config);
    const path = join(folder, TOKENIZER_CONFIG_FILE);
    await explaining(`write ${path}`, writeSynced(path, text));
  }
}

/** Token ids of config.json that mean more than is kept of them: several ends of a text, padding. */
function tokenIdsOf(json: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const { eos_token_id: eos, pad_token_id: pad } = json;
  return {
    ...(Array.isArray(eos) ? { eos_token_id: eos } : {}),
    ...(Number.isSafeInteger(pad) ? { pad_token_id: pad } : {}),
  };
}

async function writeText(folder: string, name: string, value: unknown): Promise<void> {
  const path = join(folder, name);
  await explaining(`write ${path}`, writeSynced(path, `${JSON.stringify(value, null, 2)}\n`));
}

async function describe(folder: string, weights: ModelWeights): Promise<ExportResult> {
  const files: { name: string; bytes: number }[] = [];
  for (const name of (await explaining(`read ${folder}`, readdir(folder))).sort()) {
    files.push({ name, bytes: (await explaining(`read ${folder}`, stat(join(folder, name)))).size });
  }
  return {
    files,
    parameters: sum(weights.specs.map(({ shape }) => shape.reduce((product, extent) => product * extent, 1))),
    hasTokenizer: files.some(({ name }) => name === TOKENIZER_FILE),
  };
}

/** Gives the whole folder its name; one that has the name is moved aside first and then deleted. */
async function publish(temporary: string, out: string): Promise<void> {
  const parent = dirname(out);
  await syncDirectory(temporary);
  const aside = `${temporary}-old`;
  const hasOld = await rename(out, aside).then(
    () => true,
    (error: unknown) => {
      if (systemErrorCode(error) === 'ENOENT') return false;
      throw error;
    },
  );
  try {
    await rename(temporary, out);
  } catch (error) {
    if (hasOld) await rename(aside, out).catch(() => {});
    throw error;
  }
  try {
    await syncDirectory(parent);
  } finally {
    if (hasOld) await rm(aside, { recursive: true, force: true });
  }
}

/** Removes the folders from `deepest` up to `highest` that this export made, as far as they are empty. */
async function removeEmpty(deepest: string, highest: string): Promise<void> {
  for (let folder = deepest; folder.length >= highest.length; folder = dirname(folder)) {
    const isGone = await rmdir(folder).then(
      () => true,
      () => false,
    );
    if (!isGone) return;
  }
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
