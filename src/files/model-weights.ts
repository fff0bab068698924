/**
 * The weights of a Llama in a model folder, checked before the first is read: exactly the tensors that
 * its config.json asks for, in their shapes and in types that can be read. Every number that is read is finite.
 */
import { DataError } from '../errors.ts';
import type { TensorSpec } from '../galore/slot.ts';
import { llamaTensors, type LlamaConfig } from '../model/llama-config.ts';
import { LORA_A } from '../galore/parametrisation/lora.ts';
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

/** Opens the weights in `dir`. @throws DataError that names the tensors that are missing, too many or wrong. */
export async function openModelWeights(dir: string, config: LlamaConfig): Promise<ModelWeights> {
  return await openTensors(dir, llamaTensors(config), config);
}

/** The same for a folder that has other tensors than those of its config.json: exactly `specs`. @throws as `openModelWeights` */
export async function openTensors(
  dir: string,
  specs: readonly TensorSpec[],
  config: LlamaConfig,
): Promise<ModelWeights> {
  const source = await openModelFolder(dir);
  try {
    checkTensors(dir, specs, source, config);
    if (config.tieWordEmbeddings && source.tensors.has(HEAD)) await checkTied(dir, source);
    return new OpenModelWeights(dir, specs, source);
  } catch (error) {
    await source.close();
    throw error;
  }
}

class OpenModelWeights implements ModelWeights {
  readonly specs: readonly TensorSpec[];
  readonly #dir: string;
  readonly #source: TensorSource;

  constructor(dir: string, specs: readonly TensorSpec[], source: TensorSource) {
    this.#dir = dir;
    this.specs = specs;
    this.#source = source;
  }

  async read({ name }: TensorSpec): Promise<Float32Array> {
    const values = await this.#source.readFloat32(name);
    this.#checkFinite(name, values, 0);
    return values;
  }

  async *pieces({ name }: TensorSpec): AsyncGenerator<TensorPiece, void, void> {
    for await (const piece of this.#source.readPieces(name)) {
      this.#checkFinite(name, piece.values, piece.first);
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
  { tensors }: TensorSource,
  config: LlamaConfig,
): void {
  const missing = specs.filter(({ name }) => !tensors.has(name)).map(({ name }) => name);
  if (missing.length > 0) {
    throw new DataError(dir, `${dir} has no tensor ${listed(missing)}; its config.json asks for them`);
  }
  const wanted = new Map(specs.map((spec) => [spec.name, spec.shape]));
  const mayHaveHead = config.tieWordEmbeddings;
  const unexpected = [...tensors.keys()].filter(
    (name) => !wanted.has(name) && !DERIVED_TENSOR.test(name) && !(mayHaveHead && name === HEAD),
  );
  if (unexpected.length > 0) {
    const reason = unexpected.some((name) => name.endsWith(LORA_A))
      ? 'it is a checkpoint of a run with adapters, which is read where the run is (galore export writes a folder that stands alone)'
      : 'a Llama of its config.json has no such weights, and without them it would be another model';
    throw new DataError(dir, `${dir} holds tensor ${listed(unexpected)}: ${reason}`);
  }
  for (const [name, shape] of wanted) {
    const entry = tensors.get(name)!;
    if (entry.shape.join() !== shape.join()) {
      const [is, asked] = [entry.shape, shape].map((sizes) => `[${sizes.join(', ')}]`);
      throw new DataError(dir, `${dir}: ${name} is ${is}, config.json asks for ${asked}`);
    }
    if (!isFloatDtype(entry.dtype)) {
      throw new DataError(dir, `${dir}: tensor ${name} is ${entry.dtype}, not F32, F16, BF16 or F64`);
    }
  }
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
