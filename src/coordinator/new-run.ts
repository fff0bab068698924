/** What only a new run needs: its model, and the checkpoint of step 0 with the first weights. */
import type { RunConfig } from '../config/schema.ts';
import { DataError } from '../errors.ts';
import { readModelConfig } from '../files/model-config.ts';
import { openModelFolder } from '../files/model-folder.ts';
import type { Tokenizer } from '../files/tokenizer.ts';
import { sizeOf, type TensorSpec } from '../galore/slot.ts';
import { initialiseTensor } from '../model/initialise.ts';
import { llamaConfigFromFields, llamaTensors, type LlamaConfig } from '../model/llama-config.ts';
import { FIRST_DIGEST } from '../protocol/digest.ts';
import { beginCheckpoint, type CheckpointTexts, type RunFacts } from './store/checkpoint.ts';

/** Context length written into config.json when the sequences are not longer (the GaLore configurations'). */
const DEFAULT_CONTEXT = 1024;

/** Tensors' values by name. */
type ReadTensor = (spec: TensorSpec) => Promise<Float32Array>;

/** The model of a new run: from a Hugging Face folder, or from the sizes in the configuration. */
export async function newModel(config: RunConfig, tokenizer: Tokenizer): Promise<LlamaConfig> {
  const { path, ...fields } = config.model;
  if (path !== undefined) return readModelConfig(path);
  const maxPositionEmbeddings = Math.max(DEFAULT_CONTEXT, config.seq_len);
  const model = llamaConfigFromFields(fields, { vocabSize: tokenizer.vocabSize, maxPositionEmbeddings });
  return { ...model, eosTokenId: tokenizer.eosId };
}

/** Writes checkpoints/step-000000. */
export async function writeFirstCheckpoint(
  checkpointsDir: string,
  config: RunConfig,
  model: LlamaConfig,
  runId: string,
  texts: CheckpointTexts,
): Promise<void> {
  const specs = llamaTensors(model);
  const { read, close } = await weightsOf(config, model);
  try {
    const tensors = specs.map(({ name, shape }) => ({ name: `weights/${name}`, shape }));
    const writer = await beginCheckpoint(checkpointsDir, 0, tensors, texts);
    try {
      for (const [index, spec] of specs.entries()) {
        const values = await read(spec);
        await writer.write(index, 0, new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
      }
      await writer.finish(firstFacts(config, runId));
    } catch (error) {
      await writer.abandon();
      throw error;
    }
  } finally {
    await close();
  }
}

function firstFacts({ name, seed }: RunConfig, runId: string): RunFacts {
  return {
    runId,
    name,
    step: 0,
    sequence: 0,
    digest: Buffer.from(FIRST_DIGEST).toString('hex'),
    refreshedStep: 0,
    cursor: { next: 0, returned: [] },
    seed,
    schedulePosition: 0,
    members: [],
    created: new Date().toISOString(),
  };
}

async function weightsOf(
  config: RunConfig,
  model: LlamaConfig,
): Promise<{ read: ReadTensor; close: () => Promise<void> }> {
  const { path } = config.model;
  if (path === undefined) {
    return {
      read: (spec) => Promise.resolve(initialiseTensor(spec, model, config.seed)),
      close: () => Promise.resolve(),
    };
  }
  const folder = await openModelFolder(path);
  const read: ReadTensor = async (spec) => {
    const entry = folder.tensors.get(spec.name);
    if (entry === undefined) throw new DataError(path, `${path} has no tensor ${spec.name}`);
    if (sizeOf(entry.shape) !== sizeOf(spec.shape)) {
      throw new DataError(
        path,
        `${path}: ${spec.name} has shape [${entry.shape.join(', ')}], config.json asks for [${spec.shape.join(', ')}]`,
      );
    }
    return folder.readFloat32(spec.name);
  };
  return { read, close: () => folder.close() };
}
