/**
 * Everything that must be there before the first event: data, tokenizer, model, slot table, run
 * directory, the checkpoint of step 0, journal. The same for a new run and for one that goes on.
 */
import { createHash, randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { resolvedYaml } from '../config/load.ts';
import type { RunConfig } from '../config/schema.ts';
import { CheckpointError, ConfigError } from '../errors.ts';
import { checkVocabulary, prepareDataset, type Dataset } from '../files/dataset.ts';
import { openModelFolder } from '../files/safetensors.ts';
import { buildRunShape, type RunShape } from '../run-shape.ts';
import { describeSlots } from '../galore/slot.ts';
import { initialiseTensor } from '../model/initialise.ts';
import {
  llamaConfigFromFields,
  llamaTensors,
  parseLlamaConfig,
  toHuggingFace,
  type LlamaConfig,
} from '../model/llama-config.ts';
import { readModelConfig } from '../files/model-config.ts';
import { FIRST_DIGEST } from '../protocol/digest.ts';
import { maxSequencesPerAssignment } from '../protocol/limits.ts';
import type { RunReport } from './api.ts';
import {
  beginCheckpoint,
  openNewestCheckpoint,
  type CheckpointExtra,
  type RunJson,
} from './store/checkpoint.ts';
import { Journal } from './store/journal.ts';
import { createRunDirectory, openRunDirectory, type RunDirectory } from './store/run-directory.ts';

/** All that a coordinator works with. */
export interface PreparedRun {
  readonly config: RunConfig;
  readonly runId: string;
  readonly directory: RunDirectory;
  readonly checkpointsDir: string;
  readonly journal: Journal;
  readonly dataset: Dataset;
  readonly model: LlamaConfig;
  readonly modelJson: string;
  readonly shape: RunShape;
  readonly schemaHash: Uint8Array;
  readonly extra: CheckpointExtra;
  /** Where the run stands: the newest good checkpoint with the journal on top of it. */
  readonly start: RunJson;
  /** Step of the newest good checkpoint. */
  readonly checkpointedStep: number;
}
