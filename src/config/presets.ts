/**
 * What a preset decides where the file does not. Explicit fields always win. `recommended` is what
 * measured best; `parity` is what the galore-torch package does, for comparisons with it.
 */
import { join } from 'node:path';
import type { BasisSource } from '../galore/method.ts';
import { LORA_SAVED, LORA_TARGETS } from '../galore/parametrisation/lora.ts';
import { RELORA_SAVED } from '../galore/parametrisation/relora.ts';
import type { RunConfig, RunConfigInput } from './schema.ts';

type Method = RunConfig['method'];
type Refresh = Method['refresh'];

interface OptimizerDefaults {
  readonly betas: [number, number];
  readonly eps: number;
  readonly semantics: RunConfig['optimizer']['semantics'];
}

interface Preset {
  readonly moments: Method['moments'];
  readonly refresh: Refresh;
  readonly optimizer: OptimizerDefaults;
}

/** The presets by name. */
export const PRESETS: Readonly<Record<RunConfigInput['method']['preset'], Preset>> = {
  recommended: {
    moments: 'transport',
    refresh: { type: 'sketch', oversample: 8, power_iterations: 1, warm_start: true, stagger: true },
    optimizer: { betas: [0.9, 0.99], eps: 1e-8, semantics: 'torch' },
  },
  parity: {
    moments: 'keep',
    refresh: { type: 'exact', oversample: 0, power_iterations: 0, warm_start: false, stagger: false },
    optimizer: { betas: [0.9, 0.999], eps: 1e-6, semantics: 'galore_torch' },
  },
};

/** Methods that are plain AdamW, on whatever tensors, whatever the preset says. */
const PLAIN_ADAMW: readonly Method['name'][] = ['full', 'lora', 'relora'];

export const FULL_RANK_OPTIMIZER: OptimizerDefaults = {
  betas: [0.9, 0.999],
  eps: 1e-8,
  semantics: 'torch',
};

/** What a method's name decides where the file does not; the preset has the rest. */
export interface MethodDefaults {
  readonly basis: Method['basis'];
  readonly optimizer: RunConfig['optimizer']['name'];
  readonly scale: number;
  readonly limiter: number;
  readonly moments?: Method['moments'];
  readonly rankThreshold?: number;
  readonly lazyThreshold?: number;
  readonly convergedRatio?: number;
  readonly weights?: Method['weights'];
  readonly rank?: Method['rank'];
  readonly targets?: readonly string[];
  readonly saved?: readonly string[];
}

const GALORE: MethodDefaults = { basis: 'svd', optimizer: 'adamw', scale: 0.25, limiter: 1.01 };

/** Filled in with every method that names none. */
export const TARGET_MODULES: readonly string[] = ['attn', 'mlp'];

/** Published defaults of each method, where there are any (docs/methods.md). */
const METHOD_DEFAULTS: Readonly<Record<Method['name'], MethodDefaults>> = {
  full: GALORE,
  galore: GALORE,
  adarankgrad: { ...GALORE, rankThreshold: 0.05, convergedRatio: 0.25, moments: 'transport' },
  fira: GALORE,
  apollo: { ...GALORE, basis: 'gaussian', scale: 1, moments: 'keep' },
  'apollo-mini': { ...GALORE, basis: 'gaussian', scale: 128, moments: 'keep', rank: 1 },
  ldadam: { ...GALORE, scale: 1 },
  sumo: { ...GALORE, limiter: 1.1 },
  'two-sided': GALORE,
  golore: { ...GALORE, basis: 'random' },
  flora: { ...GALORE, basis: 'gaussian', optimizer: 'adafactor' },
  'q-galore': { ...GALORE, optimizer: 'adamw-8bit', lazyThreshold: 0.4, weights: 'int8' },
  power: { ...GALORE, scale: 0.2 },
  lora: { ...GALORE, rank: 8, targets: LORA_TARGETS, saved: LORA_SAVED },
  relora: { ...GALORE, saved: RELORA_SAVED },
};

const SUMO_MOMENTUM = 0.95;
/** Filled in with every optimizer. */
export const SGD_MOMENTUM = 0.9;

/** DiLoCo's (arXiv 2311.08105) for nesterov; the others change nothing. */
const OUTER_RATES = { none: 1, nesterov: 0.7, adam: 1 } as const;
/** Filled in with every outer optimizer. */
export const OUTER_MOMENTUM = 0.9;

/** DES-LOC's (arXiv 2505.22549); filled in whatever the moments. */
export const MOMENT_PERIODS: readonly [number, number] = [3, 6];

/** What a method's name decides. */
export function methodDefaults(name: Method['name']): MethodDefaults {
  return METHOD_DEFAULTS[name];
}

/** Methods whose matrices may keep all that did not travel; see docs/methods.md, "Feedback". */
const KEEPING: readonly Method['name'][] = ['galore', 'golore', 'q-galore'];

