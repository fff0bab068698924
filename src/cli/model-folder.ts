/**
 * Which model `galore eval`, `generate` and `export` are given: the newest checkpoint of a run directory, a
 * checkpoint, or a Hugging Face folder. SHELL: looks at the disk.
 */
import { existsSync, statSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { loadRunConfig } from '../config/load.ts';
import type { RunConfig } from '../config/schema.ts';
import { parseCheckpointName } from '../coordinator/store/checkpoint-format.ts';
import {
  listCheckpointSteps,
  openCheckpoint,
  openNewestCheckpoint,
} from '../coordinator/store/checkpoint.ts';
import { CheckpointError, ConfigError, DataError } from '../errors.ts';
import type { ModelFolder } from '../trainer/open-model.ts';
import type { CliContext } from './context.ts';
import { RUN_FILE } from './run-file.ts';

/**
 * Finds the model in `dir`. Checkpoints of a run are verified; `onNotice` is told of damaged ones that
 * were passed over. With `wantedStep`, `dir` is a run directory and that checkpoint is meant.
 * @throws DataError if there is none, CheckpointError if the run has no checkpoint that is whole.
 */
export async function findModelFolder(
  context: CliContext,
  dir: string,
  onNotice: (text: string) => void,
  wantedStep?: number,
): Promise<ModelFolder> {
  const path = resolve(context.workingDir, dir);
  if (!existsSync(path) || !statSync(path).isDirectory())
    throw new DataError(path, `there is no folder ${dir}`);
  if (existsSync(join(path, RUN_FILE))) {
    const checkpoints = join(path, 'checkpoints');
    if (wantedStep !== undefined) await checkHasStep(checkpoints, dir, wantedStep);
    const checkpoint =
      wantedStep === undefined
        ? await openNewestCheckpoint(checkpoints, onNotice)
        : await openCheckpoint(checkpoints, wantedStep);
    if (checkpoint === null) throw new CheckpointError(path, `the run in ${dir} has no checkpoint yet`);
    await checkpoint.close();
    return { path: checkpoint.path, step: checkpoint.step, config: configOf(context, path) };
  }
  if (wantedStep !== undefined) {
    throw new ConfigError(
      `--step ${wantedStep} chooses among the checkpoints of a run, and ${dir} is no run directory`,
    );
  }
  if (!existsSync(join(path, 'config.json'))) {
    throw new DataError(
      path,
      `${dir} is no run directory (it has no ${RUN_FILE}) and no model folder (it has no config.json)`,
    );
  }
  const runDir = resolve(path, '..', '..');
  const step = parseCheckpointName(basename(path));
  if (step === null || !existsSync(join(runDir, RUN_FILE))) return { path, step: null, config: null };
  const checkpoint = await openCheckpoint(dirname(path), step);
  await checkpoint.close();
  return { path, step, config: configOf(context, runDir) };
}

async function checkHasStep(checkpoints: string, dir: string, wanted: number): Promise<void> {
  const steps = await listCheckpointSteps(checkpoints);
  if (steps.includes(wanted)) return;
  const has = steps.length === 0 ? 'no checkpoint yet' : `checkpoints of steps ${steps.join(', ')}`;
  throw new ConfigError(`the run in ${dir} has no checkpoint of step ${wanted}; it has ${has}`);
}

/** The `--tokenizer` of a command: `byte`, or a tokenizer.json or its folder. */
export function givenTokenizer(
  context: CliContext,
  given: string | undefined,
): Pick<ModelFolder, 'tokenizer'> {
  if (given === undefined) return {};
  return {
    tokenizer:
      given === 'byte' ? { type: 'byte' } : { type: 'file', path: resolve(context.workingDir, given) },
  };
}

/** The `--adapter` of a command: the folder of a peft adapter. */
export function givenAdapter(context: CliContext, given: string | undefined): Pick<ModelFolder, 'adapter'> {
  return given === undefined ? {} : { adapter: resolve(context.workingDir, given) };
}

function configOf(context: CliContext, runDir: string): RunConfig {
  const { workingDir, environment } = context;
  return loadRunConfig(join(runDir, RUN_FILE), { workingDir, homeDir: environment.homeDir });
}
