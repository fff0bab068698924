/**
 * What coordinator and trainers derive alike from the configuration and the model: the slot table, the
 * refresh, the sizes of everything that travels. Pure; its description is hashed for the handshake.
 */
import type { RunConfig } from './config/schema.ts';
import { llamaTensors, type LlamaConfig } from './model/llama-config.ts';
import { methodPlan } from './galore/method.ts';
import { slotSizes, type SlotSizes } from './protocol/slot-sizes.ts';
import { refreshPlan, type RefreshPlan } from './galore/projection/sketch.ts';
import { buildSlots, type Slot } from './galore/slot.ts';

export interface RunShape {
  readonly slots: readonly Slot[];
  readonly refresh: RefreshPlan;
  readonly sizes: readonly SlotSizes[];
}

/** GaLore's rank when the configuration names none: a quarter of the hidden size (algorithms 9.8). */
const DEFAULT_RANK_SHARE = 1 / 4;

/** The rank of a run that names none. */
export function defaultRank(model: LlamaConfig): number {
  return Math.max(1, Math.round(model.hiddenSize * DEFAULT_RANK_SHARE));
}

/** Builds the shape of a run. */
export function buildRunShape(
  config: Pick<RunConfig, 'method' | 'optimizer' | 'wire'>,
  model: LlamaConfig,
): RunShape {
  const { method, wire } = config;
  const { policy, rule, plainRule } = methodPlan(config);
  const slots = buildSlots(llamaTensors(model), {
    policy,
    rule,
    plainRule,
    rank: method.rank ?? defaultRank(model),
    projType: method.proj_type,
    targetModules: method.target_modules,
  });
  return {
    slots,
    refresh: refreshPlan(method.refresh),
    sizes: slotSizes(slots, { codec: wire.codec, refresh: method.refresh }),
  };
}