/** What happens to the moments where the file does not say it. */
export function defaultMoments(
  name: Method['name'],
  basis: BasisSource,
  preset: RunConfigInput['method']['preset'],
  feedback: Method['feedback'] = 'none',
): Method['moments'] {
  const { moments } = PRESETS[preset];
  // What a new basis then holds has waited for many steps: V of the old one is no measure of it.
  if (feedback === 'gradient' && preset === 'recommended' && KEEPING.includes(name)) return 'reset';
  // The rule of `transport` is one of orthonormal bases.
  const fitting = basis === 'gaussian' && moments === 'transport' ? 'rotate' : moments;
  return METHOD_DEFAULTS[name].moments ?? fitting;
}

/** Fills in what the file left out: the run directory and what the method and the preset decide. */
export function applyPreset(input: RunConfigInput): RunConfig {
  const { method, optimizer, local_steps: local } = input;
  const preset = PRESETS[method.preset];
  const byMethod = METHOD_DEFAULTS[method.name];
  const basis = method.basis ?? byMethod.basis;
  const optimizerDefaults = PLAIN_ADAMW.includes(method.name) ? FULL_RANK_OPTIMIZER : preset.optimizer;
  return {
    ...input,
    dir: input.dir ?? join('runs', input.name),
    method: {
      ...method,
      rank: method.rank ?? byMethod.rank,
      basis,
      scale: method.scale ?? byMethod.scale,
      limiter: method.limiter ?? byMethod.limiter,
      weights: method.weights ?? byMethod.weights ?? 'f32',
      target_modules: method.target_modules ?? [...(byMethod.targets ?? TARGET_MODULES)],
      modules_to_save: method.modules_to_save ?? [...(byMethod.saved ?? [])],
      moments: method.moments ?? defaultMoments(method.name, basis, method.preset, method.feedback),
      adaptive_rank: withDefault(method.adaptive_rank, 'threshold', byMethod.rankThreshold),
      refresh: fillRefresh(method.refresh, preset.refresh, byMethod, isFromSvd(method.name, basis)),
    },
    local_steps: {
      ...local,
      outer_lr: local.outer_lr ?? OUTER_RATES[local.outer],
      outer_momentum: local.outer_momentum ?? OUTER_MOMENTUM,
      moment_periods: local.moment_periods ?? [...MOMENT_PERIODS],
      weighting: local.weighting ?? (input.data.local ? 'examples' : 'targets'),
    },
    optimizer: {
      ...optimizer,
      name: optimizer.name ?? byMethod.optimizer,
      betas: optimizer.betas ?? [...optimizerDefaults.betas],
      eps: optimizer.eps ?? optimizerDefaults.eps,
      semantics: optimizer.semantics ?? optimizerDefaults.semantics,
      momentum: optimizer.momentum ?? (method.name === 'sumo' ? SUMO_MOMENTUM : SGD_MOMENTUM),
    },
  };
}

const WITHOUT_SVD: readonly Method['name'][] = ['full', 'ldadam', 'power', 'lora', 'relora'];

/** Whether bases are singular vectors; `full` has none, and LDAdam makes its own. */
function isFromSvd(name: Method['name'], basis: Method['basis']): boolean {
  return basis === 'svd' && !WITHOUT_SVD.includes(name);
}

function fillRefresh(
  given: RunConfigInput['method']['refresh'],
  preset: Refresh,
  { lazyThreshold, convergedRatio }: MethodDefaults,
  hasSingularVectors: boolean,
): Refresh {
  const type = given.type ?? preset.type;
  // An exact refresh has no sketch: extra columns and iterations would say something that does not happen.
  const rest =
    type === 'exact' ? { ...preset, oversample: 0, power_iterations: 0, warm_start: false } : preset;
  const powerIterations = given.power_iterations ?? rest.power_iterations;
  const filled = {
    type,
    oversample: given.oversample ?? rest.oversample,
    power_iterations: powerIterations,
    // Without power iterations there are no rounds to begin from the last basis.
    warm_start: given.warm_start ?? (rest.warm_start && powerIterations > 0 && hasSingularVectors),
    stagger: given.stagger ?? rest.stagger,
  };
  return {
    ...filled,
    ...withDefault(pick(given, 'lazy_threshold'), 'lazy_threshold', lazyThreshold),
    ...withDefault(pick(given, 'converged_ratio'), 'converged_ratio', convergedRatio),
  };
}

function pick<T extends object, K extends keyof T>(object: T, key: K): Pick<T, K> {
  return Object.hasOwn(object, key) ? ({ [key]: object[key] } as Pick<T, K>) : ({} as Pick<T, K>);
}

/** `object` with the field set where it is not and there is a default. */
function withDefault<T extends object, K extends keyof T>(object: T, key: K, value: T[K] | undefined): T {
  return object[key] !== undefined || value === undefined ? object : { ...object, [key]: value };
}
