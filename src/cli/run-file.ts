/** From the file and the flags of a command to the configuration it uses. SHELL: looks at the disk. */
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { loadRunConfig } from '../config/load.ts';
import { override, type Override } from '../config/overrides.ts';
import { checkResumable } from '../config/resumable.ts';
import type { RunConfig } from '../config/schema.ts';
import { ConfigError } from '../errors.ts';
import type { CliContext } from './context.ts';
import { shellWord, shownPath } from './words.ts';

/** The name of the configuration inside a run directory. */
export const RUN_FILE = 'run.yaml';

/** A configuration and what is to be told before it is used. */
export interface PreparedRun {
  readonly config: RunConfig;
  readonly notice: string | null;
}

/** How many trainers to start on this machine, given what the file and the flags say. */
export type ChooseLocalTrainers = (config: RunConfig) => number;

/**
 * The configuration of a new run. Where the default directory holds a run already, the next free one is
 * taken: runs/NAME-2 and so on.
 * @throws ConfigError
 */
export function prepareNewRun(
  context: CliContext,
  file: string,
  overrides: readonly Override[],
  localTrainers: ChooseLocalTrainers,
): PreparedRun {
  const config = loadWithLocalTrainers(context, file, overrides, localTrainers);
  const defaultDir = resolve(context.workingDir, 'runs', config.name);
  const isChosen = config.dir !== defaultDir || overrides.some(({ path }) => path[0] === 'dir');
  // With a store elsewhere the name says which run it is, and this directory is a mirror of it.
  if (isChosen || config.state !== undefined || !holdsRun(config.dir)) return { config, notice: null };
  let number = 2;
  while (holdsRun(`${defaultDir}-${number}`)) number += 1;
  const dir = `${defaultDir}-${number}`;
  const shown = (path: string): string => shownPath(context.workingDir, path);
  const resume = `${context.commandName} resume ${shellWord(shown(config.dir))}`;
  return {
    config: Object.freeze({ ...config, dir }),
    notice: `${shown(config.dir)} holds a run already (to go on with it: ${resume}); this one goes to ${shown(dir)}`,
  };
}

/**
 * The configuration of the run in `dir`, with what the flags change.
 * @throws ConfigError if `dir` holds no run, or a flag changes what a run cannot change.
 */
export function prepareResumedRun(
  context: CliContext,
  dir: string,
  overrides: readonly Override[],
  localTrainers: ChooseLocalTrainers,
): PreparedRun {
  const path = resolve(context.workingDir, dir);
  if (!holdsRun(path)) throw new ConfigError(`${dir} is not a run directory: it holds no ${RUN_FILE}`);
  const file = join(path, RUN_FILE);
  const place = override('dir', path, '');
  const saved = loadRunConfig(file, { ...loadOptions(context), overrides: [place] });
  const config = loadWithLocalTrainers(context, file, [...overrides, place], localTrainers);
  checkResumable(saved, config);
  return { config, notice: null };
}

function loadWithLocalTrainers(
  context: CliContext,
  file: string,
  overrides: readonly Override[],
  localTrainers: ChooseLocalTrainers,
): RunConfig {
  const options = loadOptions(context);
  const config = loadRunConfig(file, { ...options, overrides });
  const count = localTrainers(config);
  if (count === config.coordinator.local_trainers) return config;
  const chosen = override('coordinator.local_trainers', count, '--trainers');
  return loadRunConfig(file, { ...options, overrides: [...overrides, chosen] });
}

function loadOptions(context: CliContext): { workingDir: string; homeDir: string } {
  return { workingDir: context.workingDir, homeDir: context.environment.homeDir };
}

function holdsRun(dir: string): boolean {
  return existsSync(join(dir, RUN_FILE));
}
