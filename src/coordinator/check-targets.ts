/**
 * What of a method can only be checked against the model: the names of its tensors, the sides of its
 * matrices. Before anything of the run is written. Pure.
 */
import type { RunConfig } from '../config/schema.ts';
import { ConfigError, type ConfigFault } from '../errors.ts';
import { methodPlan, type MethodConfig } from '../galore/method.ts';
import { groupOf, matrixShape, sizeOf, travels, type Slot } from '../galore/slot.ts';
import { targetParts, type ModelConfig } from '../model/model-config.ts';
import { meanContributionBytes } from '../protocol/slot-sizes.ts';
import type { RunShape } from '../run-shape.ts';

type Method = RunConfig['method'];
type Group = Method['param_groups'][number];

/** @throws ConfigError that names every entry of target_modules or param_groups that no tensor has, and ranks that none can have */
export function checkTargets(
  config: MethodConfig,
  { slots, sizes, parameters }: Pick<RunShape, 'slots' | 'sizes' | 'parameters'>,
  model: ModelConfig | null = null,
): void {
  const isCompressed = methodPlan(config).policy !== null;
  const { method } = config;
  const faults = [
    ...(parameters.parametrisation.faults?.(parameters.tensors) ?? []),
    ...(isCompressed ? [...targetFaults(method, slots, model), ...rankFaults(method, slots)] : []),
    ...method.param_groups.flatMap((group, index) => groupFaults(group, index, method, slots)),
    ...method.param_groups.flatMap((group, index) => rowSparseFaults(group, index, method, slots)),
    ...frozenFaults(slots),
    ...budgetFaults(method, { slots, sizes }),
  ];
  if (faults.length === 0) return;
  const sentences = faults.map(({ field, value, allowed }) => `${field} is ${value}; ${allowed}`);
  throw new ConfigError(sentences.join('\n'), faults);
}

function targetFaults(method: Method, slots: readonly Slot[], model: ModelConfig | null): ConfigFault[] {
  const names = slots.filter(({ shape }) => shape.length === 2).map(({ name }) => name);
  const partsOf = (module: string): readonly string[] =>
    model === null ? [module] : targetParts(model, [module]);
  return nameFaults('method.target_modules', 'matrix', method.target_modules, names, partsOf);
}

/** Of the parts of names in one list. */
function nameFaults(
  field: string,
  what: string,
  parts: readonly string[],
  names: readonly string[],
  partsOf = (part: string): readonly string[] => [part],
) {
  const known = namesToMatch(parts, names);
  const isKnown = (part: string): boolean => known.some((name) => name.includes(part));
  const unknown = parts.filter((part) => !partsOf(part).some(isKnown));
  if (unknown.length === 0) return [];
  const tied = unknown.includes(OUTPUT)
    ? ' (embeddings are tied: embed_tokens is the output layer, too)'
    : '';
  const allowed = `no ${what} of the model has that in its name${tied}; there are ${modulesOf(names).join(', ')}`;
  return [{ field, value: unknown.join(', '), allowed }];
}

const OUTPUT = 'lm_head';

/** With tied embeddings a list that names both of them means the one there is. */
function namesToMatch(parts: readonly string[], names: readonly string[]): readonly string[] {
  const hasEmbeddings = parts.some((part) => names.some((name) => name.includes(part) && isEmbedding(name)));
  return hasEmbeddings ? [...names, `${OUTPUT}.weight`] : names;
}

function isEmbedding(name: string): boolean {
  return name.includes('embed_tokens') || name.includes('embeddings.word_embeddings');
}

