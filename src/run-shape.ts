/**
 * What coordinator and trainers derive alike from the configuration and the model: the slot table, the
 * refresh, the sizes of everything that travels. Pure; its description is hashed for the handshake.
 */
import type { RunConfig } from './config/schema.ts';
import { llamaTensors, type LlamaConfig } from './model/llama-config.ts';
import { hasRefreshRounds, methodPlan, type BasisSource } from './galore/method.ts';
import { slotSizes, type RankLimits, type SlotSizes } from './protocol/slot-sizes.ts';
import { refreshPlan, type RefreshPlan } from './galore/projection/sketch.ts';
import { buildSlots, type Slot } from './galore/slot.ts';

export interface RunShape {
  readonly slots: readonly Slot[];
  /** Where bases come from. */
  readonly basis: BasisSource;
  readonly refresh: RefreshPlan;
  /** Ranks that a refresh may choose; null: they stay as configured. */
  readonly ranks: RankLimits | null;
  readonly sizes: readonly SlotSizes[];
}

/** GaLore's rank when the configuration names none: a quarter of the hidden size (algorithms 9.8). */
const DEFAULT_RANK_SHARE = 1 / 4;

/** The rank of a run that names none. */
export function defaultRank(model: LlamaConfig): number {
  return Math.max(1, Math.round(model.hiddenSize * DEFAULT_RANK_SHARE));
}
/** Columns of signs from which cosine columns are chosen: energies are known within sqrt(2/32), a quarter. */
const DCT_COLUMNS = 32;

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
    rank: method.rank ?? defaultRank(model),
    projType: method.proj_type,
    targetModules: method.target_modules,
    weights: method.weights,
  });
  const refresh = refreshOf(method, basis);
  const ranks = limitsOf(method, basis);
  return {
    slots,
    basis,
    refresh,
    ranks,
    sizes: slotSizes(slots, { codec: wire.codec, refresh, ranks }),
  };
}

function refreshOf(
  { refresh, adaptive_rank: adaptive }: RunConfig['method'],
  basis: BasisSource,
): RefreshPlan {
  if (!hasRefreshRounds(basis)) return NO_REFRESH;
  if (basis === 'dct' && refresh.type === 'sketch') {
    return refreshPlan({ ...refresh, type: 'dct', warm_start: false, dct_columns: DCT_COLUMNS });
  }
  return refreshPlan({ ...refresh, held_out_columns: isAdaptive(adaptive, basis) ? adaptive.probes : 0 });
}

function limitsOf({ adaptive_rank: adaptive }: RunConfig['method'], basis: BasisSource): RankLimits | null {
  if (!isAdaptive(adaptive, basis)) return null;
  return { minRank: adaptive.min_rank, multiple: adaptive.multiple };
}

function isAdaptive({ threshold }: RunConfig['method']['adaptive_rank'], basis: BasisSource): boolean {
  return threshold !== undefined && basis === 'svd';
}
