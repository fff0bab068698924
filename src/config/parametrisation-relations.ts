/**
 * Rules about methods that train something else than the model's own tensors (LoRA, ReLoRA): fields that only they
 * read, and fields that they have no use for. Pure.
 */
import { relationFault, showValue, type Fault } from './faults.ts';
import { schemaAt } from './json-schema.ts';
import { defaultMoments, methodDefaults, PRESETS } from './presets.ts';
import type { FieldReader, Rule } from './relations.ts';
import { METHODS, type RunConfig } from './schema.ts';

type MethodName = RunConfig['method']['name'];

const ADAPTERS: readonly MethodName[] = ['lora', 'relora'];

function methodOf(read: FieldReader): MethodName | undefined {
  return METHODS.find((name) => name === read('method.name'));
}

/** A field that says something though the method does not read it. */
function onlyFor(
  methods: readonly MethodName[],
  field: string,
  filledIn: (read: FieldReader) => unknown = () => schemaAt(field.split('.'))?.default,
): Rule {
  return (read) => {
    const method = methodOf(read);
    const value = read(field);
    if (method === undefined || methods.includes(method) || value === undefined) return null;
    if (showValue(value) === showValue(filledIn(read))) return null;
    const rule = `it is used only with method.name: ${methods.join(' or ')}, not ${method}`;
    return relationFault(field, value, rule);
  };
}

/** A field of methods with bases: with adapters it would say something that does not happen. */
function unusedByAdapters(field: string, filledIn: (read: FieldReader, method: MethodName) => unknown): Rule {
  return (read) => {
    const method = methodOf(read);
    const value = read(field);
    if (method === undefined || !ADAPTERS.includes(method) || value === undefined) return null;
    if (value === filledIn(read, method)) return null;
    const rule = `it must be left out with method.name: ${method}, which has no bases`;
    return relationFault(field, value, rule);
  };
}

function presetOf(read: FieldReader): 'recommended' | 'parity' {
  return read('method.preset') === 'parity' ? 'parity' : 'recommended';
}

const adapterHasABase: Rule = (read) => {
  const adapter = read('model.adapter');
  if (adapter === undefined || read('model.path') !== undefined) return null;
  const rule = 'it needs model.path, the folder of the model that the adapter was made for';
  return relationFault('model.adapter', adapter, rule);
};

/** Rules of ReLoRA's merges. */
const ifRelora =
  (check: (mergeEvery: number, read: FieldReader) => Fault | null): Rule =>
  (read) => {
    const every = read('method.merge_every');
    return methodOf(read) === 'relora' && typeof every === 'number' ? check(every, read) : null;
  };

const mergesHappen = ifRelora((every, read) => {
  const steps = read('steps');
  if (typeof steps !== 'number' || every < steps) return null;
  const rule = `it must be below steps (${steps}): else nothing is ever merged, and the run is one of method.name: lora`;
  return relationFault('method.merge_every', every, rule);
});

const warmupsFit = ifRelora((every, read) => {
  const fields = ['optimizer.schedule.restart_warmup_steps', 'optimizer.schedule.warmup_steps'];
  const field = fields.find((name) => Number(read(name) ?? 0) >= every);
  if (field === undefined) return null;
  const rule = `it must be below method.merge_every (${every}): the learning rate has to be there before the next merge`;
  return relationFault(field, read(field), rule);
});

/** All rules of this file as rules of relations.ts. */
export const PARAMETRISATION_RULES: readonly Rule[] = [
  ...['model.adapter', 'method.lora_alpha', 'method.use_rslora'].map((field) => onlyFor(ADAPTERS, field)),
  onlyFor(ADAPTERS, 'method.modules_to_save', () => []),
  ...['method.merge_every', 'method.prune_ratio', 'optimizer.schedule.restart_warmup_steps'].map((field) =>
    onlyFor(['relora'], field),
  ),
  adapterHasABase,
  mergesHappen,
  warmupsFit,
  unusedByAdapters('method.proj_type', () => 'std'),
  unusedByAdapters('method.weights', () => 'f32'),
  unusedByAdapters('method.rank_budget', () => undefined),
  unusedByAdapters('method.scale', (_read, method) => methodDefaults(method).scale),
  unusedByAdapters('method.limiter', (_read, method) => methodDefaults(method).limiter),
  unusedByAdapters('method.moments', (read, method) => defaultMoments(method, 'none', presetOf(read))),
  ...(['type', 'oversample', 'power_iterations', 'stagger'] as const).map((field) =>
    unusedByAdapters(`method.refresh.${field}`, (read) => PRESETS[presetOf(read)].refresh[field]),
  ),
];
