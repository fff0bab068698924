/**
 * The weights of a model in a folder, checked before the first is read: the tensors that its config.json asks
 * for, in their shapes and in types that can be read. Every number that is read is finite. Of a classifier the
 * names may be those of the bare encoder, and the head may be new (bert-names.ts).
 */
import { DataError } from '../errors.ts';
import type { TensorSpec } from '../galore/slot.ts';
import { LORA_A } from '../galore/parametrisation/lora.ts';
import { headTensors } from '../model/bert-config.ts';
import { initialiseTensor } from '../model/initialise.ts';
import { isClassifier, modelTensors, type ModelConfig } from '../model/model-config.ts';
import { isOfEncoder, outputNames, storedNames } from './bert-names.ts';
import { isFloatDtype } from './float-conversion.ts';
import { openModelFolder } from './model-folder.ts';
import { PIECE_BYTES, type TensorPiece, type TensorSource } from './safetensors.ts';

/** Weights that can be read, in the order of `specs`, until they are closed. */
export interface ModelWeights extends AsyncDisposable {
  readonly specs: readonly TensorSpec[];
  /** A whole tensor. @throws DataError where a number is NaN or infinite, or the file was cut short */
  read(spec: TensorSpec): Promise<Float32Array>;
  /** The same in pieces of a few MB. @throws as `read` */
  pieces(spec: TensorSpec): AsyncGenerator<TensorPiece, void, void>;
}

const HEAD = 'lm_head.weight';
const EMBEDDING = 'model.embed_tokens.weight';
/** Tables that older versions of transformers saved with the weights; they follow from config.json. */
const DERIVED_TENSOR = /(^|\.)rotary_emb\.inv_freq$/;
/** Names in a message. */
const MAX_NAMED = 3;

/** What may be new: the head of a classifier. */
export interface NewHead {
  /** Of what is not in the folder. */
  readonly seed: number;
  /** Even if the folder has an output layer: it tells other classes. */
  readonly isOutputNew: boolean;
}

/** What is done with a folder whose tensors are not exactly the model's. */
export interface WeightsOptions {
  /** Absent: a folder without a head is refused. */
  readonly newHead?: NewHead;
  /** Told of weights that are new, and of tensors of the folder that the model does not use. */
  readonly onNotice?: (text: string) => void;
}

/** Opens the weights in `dir`. @throws DataError that names the tensors that are missing, too many or wrong. */
export async function openModelWeights(
  dir: string,
  config: ModelConfig,
  { newHead, onNotice = () => {} }: WeightsOptions = {},
): Promise<ModelWeights> {
  const source = await openModelFolder(dir);
  try {
    const specs = modelTensors(config);
    const names = namesIn(source, specs, config, newHead);
    checkTensors(dir, specs, names, source, config, onNotice);
    if (!isClassifier(config) && config.tieWordEmbeddings && source.tensors.has(HEAD)) {
      await checkTied(dir, source);
    }
    const added = specs.filter(({ name }) => !names.has(name));
    if (added.length > 0) {
      onNotice(
        `new weights, made from the seed: ${listed(added.map(({ name }) => name))}; ${dir} has none for these classes`,
      );
    }
    const make = (spec: TensorSpec): Float32Array => initialiseTensor(spec, config, newHead?.seed ?? 0);
    return new OpenModelWeights(dir, specs, names, source, make);
  } catch (error) {
    await source.close();
    throw error;
  }
}

/** The tensor of the folder for each of the model; none for those that are to be new. */
function namesIn(
  { tensors }: TensorSource,
  specs: readonly TensorSpec[],
  config: ModelConfig,
  newHead: NewHead | undefined,
): ReadonlyMap<string, string> {
  if (!isClassifier(config)) return new Map(specs.map(({ name }) => [name, name]));
  const head = new Set(headTensors(config).map(({ name }) => name));
  const output = outputNames(config);
  const names = new Map<string, string>();
  for (const { name } of specs) {
    const stored = storedNames(name, config.modelType).find((each) => tensors.has(each));
    if (newHead !== undefined && head.has(name)) {
      if (stored === undefined || (newHead.isOutputNew && output.includes(name))) continue;
    }
    names.set(name, stored ?? name);
  }
  return names;
}

/** The same for a folder that has other tensors than those of its config.json: exactly `specs`. @throws as `openModelWeights` */
export async function openTensors(
  dir: string,
  specs: readonly TensorSpec[],
  config: ModelConfig,
): Promise<ModelWeights> {
  const source = await openModelFolder(dir);
  try {
    const names = new Map(specs.map(({ name }) => [name, name]));
    checkTensors(dir, specs, names, source, config, () => {});
    const make = ({ name }: TensorSpec): never => {
      throw new RangeError(`${name} is in ${dir}`);
    };
    return new OpenModelWeights(dir, specs, names, source, make);
  } catch (error) {
    await source.close();
    throw error;
  }
}

class OpenModelWeights implements ModelWeights {
  readonly specs: readonly TensorSpec[];
  readonly #dir: string;
  readonly #names: ReadonlyMap<string, string>;
  readonly #source: TensorSource;
  readonly #make: (spec: TensorSpec) => Float32Array;

