/**
 * What a method's name stands for: how matrices travel, where their bases come from, which rule updates
 * them. Pure; the one place where names of methods are looked at.
 */
import type { RunConfig } from '../config/schema.ts';
import type { RuleName } from './optimizer/rule-state.ts';
import { biasCorrection } from './optimizer/bias-correction.ts';
import type { AveragedMoments, Policy } from './slot.ts';

/**
 * Where bases come from. `svd`: leading singular vectors of the summed gradient, by the refresh rounds.
 * `dct`: the columns of the cosine basis with the largest sketched norms, by one refresh round. `random`
 * (orthonormal) and `gaussian` (variance 1/r) are made by every trainer from the seed: nothing travels.
 * `power`: moved by the rule itself in every step. `none`: there are no bases.
 */
export type BasisSource = 'svd' | 'dct' | 'random' | 'gaussian' | 'power' | 'none';

/** A method, taken apart. */
export interface MethodPlan {
  /** How matrices with a basis travel; null: no matrix has one. */
  readonly policy: Policy | null;
  readonly basis: BasisSource;
  /** The rule of matrices with a basis, and of everything else. */
  readonly rule: RuleName;
  readonly plainRule: RuleName;
  /** The rule of local steps, where there are any; the two above then take displacements. */
  readonly inner?: RuleName;
  /** Whether its state begins anew after every exchange. */
  readonly isInnerReset?: boolean;
  /** What of its state is averaged; left out: nothing. */
  readonly averaged?: AveragedMoments | undefined;
}

/** The fields that say what a method is. */
export type MethodConfig = Pick<RunConfig, 'method' | 'optimizer' | 'local_steps'>;

/** The parts of the configured method. */
export function methodPlan(config: MethodConfig): MethodPlan {
  const plan = synchronousPlan(config);
  if (config.local_steps.count === 1) return plan;
  const outer = OUTER_RULES[config.local_steps.outer];
  return {
    ...{ ...plan, rule: outer, plainRule: outer },
    ...{ inner: optimizerRule(config), averaged: averagedMoments(config) },
    isInnerReset: config.local_steps.moments === 'reset',
  };
}

/** Least relative change between two averages that rounding to bf16, by up to 1/256, does not swallow. */
const LEAST_CHANGE = 1 / 128;

function averagedMoments({ local_steps: local, optimizer }: MethodConfig): AveragedMoments | undefined {
  if (local.moments !== 'averaged') return undefined;
  const [first, second] = local.moment_periods;
  const { betas, momentum } = optimizer;
  const moments =
    optimizer.name === 'sgd'
      ? [{ kind: 'm' as const, period: first, decay: momentum }]
      : [
          { kind: 'm' as const, period: first, decay: betas[0] },
          { kind: 'v' as const, period: second, decay: betas[1] },
        ];
  // A moment that decays by less would be rounded back to what it was, for ever.
  const isFast = moments.every(
    ({ period, decay }) => biasCorrection(decay, local.count * period) >= LEAST_CHANGE,
  );
  return {
    moments: moments.map(({ kind, period }) => ({ kind, period })),
    codec: isFast ? 'bf16' : 'f32',
  };
}

/** The rules that take displacements, by `local_steps.outer`. */
const OUTER_RULES = {
  none: 'outer',
  nesterov: 'outer-nesterov',
  adam: 'outer-adam',
} as const satisfies Record<RunConfig['local_steps']['outer'], RuleName>;

function synchronousPlan(config: Pick<RunConfig, 'method' | 'optimizer'>): MethodPlan {
  const { method } = config;
  const optimizer = optimizerRule(config);
  const parts = { plainRule: optimizer, rule: optimizer };
  switch (method.name) {
    case 'full':
      return { ...parts, policy: null, basis: 'none' };
    case 'galore':
    case 'adarankgrad':
    case 'q-galore':
    case 'golore':
    case 'flora':
      return { ...parts, policy: 'one-sided', basis: method.basis };
    case 'two-sided':
      return { ...parts, policy: 'two-sided', basis: 'svd' };
    case 'sumo':
      return { ...parts, rule: 'sumo', policy: 'one-sided', basis: method.basis };
    case 'fira':
      return { ...parts, rule: 'fira', policy: 'dense', basis: method.basis };
    case 'apollo':
    case 'apollo-mini':
      return { ...parts, rule: method.name, policy: 'dense', basis: method.basis };
    case 'ldadam':
      return { ...parts, rule: 'ldadam', policy: 'dense', basis: 'power' };
    case 'power':
      return { ...parts, rule: 'power', policy: 'power', basis: 'none' };
  }
}

/** Whether bases are made by the rounds of a refresh, so that sketches travel. */
export function hasRefreshRounds(basis: BasisSource): boolean {
  return basis === 'svd' || basis === 'dct';
}

/** Whether every trainer makes the bases for itself from the seed. */
export function isGenerated(basis: BasisSource): boolean {
  return basis === 'random' || basis === 'gaussian';
}

function optimizerRule({ optimizer }: Pick<RunConfig, 'optimizer'>): RuleName {
  switch (optimizer.name) {
    case 'adamw':
    case 'adamw-8bit':
      return optimizer.name;
    case 'adafactor':
      return optimizer.adafactor.beta1 === 0 ? 'adafactor' : 'adafactor-momentum';
    case 'sgd':
      return optimizer.momentum === 0 ? 'sgd' : 'sgd-momentum';
  }
}
