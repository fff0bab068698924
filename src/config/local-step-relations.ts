/**
 * Rules about local steps: what cannot be done on trainers that take several optimizer steps by themselves, and
 * fields that mean nothing without them. Pure.
 */
import { relationFault, showValue, type Fault } from './faults.ts';
import { methodDefaults, MOMENT_PERIODS, OUTER_MOMENTUM } from './presets.ts';
import type { FieldReader, Rule } from './relations.ts';
import { METHODS, type RunConfig, type RunConfigInput } from './schema.ts';

type MethodName = RunConfig['method']['name'];
type Group = RunConfigInput['method']['param_groups'][number];

/** Methods whose steps stay in the subspace of a basis that lies still, or have no basis. */
const ABLE: readonly MethodName[] = ['galore', 'golore', 'two-sided', 'full', 'lora', 'relora'];

const WHOLE = 'which needs the whole summed gradient in every step';
const WHY_NOT: Readonly<Partial<Record<MethodName, string>>> = {
  fira: WHOLE,
  apollo: WHOLE,
  'apollo-mini': WHOLE,
  ldadam: WHOLE,
  power: 'which moves its factors with every sum',
  adarankgrad: 'which changes ranks by the norms of summed gradients',
  'q-galore': 'whose int8 weights have no room for a displacement',
  sumo: 'whose limiter follows one sequence of updates',
  flora: 'whose Adafactor reads the weight that it changes',
};

/** Rules that are asked only with local steps. `fault` is one of `local_steps.count`: it is what asks for more. */
type LocalRule = (read: FieldReader, fault: (rule: string) => Fault) => Fault | null;

const methodCan: LocalRule = (read, fault) => {
  const method = METHODS.find((name) => name === read('method.name'));
  if (method === undefined || ABLE.includes(method)) return null;
  const can = `${ABLE.slice(0, -1).join(', ')} or ${ABLE.at(-1)}`;
  return fault(
    `it must be 1 (or left out) with method.name: ${method}, ${WHY_NOT[method]}; local steps are for ${can}`,
  );
};

const groupsCan: LocalRule = (read, fault) => {
  const groups = (read('method.param_groups') ?? []) as readonly Group[];
  const index = groups.findIndex(({ policy }) => policy === 'power' || policy === 'row-sparse');
  const policy = groups[index]?.policy;
  if (policy === undefined) return null;
  const group = `method.param_groups[${index}].policy: ${policy}`;
  const why = policy === 'power' ? WHY_NOT.power : 'which sends gradients, not displacements';
  return fault(`it must be 1 (or left out) with ${group}, ${why}; give the group another policy`);
};

const optimizerCan: LocalRule = (read) => {
  const method = METHODS.find((name) => name === read('method.name'));
  if (method === undefined || !ABLE.includes(method)) return null;
  const name = read('optimizer.name') ?? methodDefaults(method).optimizer;
  if (name === 'adamw' || name === 'adamw-8bit' || name === 'sgd') return null;
  const rule =
    'it must be adamw, adamw-8bit or sgd with local_steps.count above 1: Adafactor reads the weight';
  return relationFault('optimizer.name', name, rule);
};

const momentsAreNumbers: LocalRule = (read) => {
  if (read('local_steps.moments') !== 'averaged') return null;
  const fault = (rule: string): Fault => relationFault('local_steps.moments', 'averaged', rule);
  const name = read('optimizer.name');
  if (name === 'adamw-8bit') {
    return fault(
      'it must be local (or left out) with optimizer.name: adamw-8bit, whose moments are codes that have no mean; adamw has the same ones as numbers',
    );
  }
  if (name === 'sgd' && read('optimizer.momentum') === 0) {
    return fault(
      'it must be local (or left out) with optimizer.momentum: 0, which leaves nothing to average',
    );
  }
  return null;
};

const periodsGoTogether: LocalRule = (read) => {
  const [first, second] = (read('local_steps.moment_periods') ?? [1, 1]) as readonly [number, number];
  if (second % first === 0) return null;
  const rule = `the second must be a multiple of the first, such as [${first}, ${first * Math.ceil(second / first)}]: second moments travel together with the first`;
  return relationFault('local_steps.moment_periods', [first, second], rule);
};

/** Another value of a field than the one that goes with local steps. */
function without(field: string, fine: unknown, why: string): LocalRule {
  return (read) => {
    const value = read(field);
    if (value === undefined || value === fine) return null;
    const instead = fine === undefined ? 'left out' : `${showValue(fine)} (or left out)`;
    return relationFault(field, value, `it must be ${instead} with local_steps.count above 1: ${why}`);
  };
}

