/**
 * Rules between the fields of `method` and `optimizer`, each beside its reason: what a method does not use
 * must not look as if it were used. A field that a run directory's run.yaml spells out with its default
 * passes, so that a resolved configuration loads again. Pure.
 */
import { isGenerated, type BasisSource } from '../galore/method.ts';
import { relationFault, type Fault } from './faults.ts';
import { schemaAt } from './json-schema.ts';
import { defaultMoments, methodDefaults, PRESETS, SGD_MOMENTUM } from './presets.ts';
import type { FieldReader, Rule } from './relations.ts';
import { METHODS, type RunConfig } from './schema.ts';

type MethodName = RunConfig['method']['name'];
type Basis = RunConfig['method']['basis'];

/** Where the bases of each method may come from, and why from nowhere else. */
const BASES: Readonly<Record<MethodName, { readonly allowed: readonly Basis[]; readonly why: string }>> = {
  full: { allowed: [], why: 'which has no bases' },
  galore: { allowed: ['svd', 'dct', 'random', 'gaussian'], why: '' },
  adarankgrad: { allowed: ['svd'], why: 'whose ranks are chosen by singular values' },
  fira: { allowed: ['svd', 'dct', 'random'], why: 'which adds what an orthonormal basis leaves out' },
  apollo: { allowed: ['gaussian', 'random', 'dct', 'svd'], why: '' },
  'apollo-mini': { allowed: ['gaussian', 'random', 'dct', 'svd'], why: '' },
  ldadam: { allowed: [], why: 'which moves its bases itself in every step' },
  sumo: { allowed: ['svd', 'dct', 'random'], why: 'which needs an orthonormal basis' },
  'two-sided': { allowed: ['svd'], why: 'whose two bases come from one factorisation' },
  golore: { allowed: ['random'], why: 'which is galore with random bases' },
  flora: { allowed: ['gaussian'], why: 'which is galore with gaussian bases' },
  'q-galore': { allowed: ['svd', 'dct'], why: 'which compares each basis with the one before' },
  power: { allowed: [], why: 'which has two factors that it moves itself in every step' },
  lora: { allowed: [], why: 'which has no bases' },
  relora: { allowed: [], why: 'which has no bases' },
};

/** Methods whose matrices are updated by a rule of their own, published with AdamW for the rest. */
const OWN_RULE: readonly MethodName[] = ['fira', 'apollo', 'apollo-mini', 'ldadam', 'sumo'];
/** Methods that can take another rank at a refresh. */
const ADAPTIVE: readonly MethodName[] = ['galore', 'adarankgrad', 'q-galore', 'sumo'];

/** What the fields come to, for the fields that are fine. */
interface Chosen {
  readonly read: FieldReader;
  readonly method: MethodName;
  readonly basis: BasisSource;
  readonly optimizer: RunConfig['optimizer']['name'];
  readonly refreshType: 'sketch' | 'exact';
  readonly powerIterations: number;
  /** The share that makes ranks adaptive; undefined: they are fixed. */
  readonly rankThreshold: number | undefined;
}

type MethodRule = (chosen: Chosen) => Fault | null;

function choose(read: FieldReader): Chosen | null {
  const method = read('method.name');
  const preset = read('method.preset');
  if (!isOneOf(METHODS, method) || (preset !== 'recommended' && preset !== 'parity')) return null;
  const defaults = methodDefaults(method);
  const refreshType = (read('method.refresh.type') ?? PRESETS[preset].refresh.type) as Chosen['refreshType'];
  const powerIterations = refreshType === 'exact' ? 0 : PRESETS[preset].refresh.power_iterations;
  return {
    read,
    method,
    basis: sourceOf(method, read('method.basis') ?? defaults.basis),
    optimizer: (read('optimizer.name') ?? defaults.optimizer) as Chosen['optimizer'],
    refreshType,
    powerIterations: (read('method.refresh.power_iterations') as number | undefined) ?? powerIterations,
    rankThreshold: (read('method.adaptive_rank.threshold') as number | undefined) ?? defaults.rankThreshold,
  };
}

function sourceOf(method: MethodName, basis: unknown): BasisSource {
  if (['full', 'power', 'lora', 'relora'].includes(method)) return 'none';
  return method === 'ldadam' ? 'power' : (basis as Basis);
}

