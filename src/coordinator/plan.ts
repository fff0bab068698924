/** The core's plan from the configuration. Pure. */
import type { RunConfig } from '../config/schema.ts';
import { hasRefreshRounds, isGenerated } from '../galore/method.ts';
import { hasLocalState } from '../galore/feedback/local-state.ts';
import { hasBasis } from '../galore/slot.ts';
import { stepSequences, type RunShape } from '../run-shape.ts';
import type { GapPlan, OutlierPlan, RunPlan } from './core/state.ts';

/** @param validationSequences held-out sequences there are; 0: none */
export function planOf(config: RunConfig, shape: RunShape, validationSequences: number): RunPlan {
  const { coordinator, method, evaluation, checkpoint } = config;
  const wanted = evaluation.sequences === 0 ? validationSequences : evaluation.sequences;
  return {
    totalSteps: config.steps,
    startTrainers: coordinator.start_trainers,
    minTrainers: coordinator.min_trainers,
    maxTrainers: coordinator.max_trainers,
    stepDeadlineMs: coordinator.step_deadline_ms,
    quorum: coordinator.quorum,
    graceMs: coordinator.grace_ms,
    heartbeatTimeoutMs: coordinator.heartbeat_timeout_ms,
    participation:
      config.local_steps.participation === 1
        ? null
        : { share: config.local_steps.participation, seed: config.seed },
    batchSequences: config.data.local ? 0 : stepSequences(config),
    isLocal: config.data.local,
    localExamples: config.data.local ? config.batch_size : 0,
    sharding: coordinator.sharding,
    projectedSlots: refreshedSlots(shape),
    ...schedulePlanOf(config),
    refreshRounds: shape.refresh.rounds,
    isWarmStart: shape.refresh.isWarmStart,
    evaluationEvery: evaluation.every,
    evaluationSequences: Math.min(wanted, validationSequences),
    checkpointEvery: checkpoint.every,
    hashEvery: method.update_proj_gap,
    hasLocalState: shape.slots.some(hasLocalState),
    outliers: outlierPlanOf(config),
  };
}

/** What is done about norms; the rule norm-filter is `outliers: reject` by another name. */
export function outlierPlanOf({ coordinator }: Pick<RunConfig, 'coordinator'>): OutlierPlan | null {
  const { outliers, outlier_factor: factor, aggregation } = coordinator;
  const action = aggregation.rule === 'norm-filter' ? 'reject' : outliers;
  return action === 'accept' ? null : { action, factor };
}

/** What decides in which steps a slot is refreshed. */
export function schedulePlanOf({ method }: RunConfig): GapPlan {
  const { stagger, lazy_threshold: lazy, converged_ratio: converged } = method.refresh;
  return {
    updateProjGap: method.update_proj_gap,
    isStaggered: stagger,
    lazyThreshold: lazy ?? null,
    convergedRatio: converged ?? null,
  };
}

/** The slots whose bases change by records. Otherwise the rule moves them itself, or there are none. */
export function refreshedSlots({ slots, basis }: RunShape): readonly number[] {
  const isRefreshed = hasRefreshRounds(basis) || isGenerated(basis);
  return isRefreshed ? slots.filter(hasBasis).map(({ index }) => index) : [];
}
