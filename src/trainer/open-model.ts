/**
 * A model in a folder, on the engine and ready to be used: config.json, safetensors, tokenizer.json. For
 * a run's checkpoint and for a Hugging Face folder alike; training does not come this way.
 */
import type { RunConfig } from '../config/schema.ts';
import { DataError } from '../errors.ts';
import { readModelConfig } from '../files/model-config.ts';
import { openModelFolder } from '../files/model-folder.ts';
import { checkVocabulary, loadTokenizer, type Tokenizer } from '../files/tokenizer.ts';
import { sizeOf } from '../galore/slot.ts';
import { llamaTensors, type LlamaConfig } from '../model/llama-config.ts';
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
}

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
  const tokenizer = loadTokenizer(folder.path);
  checkVocabulary(tokenizer, config.vocabSize);
  await loadEngine({ precision: 'f32', threads, device });
  const weights = WeightStore.fromArrays(await readWeights(folder.path, config));
  const model = new LlamaModel(config, weights, { recompute: false, lossChunk: 0 });
  return { model, tokenizer, [Symbol.dispose]: () => weights.dispose() };
}

async function readWeights(path: string, config: LlamaConfig): Promise<readonly WeightValues[]> {
  const source = await openModelFolder(path);
  try {
    const weights: WeightValues[] = [];
    for (const spec of llamaTensors(config)) {
      const entry = source.tensors.get(spec.name);
      if (entry === undefined) throw new DataError(path, `${path} has no tensor ${spec.name}`);
      if (entry.shape.join() !== spec.shape.join()) {
        const [is, wanted] = [entry.shape, spec.shape].map((shape) => `[${shape.join(', ')}]`);
        throw new DataError(path, `${path}: ${spec.name} is ${is}, config.json asks for ${wanted}`);
      }
      const values = await source.readFloat32(spec.name);
      if (values.length !== sizeOf(spec.shape))
        throw new DataError(path, `${path}: ${spec.name} is cut short`);
      weights.push({ ...spec, values });
    }
    return weights;
  } finally {
    await source.close();
  }
}