const basisFitsMethod: MethodRule = ({ read, method }) => {
  const basis = read('method.basis');
  const { allowed, why } = BASES[method];
  const isFilledIn = allowed.length === 0 && basis === methodDefaults(method).basis;
  if (basis === undefined || isFilledIn || isOneOf(allowed, basis)) return null;
  const rule = allowed.length === 0 ? 'be left out' : `be ${listed(allowed)}`;
  return relationFault(
    'method.basis',
    basis,
    `it must ${rule} with method.name: ${method}${why && `, ${why}`}`,
  );
};

const optimizerFitsMethod: MethodRule = ({ method, optimizer }) => {
  if (!OWN_RULE.includes(method) || optimizer === 'adamw' || optimizer === 'adamw-8bit') return null;
  const rule = `it must be adamw or adamw-8bit with method.name: ${method}, which has its own rule for matrices and AdamW for the rest`;
  return relationFault('optimizer.name', optimizer, rule);
};

const int8NeedsBasis: MethodRule = ({ read, method }) => {
  if (method !== 'full' || read('method.weights') !== 'int8') return null;
  const rule = 'it must be f32 (or left out) with method.name: full: int8 is for matrices with a basis';
  return relationFault('method.weights', 'int8', rule);
};

const miniHasRankOne: MethodRule = ({ read, method }) => {
  const rank = read('method.rank');
  if (method !== 'apollo-mini' || rank === undefined || rank === 1) return null;
  const rule = 'it must be 1 (or left out) with method.name: apollo-mini; use apollo for other ranks';
  return relationFault('method.rank', rank, rule);
};

const twoSidedHasNoSide: MethodRule = ({ read, method }) => {
  const type = read('method.proj_type');
  if (method !== 'two-sided' || type === undefined || type === 'std') return null;
  const rule = 'it must be left out with method.name: two-sided, which projects both sides';
  return relationFault('method.proj_type', type, rule);
};

const pairNeedsFactor: MethodRule = ({ method, refreshType, powerIterations }) => {
  if (method !== 'two-sided' || refreshType === 'exact' || powerIterations >= 1) return null;
  const rule =
    'it must be at least 1 with method.name: two-sided, whose second basis comes from a power iteration; or set method.refresh.type: exact';
  return relationFault('method.refresh.power_iterations', powerIterations, rule);
};

const warmStartNeedsRounds: MethodRule = ({ read, method, basis, refreshType, powerIterations }) => {
  if (read('method.refresh.warm_start') !== true) return null;
  const fault = (why: string): Fault =>
    relationFault('method.refresh.warm_start', true, `it must be false (or left out) with ${why}`);
  if (basis !== 'svd') return fault(sourceInWords(method, basis));
  if (refreshType === 'exact') return fault('method.refresh.type: exact, which has one round');
  return powerIterations > 0 ? null : fault('method.refresh.power_iterations: 0, which is one round');
};

function needsRounds(field: string): MethodRule {
  return ({ read, method, basis }) => {
    const value = read(field);
    if (value === undefined || basis === 'svd' || basis === 'dct') return null;
    return relationFault(field, value, `it must be left out with ${sourceInWords(method, basis)}`);
  };
}

const ranksCanChange: MethodRule = ({ method, basis, rankThreshold }) => {
  if (rankThreshold === undefined || (ADAPTIVE.includes(method) && basis === 'svd')) return null;
  const why = ADAPTIVE.includes(method) ? sourceInWords(method, basis) : `method.name: ${method}`;
  const rule = `it must be left out with ${why}: ranks adapt with ${ADAPTIVE.join(', ')} and basis svd`;
  return relationFault('method.adaptive_rank.threshold', rankThreshold, rule);
};

const thresholdCanBeMeasured: MethodRule = ({ rankThreshold, refreshType, powerIterations }) => {
  if (rankThreshold === undefined || refreshType === 'exact' || powerIterations > 0) return null;
  const rule =
    'it must be at least 1 with method.adaptive_rank.threshold: without, nothing measures the rest';
  return relationFault('method.refresh.power_iterations', powerIterations, rule);
};

function leastRankFits(field: string): MethodRule {
  return ({ read, rankThreshold }) => {
    const [least, rank] = [read(field), read('method.rank')];
    if (rankThreshold === undefined || typeof least !== 'number' || typeof rank !== 'number') return null;
    if (least <= rank) return null;
    return relationFault(field, least, `it must be at most method.rank (${rank}), the greatest rank`);
  };
}

/** A field that differs from its default though nothing reads it. */
function needsThreshold(field: string): MethodRule {
  return ({ read, rankThreshold }) => {
    const value = read(field);
    if (rankThreshold !== undefined || isDefault(field, value)) return null;
    return relationFault(field, value, 'it is used only with method.adaptive_rank.threshold');
  };
}

