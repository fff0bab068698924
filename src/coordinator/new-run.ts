/** What only a new run needs: its model, and the checkpoint of step 0 with the first weights. */
import { bytesOf } from '../array-bytes.ts';
import type { RunConfig } from '../config/schema.ts';
import { readModelConfig } from '../files/model-config.ts';
import { openModelWeights } from '../files/model-weights.ts';
import type { Tokenizer } from '../files/tokenizer.ts';
import { classifierOf, isOutputKept } from '../model/classifier.ts';
import { initialiseTensor } from '../model/initialise.ts';
import { llamaConfigFromFields } from '../model/llama-config.ts';
import { isClassifier, modelTensors, type ModelConfig } from '../model/model-config.ts';
import { FIRST_DIGEST } from '../protocol/digest.ts';
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
  const { path, ...fields } = config.model;
  if (path !== undefined) return classifierOf(await readModelConfig(path), config, path);
  const maxPositionEmbeddings = Math.max(DEFAULT_CONTEXT, config.seq_len);
  const model = llamaConfigFromFields(fields, { vocabSize: tokenizer.vocabSize, maxPositionEmbeddings });
  return { ...model, eosTokenId: tokenizer.eosId };
}

/** Writes checkpoints/step-000000. */
export async function writeFirstCheckpoint(
  checkpointsDir: string,
  config: RunConfig,
  model: ModelConfig,
  facts: FirstFacts,
  texts: CheckpointTexts,
  onNotice: (text: string) => void = () => {},
): Promise<void> {
  const { path } = config.model;
  const tensors = modelTensors(model).map(({ name, shape }) => ({ name: `weights/${name}`, shape }));
  const writer = await beginCheckpoint(checkpointsDir, 0, tensors, texts);
  try {
    if (path === undefined) await writeInitial(writer, model, config.seed);
    else await copyWeights(writer, model, path, { seed: config.seed, onNotice });
    await writer.finish(firstFacts(config, facts));
  } catch (error) {
    await writer.abandon();
    throw error;
  }
}

async function writeInitial(writer: CheckpointWriter, model: ModelConfig, seed: number): Promise<void> {
  for (const [index, spec] of modelTensors(model).entries()) {
    await writer.write(index, 0, bytesOf(initialiseTensor(spec, model, seed)));
  }
}

/** Piece by piece: a tensor of any size needs a few MB. */
async function copyWeights(
  writer: CheckpointWriter,
  model: ModelConfig,
  path: string,
  { seed, onNotice }: { readonly seed: number; readonly onNotice: (text: string) => void },
): Promise<void> {
  const isOutputNew = isClassifier(model) && !isOutputKept(await readModelConfig(path), model);
  await using weights = await openModelWeights(path, model, { newHead: { seed, isOutputNew }, onNotice });
  for (const [index, spec] of weights.specs.entries()) {
    for await (const { first, values } of weights.pieces(spec)) {
      await writer.write(index, first * values.BYTES_PER_ELEMENT, bytesOf(values));
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
