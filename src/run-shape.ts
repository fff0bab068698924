/**
 * What coordinator and trainers derive alike from the configuration and the model: the slot table, the
 * refresh, the sizes of everything that travels. Pure; its description is hashed for the handshake.
 */
import type { RunConfig } from './config/schema.ts';
import { llamaTensors, type LlamaConfig } from './model/llama-config.ts';
import { isGenerated, methodPlan, type BasisSource } from './galore/method.ts';
import { slotSizes, type SlotSizes } from './protocol/slot-sizes.ts';
import { NO_ROUNDS, refreshPlan, type RefreshPlan } from './galore/projection/sketch.ts';
import { buildSlots, type Slot } from './galore/slot.ts';

export interface RunShape {
  readonly slots: readonly Slot[];
  /** Where bases come from. */
  readonly basis: BasisSource;
  readonly refresh: RefreshPlan;
  readonly sizes: readonly SlotSizes[];
}

/** GaLore's rank when the configuration names none: a quarter of the hidden size (algorithms 9.8). */
const DEFAULT_RANK_SHARE = 1 / 4;

/** Builds the shape of a run. */
export function buildRunShape(
  config: Pick<RunConfig, 'method' | 'optimizer' | 'wire'>,
  model: LlamaConfig,
): RunShape {
  const { method, wire } = config;
  const { policy, rule, plainRule, basis } = methodPlan(config);
  const slots = buildSlots(llamaTensors(model), {
    policy,
    rule,
    plainRule,
    rank: method.rank ?? Math.max(1, Math.round(model.hiddenSize * DEFAULT_RANK_SHARE)),
    projType: method.proj_type,
    targetModules: method.target_modules,
  });
  const refresh = isGenerated(basis) ? NO_ROUNDS : refreshPlan(method.refresh);
  return {
    slots,
    basis,
    refresh,
    sizes: slotSizes(slots, { codec: wire.codec, refresh }),
  };
}
