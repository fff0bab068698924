/**
 * The weights of a model whose folder has something else: the parts that a run trains (galore/parametrisation), or
 * the model's own and an adapter elsewhere. Each is made on the engine, which must be loaded, when it is read.
 */
import * as tf from '@tensorflow/tfjs-core';
import { ConfigError } from '../errors.ts';
import { openModelWeights, openTensors, type ModelWeights } from '../files/model-weights.ts';
import { loraOptionsOf, openPeftAdapter } from '../files/peft-adapter.ts';
import { lora } from '../galore/parametrisation/lora.ts';
import { parameterTable, type ParameterTable } from '../galore/parametrisation/parametrisation.ts';
import type { TensorSpec } from '../galore/slot.ts';
import { modelTensors, type ModelConfig } from '../model/model-config.ts';
import { buildRunShape } from '../run-shape.ts';
import { loadEngine } from './engine/load.ts';
import type { ReadyDevice } from './engine/ready-device.ts';
import type { WeightsFolder } from './open-model.ts';
import { inputOf } from './parameters.ts';

/** Reads tensors by their names. */
type Read = (spec: TensorSpec) => Promise<Float32Array>;

/** Opens them, checked. @throws DataError for a folder or adapter that cannot be used, ConfigError for two adapters */
export async function openMadeWeights(
  { path, config: run, adapter }: WeightsFolder,
  model: ModelConfig,
): Promise<ModelWeights> {
  const own = modelTensors(model);
  const table = run === null ? null : buildRunShape(run, model).parameters;
  if (table === null || table.made.size === 0) {
    const base = await openModelWeights(path, model);
    return adapter === undefined ? base : await adapted(base, adapter);
  }
  if (adapter !== undefined) {
    throw new ConfigError(`--adapter is for a whole model, and the run of ${path} has an adapter of its own`);
  }
  const parts = await openTensors(path, table.parts, model);
  return new MadeWeights(own, table, (spec) => parts.read(spec), [parts]);
}

async function adapted(base: ModelWeights, dir: string): Promise<ModelWeights> {
  try {
    const adapter = await openPeftAdapter(dir, base.specs);
    const table = parameterTable(base.specs, lora(loraOptionsOf(adapter)));
    const read: Read = (spec) => (adapter.has(spec) ? adapter : base).read(spec);
    return new MadeWeights(base.specs, table, read, [adapter, base]);
  } catch (error) {
    await base[Symbol.asyncDispose]();
    throw error;
  }
}

/** The same with the engine, which must be installed, loaded for it. @throws EngineError, and as `openMadeWeights` */
export type OpenMadeWeights = (
  folder: WeightsFolder,
  model: ModelConfig,
  threads: number,
  device: ReadyDevice | undefined,
) => Promise<ModelWeights>;

export const openMadeWeightsHere: OpenMadeWeights = async (folder, model, threads, device) => {
  await loadEngine({ precision: 'f32', threads, device });
  return await openMadeWeights(folder, model);
};

class MadeWeights implements ModelWeights {
  readonly specs: readonly TensorSpec[];
  readonly #table: ParameterTable;
  readonly #readPart: Read;
  readonly #sources: readonly AsyncDisposable[];

  constructor(
    specs: readonly TensorSpec[],
    table: ParameterTable,
    readPart: Read,
    sources: readonly AsyncDisposable[],
  ) {
    this.specs = specs;
    this.#table = table;
    this.#readPart = readPart;
    this.#sources = sources;
  }

  async read(spec: TensorSpec): Promise<Float32Array> {
    const made = this.#table.made.get(spec.name);
    if (made === undefined) return await this.#readPart(spec);
    const parts = new Map<string, tf.Tensor>();
    for (const part of made.parts) {
      parts.set(part.name, tf.tensor(await this.#readPart(part), [...part.shape]));
    }
    const weight = this.#table.parametrisation.materialise(inputOf(made, (name) => parts.get(name)!));
    const values = weight.dataSync<'float32'>() as Float32Array;
    tf.dispose([weight, ...parts.values()]);
    return values;
  }

  async *pieces(spec: TensorSpec) {
    yield { first: 0, values: await this.read(spec) };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const source of this.#sources) await source[Symbol.asyncDispose]();
  }
}
