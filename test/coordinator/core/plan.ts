// A small run plan for the core's tests, and the state before its first event.
import { initialState, type StartingPoint } from '../../../src/coordinator/core/advance.ts';
import type { RunPlan, RunState } from '../../../src/coordinator/core/state.ts';

export const PLAN: RunPlan = {
  totalSteps: 3,
  startTrainers: 2,
  minTrainers: 1,
  maxTrainers: 4,
  stepDeadlineMs: 10_000,
  quorum: 'all',
  graceMs: 2_000,
  heartbeatTimeoutMs: 30_000,
  participation: null,
  batchSequences: 4,
  isLocal: false,
  localExamples: 0,
  sharding: 'equal',
  projectedSlots: [],
  updateProjGap: 10,
  isStaggered: false,
  refreshRounds: 2,
  isWarmStart: false,
  lazyThreshold: null,
  convergedRatio: null,
  evaluationEvery: 0,
  evaluationSequences: 0,
  checkpointEvery: 0,
  hashEvery: 0,
  hasLocalState: false,
  outliers: null,
};

export const FRESH: StartingPoint = {
  step: 0,
  sequence: 0,
  refreshedStep: 0,
  bases: [],
  cursor: { next: 0, returned: [] },
  checkpointedStep: 0,
  nowMs: 0,
};

export function freshState(plan: Partial<RunPlan> = {}, from: Partial<StartingPoint> = {}): RunState {
  return initialState({ ...PLAN, ...plan }, { ...FRESH, ...from });
}
