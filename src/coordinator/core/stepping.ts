/**
 * The beginning of a step, its passage into sketching and collecting, and giving it up. The cursor does
 * not move before the update is on disk, so an abandoned step leaves nothing to undo.
 */
import { membersOf, takePositions } from './assignment.ts';
import { ById } from './by-id.ts';
import { callRoll } from './attendance.ts';
import { findTrainer, emit, enter, patch, readyTrainers, remark, type Draft, type PhaseOf } from './draft.ts';
import { shardAmong, startClocks } from './pace.ts';
import { drawMembers } from './participation.ts';
import { refreshSlots } from './refresh-schedule.ts';
import { deadlineMs, FRUITLESS_PAUSE_MS, waitMs } from './step-policy.ts';
import type { Effect, RunPlan, RunState, Shard } from './state.ts';

/** Shares the next sequences out among the step's members, who are ready, and asks for the first results. */
export function startStep(draft: Draft): Draft {
  const { plan, cursor, refreshedStep } = draft.state;
  const step = draft.state.step + 1;
  const slots = refreshedStep === step ? [] : refreshSlots(plan, step, draft.state.bases);
  if (slots.length > 0 && isGenerated(plan)) return commitGenerated(draft, step, slots);
  const { members, others } = drawMembers(plan, step, draft.state.attempts, readyTrainers(draft.state));
  const shards = shardAmong(draft.state, members, takePositions(cursor, plan.batchSequences));
  const assignments = shards.map(({ trainerId, ...share }): Effect => ({
    type: 'assignStep',
    trainerId,
    step,
    ...share,
    refreshSlots: slots,
    waitMs: waitMs(draft.state),
    ...gatewayCapacity(draft.state, trainerId),
  }));
  const begun = callRoll(patch(draft, { hasStarted: true }), step, membersOf(shards));
  const passed = others.map((trainerId): Effect => ({ type: 'passOver', trainerId, step }));
  const assigned = emit(startClocks(begun, step, shards), ...assignments, ...passed);
  return slots.length > 0
    ? enterSketching(assigned, { step, round: firstRound(plan, step), slots, shards, jobs: [] })
    : enterCollecting(assigned, step, shards);
}

function gatewayCapacity(state: RunState, trainerId: string): { readonly capacity?: number } {
  const capacity = findTrainer(state, trainerId)?.capacity;
  return capacity === undefined ? {} : { capacity };
}

/** Whether each trainer makes the bases for itself, so that nothing of a refresh travels. */
export function isGenerated({ refreshRounds }: Pick<RunPlan, 'refreshRounds'>): boolean {
  return refreshRounds === 0;
}

/** The round that the refresh of this step begins with: in step 1 no slot has a basis. */
export function firstRound({ isWarmStart }: Pick<RunPlan, 'isWarmStart'>, step: number): 1 | 2 {
  return isWarmStart && step > 1 ? 2 : 1;
}

/** The record that names the slots comes before the assignments, which then are those of any step. */
function commitGenerated(draft: Draft, step: number, slots: readonly number[]): Draft {
  const { cursor } = draft.state;
  const committing = {
    phase: 'committing',
    step,
    kind: 'basis',
    shards: [],
    received: [],
    cursor,
  } as const;
  const begun = patch(draft, { hasStarted: true, phase: committing });
  return emit(begun, { type: 'commitBases', step, slots, jobs: [] });
}

/** Begins a round. `jobs` are those of the round before: the shell sends their factors first. */
export function enterSketching(
  draft: Draft,
  round: Pick<PhaseOf<'factorising'>, 'step' | 'round' | 'slots' | 'shards' | 'jobs'>,
): Draft {
  const { jobs, ...begun } = round;
  const { step, slots, shards } = begun;
  const phase = {
    phase: 'sketching',
    ...begun,
    received: ById.of([]),
    deadlineMs: deadlineMs(draft.state),
  } as const;
  const trainerIds = membersOf(shards);
  return emit(enter(draft, phase), {
    type: 'requestSketches',
    trainerIds,
    step,
    round: begun.round,
    slots,
    jobs,
  });
}

export function enterCollecting(draft: Draft, step: number, shards: readonly Shard[]): Draft {
  return enter(draft, {
    phase: 'collecting',
    step,
    shards,
    received: ById.of([]),
    deadlineMs: deadlineMs(draft.state),
  });
}

/** Why a step is given up before its update. */
export type AbandonCause = 'lost' | 'late' | 'fruitless' | 'stopped';

const ABANDON_TEXTS = {
  lost: 'none of its trainers is left',
  late: 'none of its trainers was in time',
  fruitless: 'its sequences have no tokens',
  stopped: 'a stop was asked for',
} as const satisfies Record<AbandonCause, string>;

/**
 * Gives the step up before its update: its sequences are still at the cursor, and it begins anew when it
 * can. If nobody was in time it gets more time then; if nobody had a token it is put off a little.
 */
export function abandonStep(draft: Draft, step: number, cause: AbandonCause): Draft {
  const { nowMs, plan } = draft.state;
  const notBeforeMs = cause === 'fruitless' ? nowMs + FRUITLESS_PAUSE_MS : null;
  // With all of them nothing but membership can make a difference, and no more time is needed.
  const isTry = cause === 'late' || (cause === 'fruitless' && plan.participation !== null);
  const attempts = draft.state.attempts + (isTry ? 1 : 0);
  const abandoned = patch(draft, { attempts, phase: { phase: 'waiting', notBeforeMs } });
  return remark(
    emit(abandoned, { type: 'discardStaged', step }),
    `step ${step} is abandoned: ${ABANDON_TEXTS[cause]}`,
  );
}

/** Those of the step's members that have not answered. */
export function missingFrom(
  shards: readonly Shard[],
  received: Iterable<{ readonly trainerId: string }>,
): readonly string[] {
  const here = new Set<string>();
  for (const { trainerId } of received) here.add(trainerId);
  return membersOf(shards).filter((trainerId) => !here.has(trainerId));
}

/**
 * Whether any member has not answered. Those who have are members, each once, unless a member is lost whose sketch is
 * here.
 */
export function isMissingAny({
  shards,
  received,
}: Pick<PhaseOf<'collecting'>, 'shards' | 'received'>): boolean {
  return received.length < shards.length || missingFrom(shards, received).length > 0;
}

/** The step that is being worked on, or null between steps. */
export function currentStep(state: RunState): number | null {
  const { phase } = state;
  switch (phase.phase) {
    case 'sketching':
    case 'factorising':
    case 'collecting':
    case 'committing':
      return phase.step;
    default:
      return null;
  }
}
