/**
 * What of a method can only be checked against the model: the matrices that get bases, and their ranks.
 * Before anything of the run is written. Pure.
 */
import type { RunConfig } from '../config/schema.ts';
import { ConfigError, type ConfigFault } from '../errors.ts';
import { methodPlan } from '../galore/method.ts';
import { hasBasis, matrixShape, type Slot } from '../galore/slot.ts';

/** @throws ConfigError that names every entry of target_modules no matrix has, and a rank no matrix can have */
export function checkTargets(config: Pick<RunConfig, 'method' | 'optimizer'>, slots: readonly Slot[]): void {
  if (methodPlan(config).policy === null) return;
  const faults = [...targetFaults(config, slots), ...rankFaults(config, slots)];
  if (faults.length === 0) return;
  const sentences = faults.map(({ field, value, allowed }) => `${field} is ${value}; ${allowed}`);
  throw new ConfigError(sentences.join('\n'), faults);
}

function targetFaults({ method }: Pick<RunConfig, 'method'>, slots: readonly Slot[]): ConfigFault[] {
  const matrices = slots.filter(({ shape }) => shape.length === 2).map(({ name }) => name);
  const unknown = method.target_modules.filter((part) => !matrices.some((name) => name.includes(part)));
  if (unknown.length === 0) return [];
  const allowed = `no matrix of the model has that in its name; there are ${modulesOf(matrices).join(', ')}`;
  return [{ field: 'method.target_modules', value: unknown.join(', '), allowed }];
}

function rankFaults({ method }: Pick<RunConfig, 'method'>, slots: readonly Slot[]): ConfigFault[] {
  const targets = slots.filter(hasBasis);
  if (targets.length === 0) return [];
  const largest = Math.max(...targets.map((slot) => Math.min(...matrixShape(slot))));
  const { rank, adaptive_rank: adaptive } = method;
  if (typeof rank === 'number' && rank > largest) {
    const allowed = `it must be at most ${largest}: no target matrix has a longer smaller side`;
    return [{ field: 'method.rank', value: String(rank), allowed }];
  }
  const greatest = Math.max(...targets.map((slot) => slot.rank));
  if (adaptive.threshold === undefined || adaptive.min_rank <= greatest) return [];
  const allowed = `it must be at most ${greatest}, the greatest rank (method.rank)`;
  return [{ field: 'method.adaptive_rank.min_rank', value: String(adaptive.min_rank), allowed }];
}

/** `mlp.up_proj` for all the layers' `model.layers.3.mlp.up_proj.weight`. */
function modulesOf(names: readonly string[]): readonly string[] {
  return [
    ...new Set(names.map((name) => name.replace(/^model\.(layers\.\d+\.)?/, '').replace(/\.weight$/, ''))),
  ];
}
