/** What only a new run needs: its model, and the checkpoint of step 0 with the first weights. */
import { bytesOf } from '../array-bytes.ts';
import type { RunConfig } from '../config/schema.ts';
import { openBaseWeights } from '../files/base-weights.ts';
import { readModelConfig } from '../files/model-config.ts';
import { openPeftAdapter, type PeftAdapter } from '../files/peft-adapter.ts';
import type { Tokenizer } from '../files/tokenizer.ts';
import type { ParameterTable } from '../galore/parametrisation/parametrisation.ts';
import { classifierOf } from '../model/classifier.ts';
import { initialiseTensor } from '../model/initialise.ts';
import { llamaConfigFromFields } from '../model/llama-config.ts';
import { modelTensors, type ModelConfig } from '../model/model-config.ts';
import { FIRST_DIGEST } from '../protocol/digest.ts';
import { checkAdapter } from './check-adapter.ts';
import {
  beginCheckpoint,
  type CheckpointTexts,
  type CheckpointWriter,
  type RunFacts,
} from './store/checkpoint.ts';

/** Context length written into config.json when the sequences are not longer (the GaLore configurations'). */
const DEFAULT_CONTEXT = 1024;

/**
 * The model of a new run: from a Hugging Face folder, or from the sizes in the configuration.
 * @throws ConfigError for a model that cannot do the task
 */
export async function newModel(
  config: RunConfig,
  tokenizer: Pick<Tokenizer, 'vocabSize' | 'eosId'>,
): Promise<ModelConfig> {
  const { path, adapter: _, ...fields } = config.model;
  if (path !== undefined) return classifierOf(await readModelConfig(path), config, path);
  const maxPositionEmbeddings = Math.max(DEFAULT_CONTEXT, config.seq_len);
  const model = llamaConfigFromFields(fields, { vocabSize: tokenizer.vocabSize, maxPositionEmbeddings });
  return { ...model, eosTokenId: tokenizer.eosId };
}

/** Writes checkpoints/step-000000. */
export async function writeFirstCheckpoint(
  checkpointsDir: string,
  config: RunConfig,
  { model, table }: { readonly model: ModelConfig; readonly table: ParameterTable },
  facts: FirstFacts,
  texts: CheckpointTexts,
  onNotice: (text: string) => void = () => {},
): Promise<void> {
  const { path } = config.model;
  const { parametrisation, parts } = table;
  await using adapter = await openAdapterOf(config, table);
  const tensors = parts.map(({ name, shape }) => ({ name: `weights/${name}`, shape }));
  const writer = await beginCheckpoint(checkpointsDir, 0, tensors, texts);
  const indexOf = new Map(parts.map(({ name }, index) => [name, index]));
  const own = new Set(modelTensors(model).map(({ name }) => name));
  try {
    if (path === undefined) await writeInitial(writer, indexOf, model, config.seed);
    else await copyWeights(writer, indexOf, model, path, { seed: config.seed, onNotice });
    for (const [index, part] of parts.entries()) {
      const isInAdapter = adapter?.has(part) ?? false;
      if (own.has(part.name) && !isInAdapter) continue;
      const values = isInAdapter ? await adapter!.read(part) : parametrisation.initialise(part, config.seed);
      await writer.write(index, 0, bytesOf(values));
    }
    await writer.finish(firstFacts(config, facts));
  } catch (error) {
    await writer.abandon();
    throw error;
  }
}

/** The adapter that the run begins with; null: with new ones. @throws DataError, ConfigError if it is not one of this run's kind */
export async function openAdapterOf(
  { model, method }: Pick<RunConfig, 'model' | 'method'>,
  table: ParameterTable,
): Promise<PeftAdapter | null> {
  if (model.adapter === undefined) return null;
  const adapter = await openPeftAdapter(model.adapter, table.tensors);
  try {
    checkAdapter(method, table, adapter);
    return adapter;
  } catch (error) {
    await adapter[Symbol.asyncDispose]();
    throw error;
  }
}

/** Number of a part in the checkpoint. */
type PartIndex = ReadonlyMap<string, number>;

async function writeInitial(
  writer: CheckpointWriter,
  indexOf: PartIndex,
  model: ModelConfig,
  seed: number,
): Promise<void> {
  for (const spec of modelTensors(model)) {
    await writer.write(indexOf.get(spec.name)!, 0, bytesOf(initialiseTensor(spec, model, seed)));
  }
}

/** Piece by piece: a tensor of any size needs a few MB. */
async function copyWeights(
  writer: CheckpointWriter,
  indexOf: PartIndex,
  model: ModelConfig,
  path: string,
  { seed, onNotice }: { readonly seed: number; readonly onNotice: (text: string) => void },
): Promise<void> {
  await using weights = await openBaseWeights(path, model, seed, onNotice);
  for (const spec of weights.specs) {
    for await (const { first, values } of weights.pieces(spec)) {
      await writer.write(indexOf.get(spec.name)!, first * values.BYTES_PER_ELEMENT, bytesOf(values));
    }
  }
}

/** What is known of a run before its first step. */
type FirstFacts = Pick<RunFacts, 'runId' | 'epochSequences' | 'baseSha256'>;

function firstFacts({ name, seed }: RunConfig, facts: FirstFacts): RunFacts {
  return {
    ...facts,
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