  constructor(
    dir: string,
    specs: readonly TensorSpec[],
    names: ReadonlyMap<string, string>,
    source: TensorSource,
    make: (spec: TensorSpec) => Float32Array,
  ) {
    this.#dir = dir;
    this.specs = specs;
    this.#names = names;
    this.#source = source;
    this.#make = make;
  }

  async read(spec: TensorSpec): Promise<Float32Array> {
    const stored = this.#names.get(spec.name);
    if (stored === undefined) return this.#make(spec);
    const values = await this.#source.readFloat32(stored);
    this.#checkFinite(stored, values, 0);
    return values;
  }

  async *pieces(spec: TensorSpec): AsyncGenerator<TensorPiece, void, void> {
    const stored = this.#names.get(spec.name);
    if (stored === undefined) {
      yield { first: 0, values: this.#make(spec) };
      return;
    }
    for await (const piece of this.#source.readPieces(stored)) {
      this.#checkFinite(stored, piece.values, piece.first);
      yield piece;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#source.close();
  }

  #checkFinite(name: string, values: Float32Array, first: number): void {
    for (let i = 0; i < values.length; i++) {
      const value = values[i]!;
      if (value - value === 0) continue; // neither NaN nor infinite
      throw new DataError(
        this.#dir,
        `${this.#dir}: ${name} is ${value} at index ${first + i}, not a finite number`,
      );
    }
  }
}

function checkTensors(
  dir: string,
  specs: readonly TensorSpec[],
  names: ReadonlyMap<string, string>,
  { tensors }: TensorSource,
  config: ModelConfig,
  onNotice: (text: string) => void,
): void {
  const missing = [...names].filter(([, stored]) => !tensors.has(stored)).map(([name]) => name);
  if (missing.length > 0) {
    throw new DataError(dir, `${dir} has no tensor ${listed(missing)}; ${reasonOf(missing, config)}`);
  }
  const used = new Set(names.values());
  const unused = [...tensors.keys()].filter((name) => !used.has(name));
  const unexpected = unused.filter((name) => isForeign(name, config));
  if (unexpected.length > 0) {
    const reason = unexpected.some((name) => name.endsWith(LORA_A))
      ? 'it is a checkpoint of a run with adapters, which is read where the run is (galore export writes a folder that stands alone)'
      : `a ${FAMILY[config.modelType]} of its config.json has no such weights, and without them it would be another model`;
    throw new DataError(dir, `${dir} holds tensor ${listed(unexpected)}: ${reason}`);
  }
  if (isClassifier(config) && unused.length > 0) {
    onNotice(`weights of ${dir} that this model does not use: ${listed(unused)}`);
  }
  for (const { name, shape } of specs) {
    const stored = names.get(name);
    if (stored === undefined) continue;
    const entry = tensors.get(stored)!;
    if (entry.shape.join() !== shape.join()) {
      const [is, asked] = [entry.shape, shape].map((sizes) => `[${sizes.join(', ')}]`);
      throw new DataError(dir, `${dir}: ${stored} is ${is}, config.json asks for ${asked}`);
    }
    if (!isFloatDtype(entry.dtype)) {
      throw new DataError(dir, `${dir}: tensor ${stored} is ${entry.dtype}, not F32, F16, BF16 or F64`);
    }
  }
}

const FAMILY = { llama: 'Llama', bert: 'BERT', roberta: 'RoBERTa' } as const;

function reasonOf(missing: readonly string[], config: ModelConfig): string {
  if (isClassifier(config)) {
    const head = new Set(headTensors(config).map(({ name }) => name));
    if (missing.every((name) => head.has(name))) return 'it has no classification head yet: train one first';
  }
  return 'its config.json asks for them';
}

/** Whether a tensor that the model does not use makes it another model than its config.json says. */
function isForeign(name: string, config: ModelConfig): boolean {
  if (name.endsWith(LORA_A)) return true;
  if (isClassifier(config)) return isOfEncoder(name, config.modelType);
  return !DERIVED_TENSOR.test(name) && !(config.tieWordEmbeddings && name === HEAD);
}

/** A head in the file of a tied model is good for nothing but being equal to the embedding. */
async function checkTied(dir: string, source: TensorSource): Promise<void> {
  const [head, embedding] = [source.tensors.get(HEAD)!, source.tensors.get(EMBEDDING)!];
  const bytes = head.end - head.start;
  let isEqual = head.dtype === embedding.dtype && bytes === embedding.end - embedding.start;
  for (let offset = 0; isEqual && offset < bytes; offset += PIECE_BYTES) {
    const length = Math.min(PIECE_BYTES, bytes - offset);
    const [a, b] = [
      await source.readBytes(HEAD, offset, length),
      await source.readBytes(EMBEDDING, offset, length),
    ];
    isEqual = Buffer.compare(a, b) === 0;
  }
  if (isEqual) return;
  throw new DataError(
    dir,
    `${dir}: config.json says tie_word_embeddings: true, but ${HEAD} differs from ${EMBEDDING}; one of the two is wrong`,
  );
}

function listed(names: readonly string[]): string {
  const shown = names.slice(0, MAX_NAMED).join(', ');
  return names.length > MAX_NAMED ? `${shown} and ${names.length - MAX_NAMED} more` : shown;
}
