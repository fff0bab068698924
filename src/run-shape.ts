/**
 * What coordinator and trainers derive alike from the configuration and the model: the slot table, the
 * refresh, the sizes of everything that travels. Pure; its description is hashed for the handshake.
 */
import type { RunConfig } from './config/schema.ts';
import { llamaTensors, type LlamaConfig } from './model/llama-config.ts';
import { hasRefreshRounds, methodPlan, type BasisSource } from './galore/method.ts';
import { slotSizes, type SlotSizes } from './protocol/slot-sizes.ts';
import { refreshPlan, type RefreshPlan } from './galore/projection/sketch.ts';
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

/** Of bases that no sketch is made for. */
const NO_REFRESH: RefreshPlan = {
  ...refreshPlan({ type: 'exact', oversample: 0, power_iterations: 0 }),
  rounds: 0,
};

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
  const refresh = hasRefreshRounds(basis) ? refreshPlan(method.refresh) : NO_REFRESH;
  return {
    slots,
    basis,
    refresh,
    sizes: slotSizes(slots, { codec: wire.codec, refresh, ranks: null }),
  };
}