const basesAreOrthonormal: LocalRule = (read) => {
  const mu = read('local_steps.proximal_mu');
  const method = METHODS.find((name) => name === read('method.name'));
  if (mu === undefined || mu === 0 || method === undefined) return null;
  if ((read('method.basis') ?? methodDefaults(method).basis) !== 'gaussian') return null;
  const rule = 'it must be 0 with gaussian bases, which are not orthonormal: distances in them are others';
  return relationFault('local_steps.proximal_mu', mu, rule);
};

const decayIsDecoupled: LocalRule = (read) => {
  const decay = read('optimizer.weight_decay');
  if (read('optimizer.name') !== 'sgd' || decay === 0 || decay === undefined) return null;
  const rule = 'it must be 0 with optimizer.name: sgd and local steps, which leave the decay to the exchange';
  return relationFault('optimizer.weight_decay', decay, rule);
};

const LOCAL_RULES: readonly LocalRule[] = [
  methodCan,
  groupsCan,
  optimizerCan,
  decayIsDecoupled,
  basesAreOrthonormal,
  momentsAreNumbers,
  periodsGoTogether,
  without('method.weights', 'f32', 'int8 weights have no room for a displacement'),
  without('method.adaptive_rank.threshold', undefined, 'ranks stay as configured'),
  without('method.refresh.converged_ratio', undefined, 'no summed gradient tells of it'),
  without('optimizer.max_grad_norm', undefined, 'what is summed are displacements, not gradients'),
];

/** A field of `local_steps` that says something though nothing reads it. */
function unused(
  field: string,
  filledIn: unknown,
  isRead: (read: FieldReader) => boolean,
  when: string,
): Rule {
  return (read) => {
    const value = read(field);
    if (value === undefined || showValue(value) === showValue(filledIn) || isRead(read)) return null;
    return relationFault(field, value, `it is used only with ${when}`);
  };
}

const sitesHaveTheirData: Rule = (read) => {
  const weighting = read('local_steps.weighting');
  if ((weighting !== 'examples' && weighting !== 'tokens') || read('data.local') === true) return null;
  const rule = `it must be targets or equal (or left out) without data.local: the coordinator's own data has no sites with so many ${weighting}`;
  return relationFault('local_steps.weighting', weighting, rule);
};

/** What a trainer adds to a sum it multiplies by its part of the loss targets, which is all it knows. */
const sumsAreOfTargets: Rule = (read) => {
  const isLocal = read('data.local') === true;
  const weighting = read('local_steps.weighting') ?? (isLocal ? 'examples' : 'targets');
  const why = whyItCarriesSums(read);
  if (why === null || (weighting === 'targets' && !isLocal)) return null;
  const fault = (field: string, value: unknown, rule: string): Fault =>
    relationFault(field, value, `${rule} with ${why}: those contributions are parts of a sum, not means`);
  if (isLocal) return fault('data.local', true, 'it must be false');
  return fault('local_steps.weighting', weighting, 'it must be targets (or left out)');
};

/** The field that makes contributions parts of a sum (slot.ts, carriesSums); null: none does. */
function whyItCarriesSums(read: FieldReader): string | null {
  const groups = (read('method.param_groups') ?? []) as readonly Group[];
  const method = String(read('method.name'));
  if (method === 'power' || groups.some(({ policy }) => policy === 'power')) return 'power';
  const own = read('method.feedback');
  const feedback = [own, ...groups.map((group) => group.feedback)].find(
    (value) => value === 'payload' || value === 'gradient',
  );
  if (feedback !== undefined) return `feedback: ${String(feedback)}`;
  const isRounded =
    read('wire.codec') === 'int4' ||
    groups.some(({ codec, feedback: its }) => codec === 'int4' && its !== 'none');
  return isRounded ? 'codec int4, which has error feedback' : null;
}

const hasLocalSteps = (read: FieldReader): boolean => Number(read('local_steps.count') ?? 1) > 1;
const MORE = 'local_steps.count above 1';

export const LOCAL_STEP_RULES: readonly Rule[] = [
  sitesHaveTheirData,
  sumsAreOfTargets,
  ...LOCAL_RULES.map((rule): Rule => (read) => {
    if (!hasLocalSteps(read)) return null;
    return rule(read, (text) => relationFault('local_steps.count', read('local_steps.count'), text));
  }),
  unused('local_steps.outer', 'none', hasLocalSteps, MORE),
  unused('local_steps.outer_lr', 1, hasLocalSteps, MORE),
  unused(
    'local_steps.outer_momentum',
    OUTER_MOMENTUM,
    (read) => read('local_steps.outer') === 'nesterov',
    'local_steps.outer: nesterov',
  ),
  unused('local_steps.moments', 'local', hasLocalSteps, MORE),
  unused('local_steps.proximal_mu', 0, hasLocalSteps, MORE),
  unused(
    'local_steps.moment_periods',
    MOMENT_PERIODS,
    (read) => read('local_steps.moments') === 'averaged',
    'local_steps.moments: averaged',
  ),
];
