/**
 * Rules about how tensors travel: the preset of the run, the policies, codecs and feedback of groups of
 * parameters, and what power slots have no use for. What only the model can tell (names, sides) is in
 * coordinator/check-targets.ts. Pure.
 */
import type { Policy } from '../galore/slot.ts';
import { relationFault, showValue, valueAt, type Fault } from './faults.ts';
import { schemaAt } from './json-schema.ts';
import { defaultMoments, methodDefaults, PRESETS } from './presets.ts';
import type { FieldReader, Rule } from './relations.ts';
import { isRunPreset, runPreset } from './run-presets.ts';
import { METHODS, type RunConfig, type RunConfigInput } from './schema.ts';

type MethodName = RunConfig['method']['name'];
type Group = RunConfigInput['method']['param_groups'][number];

/** How the compressed matrices of each method travel, and how those of a group may, besides those of `ALWAYS`. */
const POLICIES_OF: Readonly<
  Record<MethodName, { readonly own: Policy; readonly others: readonly Policy[] }>
> = {
  full: { own: 'dense', others: [] },
  galore: { own: 'one-sided', others: ['one-sided', 'two-sided'] },
  adarankgrad: { own: 'one-sided', others: ['one-sided'] },
  fira: { own: 'dense', others: [] },
  apollo: { own: 'dense', others: [] },
  'apollo-mini': { own: 'dense', others: [] },
  ldadam: { own: 'dense', others: [] },
  sumo: { own: 'one-sided', others: ['one-sided'] },
  'two-sided': { own: 'two-sided', others: ['two-sided', 'one-sided'] },
  golore: { own: 'one-sided', others: ['one-sided'] },
  flora: { own: 'one-sided', others: ['one-sided'] },
  'q-galore': { own: 'one-sided', others: ['one-sided'] },
  power: { own: 'power', others: [] },
  lora: { own: 'dense', others: [] },
  relora: { own: 'dense', others: [] },
};
const ALWAYS: readonly Policy[] = ['power', 'dense', 'row-sparse', 'frozen'];

/** What the rules look at. */
interface Chosen {
  readonly read: FieldReader;
  readonly method: MethodName;
  readonly groups: readonly Group[];
  /** How the group's matrices travel; as the method has it where the group does not say it. */
  readonly policyOf: (group: Group) => Policy;
  readonly hasPower: boolean;
  /** Whether one-sided matrices keep whole gradients. */
  readonly hasError: boolean;
}

type PolicyRule = (chosen: Chosen) => Fault | null;

function choose(read: FieldReader): Chosen | null {
  const method = METHODS.find((name) => name === read('method.name'));
  if (method === undefined) return null;
  const groups = (read('method.param_groups') ?? []) as readonly Group[];
  const policyOf = (group: Group): Policy => group.policy ?? POLICIES_OF[method].own;
  const hasPower = method === 'power' || groups.some(({ policy }) => policy === 'power');
  const all = [{ policy: POLICIES_OF[method].own }, ...groups] as readonly Partial<Group>[];
  const hasError = all.some(({ policy = POLICIES_OF[method].own, feedback = read('method.feedback') }) => {
    return policy === 'one-sided' && feedback === 'gradient';
  });
  return { read, method, groups, policyOf, hasPower, hasError };
}

/** A fault of one field of one group; the groups are one field of the file. */
function groupFault(index: number, field: keyof Group, value: unknown, rule: string): Fault {
  const fault = relationFault('method.param_groups', value, rule);
  const sentence = `method.param_groups[${index}].${field} is ${showValue(value)}; ${rule}`;
  return { ...fault, sentence };
}

/** The first fault that `check` finds in a group. */
function inGroups(
  check: (group: Group, chosen: Chosen, fault: (field: keyof Group, rule: string) => Fault) => Fault | null,
): PolicyRule {
  return (chosen) => {
    const faults = chosen.groups.map((group, index) =>
      check(group, chosen, (field, rule) => groupFault(index, field, group[field], rule)),
    );
    return faults.find((fault) => fault !== null) ?? null;
  };
}

const policyFitsMethod = inGroups(({ policy }, { method }, fault) => {
  const allowed = [...POLICIES_OF[method].others, ...ALWAYS];
  if (policy === undefined || allowed.includes(policy)) return null;
  const hint =
    method === 'power' && policy === 'one-sided'
      ? '; for both in one run use method.name: galore and a group with policy: power'
      : '';
  return fault('policy', `it must be ${listed(allowed)} with method.name: ${method}${hint}`);
});

