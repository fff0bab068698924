/** Short ways to resolve a configuration in a test, with the folders fixed. */
import { parseRunConfig } from '../../src/config/load.ts';
import { parseOverride, type Override } from '../../src/config/overrides.ts';
import type { RunConfig } from '../../src/config/schema.ts';
import { ConfigError } from '../../src/errors.ts';

export const MINIMAL = 'name: tiny\nmodel: 9m\ndata: {path: corpus.txt}\nsteps: 60\n';

export function resolve(text: string, ...settings: readonly string[]): RunConfig {
  return resolveWith(text, settings.map(parseOverride));
}

export function resolveWith(text: string, overrides: readonly Override[]): RunConfig {
  return parseRunConfig(text, 'run.yaml', { overrides, workingDir: '/work-dir', homeDir: '/home/ann' });
}

/** The error of a configuration that must be refused. */
export function refusal(text: string, ...settings: readonly string[]): ConfigError {
  try {
    resolve(text, ...settings);
  } catch (error) {
    if (error instanceof ConfigError) return error;
    throw error;
  }
  throw new Error('the configuration was accepted');
}