function rankFaults({ rank, adaptive_rank: adaptive, param_groups }: Method, slots: readonly Slot[]) {
  const targets = slots.filter((slot) => slot.rank !== undefined);
  const ruled = targets.filter((slot) => groupOf(slot.name, param_groups)?.rank === undefined);
  if (ruled.length === 0) return [];
  const largest = Math.max(...ruled.map((slot) => Math.min(...matrixShape(slot))));
  if (typeof rank === 'number' && rank > largest) {
    const allowed = `it must be at most ${largest}: no target matrix has a longer smaller side`;
    return [{ field: 'method.rank', value: String(rank), allowed }];
  }
  const greatest = Math.max(...targets.map((slot) => slot.rank ?? 0));
  if (adaptive.threshold === undefined || adaptive.min_rank <= greatest) return [];
  const allowed = `it must be at most ${greatest}, the greatest rank (method.rank)`;
  return [{ field: 'method.adaptive_rank.min_rank', value: String(adaptive.min_rank), allowed }];
}

function groupFaults(group: Group, index: number, method: Method, slots: readonly Slot[]): ConfigFault[] {
  const field = `method.param_groups[${index}]`;
  const names = slots.map(({ name }) => name);
  const unknown = nameFaults(`${field}.match`, 'tensor', group.match, names);
  const sides = slots
    .filter((slot) => groupOf(slot.name, method.param_groups) === group && slot.shape.length === 2)
    .map((slot) => Math.min(...matrixShape(slot)));
  const largest = Math.max(...sides);
  if (typeof group.rank !== 'number' || sides.length === 0 || group.rank <= largest) return unknown;
  const allowed = `it must be at most ${largest}: none of its matrices has a longer smaller side`;
  return [...unknown, { field: `${field}.rank`, value: String(group.rank), allowed }];
}

/** Only the gradient of an input embedding is zero in the rows of tokens that are not there. */
function rowSparseFaults(group: Group, index: number, method: Method, slots: readonly Slot[]): ConfigFault[] {
  if (group.policy !== 'row-sparse') return [];
  const field = `method.param_groups[${index}].policy`;
  const own = slots.filter(({ name }) => groupOf(name, method.param_groups) === group);
  const others = modulesOf(own.filter((slot) => !isEmbedding(slot.name)).map(({ name }) => name));
  const isTied = !slots.some(({ name }) => name.includes(OUTPUT) || name.includes('classifier'));
  const why =
    others.length > 0
      ? `its group matches ${others.join(', ')}, too: give them a group of their own`
      : isTied && own.length > 0
        ? 'here it is tied to the output layer, whose gradient has all rows: use dense or power'
        : null;
  if (why === null) return [];
  return [
    { field, value: 'row-sparse', allowed: `it is for the input embedding embed_tokens alone; ${why}` },
  ];
}

function frozenFaults(slots: readonly Slot[]): ConfigFault[] {
  if (slots.some(travels)) return [];
  const allowed = 'at least one tensor must be trained: every one is frozen';
  return [{ field: 'method.param_groups', value: 'policy: frozen for all tensors', allowed }];
}

/** Where even rank 1 is too much, or there are no ranks. */
function budgetFaults(
  { rank_budget: budget }: Method,
  { slots, sizes }: Pick<RunShape, 'slots' | 'sizes'>,
): ConfigFault[] {
  if (budget === undefined) return [];
  const field = 'method.rank_budget';
  if (slots.every(({ rank }) => rank === undefined)) {
    return [{ field, value: String(budget), allowed: 'it must be left out: no tensor has a rank' }];
  }
  const dense = 4 * slots.reduce((sum, { shape }) => sum + sizeOf(shape), 0);
  const reached = dense / meanContributionBytes(sizes);
  if (reached >= budget) return [];
  const allowed = `with rank 1 everywhere it is ${reached.toFixed(1)}: let more tensors have a rank (method.target_modules), or a codec of fewer bits`;
  return [{ field, value: String(budget), allowed }];
}

/** `mlp.up_proj` for all the layers' `model.layers.3.mlp.up_proj.weight`. */
function modulesOf(names: readonly string[]): readonly string[] {
  return [
    ...new Set(
      names.map((name) =>
        name.replace(/^(model|bert|roberta)\.((encoder\.)?layers?\.\d+\.)?/, '').replace(/\.weight$/, ''),
      ),
    ),
  ];
}