const pairHasItsBases = inGroups(({ policy }, { read, method }, fault) => {
  if (policy !== 'two-sided' || method !== 'galore') return null;
  const basis = read('method.basis') ?? 'svd';
  if (basis !== 'svd') return fault('policy', `it needs method.basis: svd, not ${showValue(basis)}`);
  if (read('method.adaptive_rank.threshold') !== undefined) {
    return fault('policy', 'it cannot be with method.adaptive_rank.threshold: its rank is fixed');
  }
  const preset = read('method.preset') === 'parity' ? PRESETS.parity : PRESETS.recommended;
  const type = read('method.refresh.type') ?? preset.refresh.type;
  const iterations = read('method.refresh.power_iterations') ?? preset.refresh.power_iterations;
  if (type === 'exact' || iterations !== 0) return null;
  const rule = 'it needs method.refresh.power_iterations of at least 1: its second basis comes from one';
  return fault('policy', rule);
});

const groupRankIsUsed = inGroups((group, { read, method, policyOf }, fault) => {
  const { rank, policy } = group;
  if (rank === undefined) return null;
  const hasNone = policy === 'dense' || policy === 'row-sparse' || policy === 'frozen';
  const isPlain = method === 'full' || method === 'lora' || method === 'relora';
  if (hasNone || (isPlain && policy !== 'power')) {
    return fault('rank', `it must be left out: the policy is ${policyOf(group)}, which has no rank`);
  }
  if (method === 'apollo-mini' && policy === undefined && rank !== 1) {
    return fault('rank', 'it must be 1 (or left out) with method.name: apollo-mini; use apollo for others');
  }
  const hidden = read('model.hidden_size');
  if (typeof rank !== 'number' || typeof hidden !== 'number' || rank <= hidden) return null;
  return fault('rank', `it must be at most model.hidden_size (${hidden}): no matrix has a higher rank`);
});

const frozenHasNoMore = inGroups((group, _chosen, fault) => {
  if (group.policy !== 'frozen') return null;
  const field = (['scale', 'feedback', 'codec', 'update_codec'] as const).find((name) => name in group);
  return field === undefined
    ? null
    : fault(field, 'it must be left out with policy: frozen: nothing travels');
});

const rowsAreExact = inGroups(({ policy, feedback }, _chosen, fault) => {
  if (policy !== 'row-sparse' || feedback === undefined || feedback === 'none') return null;
  const why = 'which keeps nothing: the rows that travel are others in every step';
  return fault('feedback', `it must be none (or left out) with policy: row-sparse, ${why}`);
});

const powerKeepsAll = inGroups((group, { policyOf }, fault) => {
  const { feedback } = group;
  if (policyOf(group) !== 'power' || feedback === undefined || feedback === 'gradient') return null;
  return fault('feedback', 'it must be gradient (or left out) with policy: power, which is made of feedback');
});

/** Why slots of a policy cannot keep what the projection leaves out, or null. */
function whyNoError(policy: Policy, read: FieldReader, method: MethodName): string | null {
  if (policy === 'two-sided')
    return 'policy two-sided; whole gradients are kept by power and one-sided alone';
  if (policy !== 'one-sided') return null;
  if ((read('method.basis') ?? methodDefaults(method).basis) === 'gaussian') {
    return 'gaussian bases, which are not orthonormal: what is kept would grow';
  }
  if (method === 'adarankgrad')
    return 'method.name: adarankgrad, whose refreshes follow the norm of what is sent';
  if (Number(read('local_steps.count') ?? 1) > 1) {
    return 'local_steps.count above 1: displacements leave nothing out';
  }
  return null;
}

const groupKeepsGradient = inGroups((group, { read, method, policyOf }, fault) => {
  const isInherited = group.feedback === undefined;
  if ((group.feedback ?? read('method.feedback')) !== 'gradient') return null;
  if (isInherited && policyOf(group) === POLICIES_OF[method].own) return null; // methodKeepsGradient's
  const why = whyNoError(policyOf(group), read, method);
  if (why === null) return null;
  if (isInherited)
    return fault('policy', 'it needs a feedback of its own, payload or none: method.feedback is gradient');
  return fault('feedback', `it must be payload or none with ${why}`);
});

const methodKeepsGradient: PolicyRule = ({ read, method }) => {
  const why =
    read('method.feedback') === 'gradient' ? whyNoError(POLICIES_OF[method].own, read, method) : null;
  return why === null
    ? null
    : relationFault('method.feedback', 'gradient', `it must be payload or none with ${why}`);
};

const convergenceIsOfGradients: PolicyRule = ({ read, hasError }) => {
  const ratio = read('method.refresh.converged_ratio');
  if (ratio === undefined || !hasError) return null;
  const rule = 'it must be left out with feedback: gradient: what is sent after a refresh is of many steps';
  return relationFault('method.refresh.converged_ratio', ratio, rule);
};

