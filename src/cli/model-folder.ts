/**
 * What `galore eval` and `galore generate` are given: a run directory, a checkpoint or a Hugging Face
 * folder, and the types of the work done with it. SHELL: looks at the disk.
 */
import { existsSync, readdirSync, statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { loadRunConfig } from '../config/load.ts';
import type { RunConfig } from '../config/schema.ts';
import { CheckpointError, DataError } from '../errors.ts';
import type { CliContext } from './context.ts';
import { RUN_FILE } from './run-file.ts';

/** A folder with config.json and weights, and the run it belongs to where there is one. */
export interface ModelFolder {
  readonly path: string;
  /** Step of the checkpoint; null for a folder from elsewhere. */
  readonly step: number | null;
  readonly config: RunConfig | null;
}

/** Held-out loss of a model. */
export interface EvaluationResult {
  readonly loss: number; // nats per token
  readonly perplexity: number;
  readonly tokens: number;
  readonly sequences: number;
}

export interface EvaluationRequest {
  readonly folder: ModelFolder;
  /** Files or folders; null: the held-out data of the run. */
  readonly dataPath: string | null;
  readonly sequenceLength: number;
  /** At most this many sequences; 0: all. */
  readonly maxSequences: number;
  readonly batchSequences: number;
  readonly cacheDir: string;
  readonly threads: number;
  readonly signal: AbortSignal;
  readonly onProgress: (text: string, share: number) => void;
}

/** Measures a model. @throws DataError, CheckpointError, EngineError */
export type EvaluateFolder = (request: EvaluationRequest) => Promise<EvaluationResult>;

export interface GenerationRequest {
  readonly folder: ModelFolder;
  readonly prompt: string;
  readonly maxTokens: number;
  readonly temperature: number; // 0: always the likeliest token
  readonly topK: number; // 0: all
  readonly topP: number; // 1: all
  readonly seed: number;
  readonly cacheDir: string;
  readonly threads: number;
  readonly signal: AbortSignal;
  /** Called with each piece of text as soon as its bytes are complete. */
  readonly onText: (text: string) => void;
}

/** What came of it. */
export interface GenerationResult {
  readonly tokens: number;
  readonly end: 'end-of-text' | 'limit' | 'interrupted';
}

/** Continues a text. @throws DataError, CheckpointError, EngineError */
export type GenerateText = (request: GenerationRequest) => Promise<GenerationResult>;

const CHECKPOINT_NAME = /^step-(\d+)$/;

/**
 * Finds the model in `dir`: the newest checkpoint of a run directory, or the folder itself.
 * @throws DataError if there is none, CheckpointError if the run has no checkpoint yet.
 */
export function findModelFolder(context: CliContext, dir: string): ModelFolder {
  const path = resolve(context.workingDir, dir);
  if (!existsSync(path) || !statSync(path).isDirectory())
    throw new DataError(path, `there is no folder ${dir}`);
  if (existsSync(join(path, RUN_FILE))) {
    const step = newestStep(join(path, 'checkpoints'));
    if (step === null) throw new CheckpointError(path, `the run in ${dir} has no checkpoint yet`);
    return { path: join(path, 'checkpoints', `step-${step}`), step, config: configOf(context, path) };
  }
  if (!existsSync(join(path, 'config.json'))) {
    throw new DataError(
      path,
      `${dir} is no run directory (it has no ${RUN_FILE}) and no model folder (it has no config.json)`,
    );
  }
  const runDir = resolve(path, '..', '..');
  const isCheckpoint = existsSync(join(runDir, RUN_FILE));
  const step = CHECKPOINT_NAME.exec(path.split(/[/\\]/).at(-1) ?? '')?.[1];
  return {
    path,
    step: isCheckpoint && step !== undefined ? Number(step) : null,
    config: isCheckpoint ? configOf(context, runDir) : null,
  };
}

function newestStep(checkpointsDir: string): number | null {
  if (!existsSync(checkpointsDir)) return null;
  const steps = readdirSync(checkpointsDir)
    .map((name) => CHECKPOINT_NAME.exec(name)?.[1])
    .filter((step) => step !== undefined)
    .map(Number);
  return steps.length === 0 ? null : Math.max(...steps);
}

function configOf(context: CliContext, runDir: string): RunConfig {
  const { workingDir, environment } = context;
  return loadRunConfig(join(runDir, RUN_FILE), { workingDir, homeDir: environment.homeDir });
}
