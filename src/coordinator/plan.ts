/** The core's plan from the configuration. Pure. */
import type { RunConfig } from '../config/schema.ts';
import { hasBasis } from '../galore/slot.ts';
import type { RunShape } from '../run-shape.ts';
import type { RunPlan } from './core/state.ts';

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
    heartbeatTimeoutMs: coordinator.heartbeat_timeout_ms,
    batchSequences: config.batch_size,
    projectedSlots: shape.slots.filter(hasBasis).map((slot) => slot.index),
    updateProjGap: method.update_proj_gap,
    isStaggered: method.refresh.stagger,
    refreshRounds: shape.refresh.rounds,
    evaluationEvery: evaluation.every,
    evaluationSequences: Math.min(wanted, validationSequences),
    checkpointEvery: checkpoint.every,
    hashEvery: method.update_proj_gap,
  };
}
