/**
 * What coordinator and trainers derive alike from the configuration and the model: the slot table, the
 * refresh, the sizes of everything that travels. Pure; its description is hashed for the handshake.
 */
import type { RunConfig } from './config/schema.ts';
import { modelTensors, targetParts, type ModelConfig } from './model/model-config.ts';
import { hasRefreshRounds, methodPlan, type BasisSource, type MethodConfig } from './galore/method.ts';
import {
  meanContributionBytes,
  slotSizes,
  type RankLimits,
  type SlotCodecs,
  type SlotSizes,
} from './protocol/slot-sizes.ts';
import { parameterTable, type ParameterTable } from './galore/parametrisation/parametrisation.ts';
import { parametrisationFor } from './galore/parametrisation/parametrisations.ts';
import { refreshPlan, type RefreshPlan } from './galore/projection/sketch.ts';
import { codecOfPayload } from './galore/codec/codec.ts';
import { buildSlots, carriesSums, groupOf, sizeOf, stepKinds, type Slot } from './galore/slot.ts';

export interface RunShape {
  /** How the model's tensors are made of the slots'. */
  readonly parameters: ParameterTable;
  readonly slots: readonly Slot[];
  /** Where bases come from. */
  readonly basis: BasisSource;
  readonly refresh: RefreshPlan;
  /** Ranks that a refresh may choose; null: they stay as configured. */
  readonly ranks: RankLimits | null;
  /** By slot index. */
  readonly codecs: readonly SlotCodecs[];
  readonly sizes: readonly SlotSizes[];
}

/** GaLore's rank when the configuration names none: a quarter of the hidden size (algorithms 9.8). */
const DEFAULT_RANK = 'd/4';

/** A rank of the configuration for a model: a number, or a share of its hidden size such as `d/8`. */
export function rankFor(model: ModelConfig, rank: number | string = DEFAULT_RANK): number {
  if (typeof rank === 'number') return rank;
  return Math.max(1, Math.round(model.hiddenSize / Number(rank.slice('d/'.length))));
}

/** Sequences of a step over all trainers together: a batch for every local step. */
export function stepSequences({
  batch_size: batch,
  local_steps: local,
}: Pick<RunConfig, 'batch_size' | 'local_steps'>): number {
  return batch * local.count;
}

/** What a step has a loss for at most: tokens to predict, or sequences to be classified. With data of the trainers, of each of them. */
export function stepTargets(
  config: Pick<RunConfig, 'batch_size' | 'local_steps' | 'seq_len' | 'task'>,
): number {
  return stepSequences(config) * targetsOfSequence(config);
}

/** What a sequence has a loss for at most. */
export function targetsOfSequence({ task, seq_len: seqLen }: Pick<RunConfig, 'seq_len' | 'task'>): number {
  return task.type === 'sequence-classification' ? 1 : seqLen;
}

/** Columns of signs from which cosine columns are chosen: energies are known within sqrt(2/32), a quarter. */
const DCT_COLUMNS = 32;

/** Of bases that no sketch is made for. */
const NO_REFRESH: RefreshPlan = {
  ...refreshPlan({ type: 'exact', oversample: 0, power_iterations: 0 }),
  rounds: 0,
};

/** The fields that a shape follows from. */
type ShapeConfig = MethodConfig & Pick<RunConfig, 'wire' | 'batch_size' | 'seq_len'>;

/** Builds the shape of a run. */
export function buildRunShape(config: ShapeConfig, model: ModelConfig): RunShape {
  const { rank_budget: budget } = config.method;
  if (budget === undefined) return shapeAt(config, model, 1);
  const dense = 4 * modelTensors(model).reduce((sum, { shape }) => sum + sizeOf(shape), 0);
  return withinBudget((factor) => shapeAt(config, model, factor), dense / budget, model.hiddenSize);
}

/** The shape with the greatest ranks whose mean contribution has at most `maxBytes`, or with rank 1 if there is none. */
function withinBudget(at: (factor: number) => RunShape, maxBytes: number, hiddenSize: number): RunShape {
  // Ranks are whole, so that from some nearness on nothing changes.
  let [low, high] = [0, hiddenSize];
  for (let i = 0; i < 2 * Math.ceil(Math.log2(hiddenSize)) + 4; i += 1) {
    const middle = (low + high) / 2;
    if (meanContributionBytes(at(middle).sizes) <= maxBytes) low = middle;
    else high = middle;
  }
  return at(low);
}

/** The shape with all ranks of the configuration times `factor`. */
function shapeAt(config: ShapeConfig, model: ModelConfig, factor: number): RunShape {
  const { method, wire } = config;
  const { policy, rule, plainRule, inner, isInnerReset, averaged, basis, parametrisation } =
    methodPlan(config);
  const rankOf = (rank: NonNullable<typeof method.rank>): number =>
    Math.max(1, Math.floor(factor * rankFor(model, rank)));
  const codecsOf = (name: string): SlotCodecs => {
    const group = groupOf(name, method.param_groups);
    const contribution = group?.codec ?? wire.codec;
    return { contribution, update: group?.update_codec ?? group?.codec ?? wire.update_codec ?? wire.codec };
  };
  const rankForAll = rankOf(method.rank ?? DEFAULT_RANK);
  const targetModules = targetParts(model, method.target_modules);
  const parameters = parameterTable(
    modelTensors(model),
    parametrisationFor(parametrisation ?? 'identity', {
      method: { ...method, target_modules: [...targetModules] },
      rank: rankForAll,
    }),
  );
  const table = buildSlots(parameters.parts, {
    policy,
    rule,
    plainRule,
    inner,
    isInnerReset,
    averaged,
    rank: rankForAll,
    projType: method.proj_type,
    targetModules,
    weights: method.weights,
    feedback: method.feedback,
    buffers: { feedback: method.feedback_dtype, moment: method.moment_dtype },
    stepTokens: stepSequences(config) * config.seq_len,
    groups: method.param_groups.map(({ match, policy: way, rank, scale, feedback }) => ({
      ...{ match, policy: way, scale, feedback },
      rank: rank === undefined ? undefined : rankOf(rank),
    })),
  });
  const codecs = table.map(({ name }) => codecsOf(name));
  const slots = table.map((slot) => {
    const isOpen = groupOf(slot.name, method.param_groups)?.feedback === undefined;
    return isOpen ? withDefaultFeedback(slot, codecs[slot.index]!) : slot;
  });
  const refresh = refreshOf(method, basis);
  const ranks = limitsOf(method, basis);
  return {
    parameters,
    slots,
    basis,
    refresh,
    ranks,
    codecs,
    sizes: slotSizes(slots, { codecs, refresh, ranks }),
  };
}

/** A payload that is rounded to 4 bits keeps what was rounded away, unless its group of parameters says otherwise. */
function withDefaultFeedback(slot: Slot, { contribution }: SlotCodecs): Slot {
  const { policy } = slot;
  if (carriesSums(slot) || policy === 'frozen' || policy === 'power' || policy === 'row-sparse') return slot;
  const isRounded = stepKinds(slot).some(({ step }) => codecOfPayload(slot, step, contribution) === 'int4');
  return isRounded ? { ...slot, feedback: 'payload' } : slot;
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
