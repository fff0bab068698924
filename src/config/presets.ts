/**
 * What a preset decides where the file does not. Explicit fields always win. `recommended` is what
 * measured best; `parity` is what the galore-torch package does, for comparisons with it.
 */
import { join } from 'node:path';
import type { RunConfig, RunConfigInput } from './schema.ts';

interface OptimizerDefaults {
  readonly betas: [number, number];
  readonly eps: number;
  readonly semantics: RunConfig['optimizer']['semantics'];
}

interface Preset {
  readonly moments: RunConfig['method']['moments'];
  readonly refresh: RunConfig['method']['refresh'];
  readonly optimizer: OptimizerDefaults;
}

/** The presets by name. */
export const PRESETS: Readonly<Record<RunConfigInput['method']['preset'], Preset>> = {
  recommended: {
    moments: 'transport',
    refresh: { type: 'sketch', oversample: 8, power_iterations: 1, stagger: true },
    optimizer: { betas: [0.9, 0.99], eps: 1e-8, semantics: 'torch' },
  },
  parity: {
    moments: 'keep',
    refresh: { type: 'exact', oversample: 0, power_iterations: 0, stagger: false },
    optimizer: { betas: [0.9, 0.999], eps: 1e-6, semantics: 'galore_torch' },
  },
};

/** `method.name: full` is plain AdamW, whatever the preset says. */
export const FULL_RANK_OPTIMIZER: OptimizerDefaults = {
  betas: [0.9, 0.999],
  eps: 1e-8,
  semantics: 'torch',
};

/** Fills in what the file left out: the run directory and what the preset decides. */
export function applyPreset(input: RunConfigInput): RunConfig {
  const { method, optimizer } = input;
  const preset = PRESETS[method.preset];
  const optimizerDefaults = method.name === 'full' ? FULL_RANK_OPTIMIZER : preset.optimizer;
  return {
    ...input,
    dir: input.dir ?? join('runs', input.name),
    method: {
      ...method,
      rank: method.rank,
      moments: method.moments ?? preset.moments,
      refresh: fillRefresh(method.refresh, preset.refresh),
    },
    optimizer: {
      ...optimizer,
      betas: optimizer.betas ?? [...optimizerDefaults.betas],
      eps: optimizer.eps ?? optimizerDefaults.eps,
      semantics: optimizer.semantics ?? optimizerDefaults.semantics,
    },
  };
}

function fillRefresh(
  given: RunConfigInput['method']['refresh'],
  preset: RunConfig['method']['refresh'],
): RunConfig['method']['refresh'] {
  const type = given.type ?? preset.type;
  // An exact refresh has no sketch: extra columns and iterations would say something that does not happen.
  const rest = type === 'exact' ? { ...preset, oversample: 0, power_iterations: 0 } : preset;
  return {
    type,
    oversample: given.oversample ?? rest.oversample,
    power_iterations: given.power_iterations ?? rest.power_iterations,
    stagger: given.stagger ?? rest.stagger,
  };
}