const momentsFitRanks: MethodRule = (chosen) => {
  const moments = momentsOf(chosen);
  if (chosen.rankThreshold === undefined || moments !== 'keep') return null;
  const rule =
    'it must be reset, rotate, ldadam, transport or adarank with adaptive ranks: kept moments have the old rank';
  return relationFault('method.moments', moments, rule);
};

const momentsFitBasis: MethodRule = (chosen) => {
  const moments = momentsOf(chosen);
  if (chosen.basis !== 'gaussian' || !isOneOf(['ldadam', 'transport', 'adarank'], moments)) return null;
  const rule = 'it must be keep, reset or rotate with gaussian bases, which are not orthonormal';
  return relationFault('method.moments', moments, rule);
};

function onlyForAdafactor(field: string): MethodRule {
  return ({ read, optimizer }) => {
    const value = read(field);
    if (optimizer === 'adafactor' || isDefault(field, value)) return null;
    return relationFault(field, value, `it is used only with optimizer.name: adafactor, not ${optimizer}`);
  };
}

const nesterovHasMomentum: MethodRule = ({ read, optimizer }) => {
  if (read('optimizer.nesterov') !== true) return null;
  if (optimizer !== 'sgd') {
    return relationFault(
      'optimizer.nesterov',
      true,
      `it is used only with optimizer.name: sgd, not ${optimizer}`,
    );
  }
  if (read('optimizer.momentum') !== 0) return null;
  return relationFault('optimizer.nesterov', true, 'it needs an optimizer.momentum above 0');
};

const momentumIsUsed: MethodRule = ({ read, method, optimizer }) => {
  const momentum = read('optimizer.momentum');
  if (momentum === undefined || momentum === SGD_MOMENTUM) return null;
  if (optimizer === 'sgd' || method === 'sumo') return null;
  const rule = `it is used only with optimizer.name: sgd and method.name: sumo; ${optimizer} has optimizer.betas`;
  return relationFault('optimizer.momentum', momentum, rule);
};

/** The moments that the run will use. */
function momentsOf({ read, method, basis }: Chosen): unknown {
  const preset = read('method.preset') as RunConfig['method']['preset'];
  const feedback = read('method.feedback') as RunConfig['method']['feedback'];
  return read('method.moments') ?? defaultMoments(method, basis, preset, feedback);
}

/** Whether the value says nothing: nothing was given, or what the schema fills in. */
function isDefault(field: string, value: unknown): boolean {
  const filledIn = schemaAt(field.split('.'))?.default;
  return value === undefined || JSON.stringify(value) === JSON.stringify(filledIn);
}

/** Why there are no rounds. */
function sourceInWords(method: MethodName, basis: BasisSource): string {
  if (basis === 'none' || basis === 'power') return `method.name: ${method}, ${BASES[method].why}`;
  const why = isGenerated(basis)
    ? 'which are made without looking at gradients'
    : 'which come from one round';
  return `${basis} bases, ${why}`;
}

function listed(values: readonly string[]): string {
  return values.length < 2 ? values.join('') : `${values.slice(0, -1).join(', ')} or ${values.at(-1)}`;
}

function isOneOf<T extends string>(values: readonly T[], value: unknown): value is T {
  return values.some((known) => known === value);
}

const RULES: readonly MethodRule[] = [
  basisFitsMethod,
  optimizerFitsMethod,
  int8NeedsBasis,
  miniHasRankOne,
  twoSidedHasNoSide,
  pairNeedsFactor,
  warmStartNeedsRounds,
  needsRounds('method.refresh.lazy_threshold'),
  needsRounds('method.refresh.converged_ratio'),
  ranksCanChange,
  thresholdCanBeMeasured,
  leastRankFits('method.adaptive_rank.min_rank'),
  leastRankFits('method.adaptive_rank.multiple'),
  ...['min_rank', 'multiple', 'probes'].map((field) => needsThreshold(`method.adaptive_rank.${field}`)),
  momentsFitRanks,
  momentsFitBasis,
  ...['eps', 'clip_threshold', 'decay_rate', 'beta1', 'scale_parameter', 'relative_step'].map((field) =>
    onlyForAdafactor(`optimizer.adafactor.${field}`),
  ),
  nesterovHasMomentum,
  momentumIsUsed,
];

/** All rules of this file as rules of relations.ts. */
export const METHOD_RULES: readonly Rule[] = RULES.map((rule) => (read) => {
  const chosen = choose(read);
  return chosen === null ? null : rule(chosen);
});