/** What is cut off a sum is in nobody's feedback: it would be lost, though feedback promises that nothing is. */
const sumsAreNotCut: PolicyRule = ({ read, groups, hasPower }) => {
  const norm = read('optimizer.max_grad_norm');
  if (norm === undefined) return null;
  const kept = [read('method.feedback'), ...groups.map(({ feedback }) => feedback)];
  const codecs = [read('wire.codec'), ...groups.map(({ codec }) => codec)];
  const why = hasPower
    ? 'power'
    : kept.some((feedback) => feedback === 'payload' || feedback === 'gradient')
      ? 'error feedback'
      : codecs.includes('int4')
        ? 'codec int4, which has error feedback'
        : null;
  if (why === null) return null;
  const instead = hasPower ? '; method.update_clip limits the updates of power' : '';
  const rule = `it must be left out with ${why}: what it cuts off the sum no trainer keeps${instead}`;
  return relationFault('optimizer.max_grad_norm', norm, rule);
};

const powerHasAdam: PolicyRule = ({ read, method, hasPower }) => {
  const name = read('optimizer.name') ?? 'adamw';
  if (!hasPower || name === 'adamw' || name === 'adamw-8bit') return null;
  const where = method === 'power' ? 'method.name: power' : 'a group with policy: power';
  const rule = `it must be adamw or adamw-8bit with ${where}, which has Adam with a factored second moment`;
  return relationFault('optimizer.name', name, rule);
};

/** A field that differs from what stands there without it though nothing reads it. */
function unusedByPower(field: string, filledIn: (read: FieldReader) => unknown, why: string): PolicyRule {
  return ({ read, method }) => {
    const value = read(field);
    if (method !== 'power' || value === undefined || value === filledIn(read)) return null;
    return relationFault(field, value, `it must be left out with method.name: power, ${why}`);
  };
}

function unusedRefresh(field: 'type' | 'oversample' | 'power_iterations' | 'stagger'): PolicyRule {
  const filledIn = (read: FieldReader): unknown => {
    const preset = read('method.preset') === 'parity' ? 'parity' : 'recommended';
    return PRESETS[preset].refresh[field];
  };
  return unusedByPower(`method.refresh.${field}`, filledIn, 'which moves its factors in every step');
}

const POWER_ALONE = 'method.name: power or a group with policy: power';

function onlyFor(field: string, isRead = ({ hasPower }: Chosen) => hasPower, when = POWER_ALONE): PolicyRule {
  return (chosen) => {
    const value = chosen.read(field);
    if (isRead(chosen) || value === undefined || value === schemaAt(field.split('.'))?.default) return null;
    return relationFault(field, value, `it is used only with ${when}`);
  };
}

/** What the name of a preset promises: fields that may not say otherwise. */
const PROMISES: Readonly<Record<string, readonly string[]>> = {
  exact: ['method.name', 'wire.codec', 'wire.update_codec'],
};

const presetIsKept: PolicyRule = ({ read }) => {
  const preset = read('preset');
  if (!isRunPreset(preset)) return null;
  for (const field of PROMISES[preset] ?? ['method.name']) {
    const said = valueAt(
      runPreset(preset),
      field === 'wire.update_codec' ? ['wire', 'codec'] : field.split('.'),
    );
    const value = read(field);
    if (value === undefined || value === said) continue;
    const rule = `with preset: ${preset} it is ${showValue(said)}; leave it out, or leave preset out`;
    return relationFault(field, value, rule);
  }
  return null;
};

function listed(values: readonly string[]): string {
  return `${values.slice(0, -1).join(', ')} or ${values.at(-1)}`;
}

const RULES: readonly PolicyRule[] = [
  presetIsKept,
  policyFitsMethod,
  pairHasItsBases,
  groupRankIsUsed,
  frozenHasNoMore,
  rowsAreExact,
  powerKeepsAll,
  groupKeepsGradient,
  methodKeepsGradient,
  convergenceIsOfGradients,
  sumsAreNotCut,
  powerHasAdam,
  unusedByPower('method.proj_type', () => 'std', 'which has a factor on either side'),
  unusedByPower('method.weights', () => 'f32', 'whose weights are f32'),
  unusedByPower(
    'method.moments',
    (read) => defaultMoments('power', 'none', read('method.preset') === 'parity' ? 'parity' : 'recommended'),
    'whose moments are those of whole matrices',
  ),
  ...(['type', 'oversample', 'power_iterations', 'stagger'] as const).map(unusedRefresh),
  ...['method.moment_dtype', 'method.update_clip', 'wire.overlap'].map((field) => onlyFor(field)),
  onlyFor(
    'method.feedback_dtype',
    ({ hasPower, hasError }) => hasPower || hasError,
    `${POWER_ALONE}, or feedback: gradient of matrices that are one-sided`,
  ),
];

/** All rules of this file as rules of relations.ts. */
export const POLICY_RULES: readonly Rule[] = RULES.map((rule) => (read) => {
  const chosen = choose(read);
  return chosen === null ? null : rule(chosen);
});
