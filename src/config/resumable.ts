/**
 * What may differ when a run is resumed, and why the rest may not. Pure.
 */
import { ConfigError, type ConfigFault } from '../errors.ts';
import { showValue, valueAt } from './faults.ts';
import { isMapping } from './overrides.ts';
import type { RunConfig } from './schema.ts';

/** Fields and sections that only say how the run is carried out. */
const MAY_CHANGE_ON_RESUME = [
  'dir',
  'state',
  'steps',
  'data.cache_dir',
  'coordinator',
  'trainer',
  'checkpoint',
  'evaluation',
  'tensorboard',
];

const WHY_FIXED: Readonly<Record<string, string>> = {
  preset: 'run.yaml spells out what it stood for',
  name: 'trainers and records know the run by it',
  model: 'the weights of the checkpoint have this shape',
  data: 'the place in the data would mean other texts',
  tokenizer: 'the weights know these tokens',
  seq_len: 'the place in the data is counted in sequences of this length',
  batch_size: 'the place in the data and the schedule are counted in steps of this size',
  method: 'the moments and bases of the checkpoint belong to it',
  optimizer: 'the moments of the checkpoint belong to it',
  local_steps: 'a step of the journal is so many optimizer steps',
  wire: 'the records of the journal are encoded with it',
  seed: 'the order of the data comes from it',
};

/**
 * Checks that a resumed run is the same run.
 * @throws ConfigError that names every field that may not change and why.
 */
export function checkResumable(saved: RunConfig, wanted: RunConfig): void {
  const faults = differingFields(saved, wanted)
    .filter((path) => !MAY_CHANGE_ON_RESUME.some((field) => path === field || path.startsWith(`${field}.`)))
    .map((path): ConfigFault => {
      const reason = WHY_FIXED[path.split('.', 1)[0] ?? ''] ?? 'it is part of what the run is';
      const [before, after] = [saved, wanted].map((config) => showValue(valueAt(config, path.split('.'))));
      return { field: path, value: after ?? '', allowed: `it stays ${before}: ${reason}` };
    });
  if (faults.length === 0) return;
  const rows = faults.map(({ field, value, allowed }) => `  ${field} is ${value}; ${allowed}`);
  const hint = `may change: ${MAY_CHANGE_ON_RESUME.join(', ')}; for anything else start a new run`;
  throw new ConfigError(`a resumed run keeps its settings:\n${rows.join('\n')}\n  ${hint}`, faults);
}

/** Dotted paths of the fields whose values differ. */
function differingFields(a: unknown, b: unknown, prefix: readonly string[] = []): readonly string[] {
  if (isMapping(a) && isMapping(b)) {
    const names = [...new Set([...Object.keys(a), ...Object.keys(b)])];
    return names.flatMap((name) => differingFields(a[name], b[name], [...prefix, name]));
  }
  return JSON.stringify(a) === JSON.stringify(b) ? [] : [prefix.join('.')];
}
