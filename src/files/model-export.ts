/**
 * Writes a model folder that Hugging Face transformers loads: config.json, safetensors in one file or in
 * shards, the tokenizer. Weights pass through in pieces. SHELL.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { ConfigError, DataError } from '../errors.ts';
import { sizeOf, type TensorSpec } from '../galore/slot.ts';
import type { HuggingFaceDtype } from '../model/llama-config.ts';
import { longestText } from '../model/bert-config.ts';
import { isClassifier, toConfigJson } from '../model/model-config.ts';
import { writeSynced } from './atomic.ts';
import { convertFromFloat32, FLOAT_BYTES, GREATEST, type StoredDtype } from './float-conversion.ts';
import { autoMapOf, MEAN_POOLING_FILE, meanPoolingCode } from './mean-pooling-code.ts';
import { readModelConfigFile, type ModelConfigFile } from './model-config.ts';
import { INDEX_FILE, WEIGHTS_FILE } from './model-folder.ts';
import { openModelWeights, type ModelWeights } from './model-weights.ts';
import { tensorBytes } from './safetensors-header.ts';
import { createSafetensors } from './safetensors.ts';
import { readSmallFile } from './small-file.ts';
import { explaining } from './system-error.ts';
import { encoderTokenizerConfigJson, loadTokenizer, tokenizerConfigJson } from './tokenizer.ts';
import { writeFolder, type WrittenFile } from './written-folder.ts';

/** What is to be written, and where. */
export interface ExportRequest {
  /** A folder with config.json and weights. */
  readonly from: string;
  /** How its weights are read; left out: as they are there. */
  readonly openWeights?: typeof openModelWeights;
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
  readonly files: readonly WrittenFile[];
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
  await using weights = await (request.openWeights ?? openModelWeights)(request.from, model.config);
  const { out, mayReplace } = request;
  const files = await writeFolder(
    { out, mayReplace, what: 'model', isOwnFile: isModelFile },
    async (folder) => {
      await writeWeights(folder, weights, request);
      await writeDocuments(folder, model, request);
      request.signal.throwIfAborted();
    },
  );
  return {
    files,
    parameters: sum(weights.specs.map(({ shape }) => sizeOf(shape))),
    hasTokenizer: files.some(({ name }) => name === TOKENIZER_FILE),
  };
};

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
  const { dtype, onProgress } = request;
  const shards = planShards(weights.specs, dtype, request.maxShardBytes);
  const totalBytes = sum(weights.specs.map(({ shape }) => tensorBytes(dtype, shape)));
  let doneBytes = 0;
  for (const { name, specs } of shards) {
    await writeTensors(join(folder, name), specs, weights, request, (written) => {
      doneBytes += written;
      onProgress(`writing ${name}`, doneBytes / totalBytes);
    });
  }
  if (shards.length === 1) return;
  const fileOf = shards.flatMap(({ name, specs }) => specs.map((spec) => [spec.name, name] as const));
  const index = { metadata: { total_size: totalBytes }, weight_map: Object.fromEntries(fileOf) };
  await writeText(folder, INDEX_FILE, index);
}

/** Writes tensors to one file, each by the name that `nameOf` gives it; `onBytes` is told of every piece. */
export async function writeTensors(
  path: string,
  specs: readonly TensorSpec[],
  weights: ModelWeights,
  request: Pick<ExportRequest, 'from' | 'dtype' | 'signal'>,
  onBytes: (bytes: number) => void = () => {},
  nameOf: (name: string) => string = (name) => name,
): Promise<void> {
  const tensors = specs.map(({ name, shape }) => ({ name: nameOf(name), shape, dtype: request.dtype }));
  const file = await createSafetensors(path, tensors, { format: 'pt' });
  try {
    for (const spec of specs) {
      for await (const bytes of convertedPieces(weights, spec, request)) {
        request.signal.throwIfAborted();
        await file.write(nameOf(spec.name), bytes.offset, bytes.values);
        onBytes(bytes.values.length);
      }
    }
    await file.finish();
  } catch (error) {
    await file.abandon();
    throw error;
  }
}

/** The tensor's bytes as they are written, at most a piece of them at a time. */
async function* convertedPieces(
  weights: ModelWeights,
  spec: TensorSpec,
  { from, dtype }: Pick<ExportRequest, 'from' | 'dtype'>,
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

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
