/**
 * How fast each trainer is, and what share of a step it therefore gets, so that unequal trainers finish
 * together. Pure. What is known of a trainer goes with its connection: a run that resumes, or a trainer
 * that connects anew, is measured again within a step. See docs/coordinator-core.md, "Sequences".
 */
import { cutShards, shardEqually } from './assignment.ts';
import { capacityOf, findTrainer, patchTrainers, type Draft } from './draft.ts';
import type { Observation, RunState, Shard, TrainerState } from './state.ts';

/** Answers a trainer is judged by: the middle one of five is not moved by one odd step, nor by two. */
export const PACE_WINDOW = 5;
/** Older answers say nothing any more: a trainer that got no sequence for so long is tried again. */
export const PACE_MEMORY_STEPS = 50;
/** Shares must differ by so much of the larger one to tell the fixed cost from the time a sequence takes. */
const LEAST_SPREAD = 0.25;
/**
 * The fixed cost is taken for at most this part of an answer's time. Guessed too high it makes shares change
 * by too much, at most twice with this; beyond that they would swing for ever.
 */
const MOST_FIXED = 0.5;

/** A trainer that seems to need no time at all is taken to need this for a sequence. */
const LEAST_MS = 1e-3;

/** What a share of n sequences takes a trainer: fixedMs + n msPerSequence. */
export interface Pace {
  readonly fixedMs: number;
  readonly msPerSequence: number; // above 0
}

/** The trainers of these shards have been given their work. */
export function startClocks(draft: Draft, step: number, shards: readonly Shard[]): Draft {
  const { nowMs } = draft.state;
  const sizes = new Map(shards.map(({ trainerId, positions }) => [trainerId, positions.length]));
  return patchTrainers(draft, [...sizes.keys()], ({ trainerId }) => ({
    asked: { step, sequences: sizes.get(trainerId)!, atMs: nowMs },
  }));
}

/**
 * The trainer's first answer to its assignment is here: a sketch in a step with a refresh, else the
 * contribution. Later answers of the step count for nothing: they were asked for when the slowest member
 * had given the one before.
 */
export function stopClock(draft: Draft, trainerId: string): Draft {
  return observe(draft, [trainerId], (before, newest) => [...before, newest].slice(-PACE_WINDOW));
}

/**
 * The trainers missed the deadline. What was known of them is void: they get little until they answer again,
 * and by the answer what is right.
 */
export function stopClocksLate(draft: Draft, trainerIds: readonly string[]): Draft {
  return observe(draft, trainerIds, (_, newest) => [newest]);
}

function observe(
  draft: Draft,
  trainerIds: readonly string[],
  join: (before: readonly Observation[], newest: Observation) => readonly Observation[],
): Draft {
  const { nowMs } = draft.state;
  return patchTrainers(draft, trainerIds, ({ asked, observed }: TrainerState) => {
    if (asked === null) return null;
    const newest = { step: asked.step, sequences: asked.sequences, elapsedMs: nowMs - asked.atMs };
    return { asked: null, observed: join(observed, newest) };
  });
}

/** Shares these positions out among trainers that are ready, as the plan says; those with data of their own get none. */
export function shardAmong(
  state: RunState,
  trainerIds: readonly string[],
  positions: readonly number[],
): readonly Shard[] {
  if (state.plan.isLocal) return localShares(state, trainerIds);
  if (state.plan.sharding !== 'adaptive') {
    return shardEqually(positions, trainerIds, (trainerId) => capacityOf(state, trainerId));
  }
  const paces = trainerIds.map((trainerId) =>
    estimatePace(findTrainer(state, trainerId)!.observed.filter(({ step }) => isFresh(state, step))),
  );
  return cutShards(positions, trainerIds, sharesByPace(positions.length, fillIn(paces)));
}

/**
 * Those with data of their own get no positions, but how many of their own examples each optimizer step takes: all the
 * same, or by how many they have, so that every example of every site counts alike and comes equally often.
 */
function localShares(state: RunState, trainerIds: readonly string[]): readonly Shard[] {
  const { localExamples, sharding } = state.plan;
  if (sharding !== 'examples')
    return trainerIds.map((trainerId) => ({ trainerId, positions: [], localExamples }));
  const paces = trainerIds.map((trainerId) => {
    const { examples = 1 } = findTrainer(state, trainerId)!;
    return { fixedMs: 0, msPerSequence: 1 / examples };
  });
  const shares = sharesByPace(localExamples * trainerIds.length, paces);
  return trainerIds.map((trainerId, i) => ({ trainerId, positions: [], localExamples: shares[i]! }));
}

function isFresh(state: RunState, step: number): boolean {
  return step > state.step - PACE_MEMORY_STEPS;
}

/**
 * How many of `count` sequences each trainer gets, in the order given: each one goes to whoever would be
 * done with it first (the first of several), so that the last to finish is done as early as can be.
 * Nobody goes without if there are enough for all.
 */
export function sharesByPace(count: number, paces: readonly Pace[]): readonly number[] {
  const least = count < paces.length ? 0 : 1;
  const shares = paces.map(() => least);
  const doneMs = paces.map(({ fixedMs, msPerSequence }) => fixedMs + (least + 1) * msPerSequence);
  if (paces.length === 0) return shares;
  // A heap of their indices: whoever would be done first is on top.
  const heap = paces.map((_, i) => i).sort((a, b) => doneMs[a]! - doneMs[b]! || a - b);
  for (let left = count - least * paces.length; left > 0; left--) {
    const first = heap[0]!;
    shares[first]! += 1;
    doneMs[first]! += paces[first]!.msPerSequence;
    sinkTop(heap, (a, b) => doneMs[a]! < doneMs[b]! || (doneMs[a]! === doneMs[b]! && a < b));
  }
  return shares;
}

/** Puts the top of a heap, which has become later, where it belongs. */
function sinkTop(heap: number[], isBefore: (a: number, b: number) => boolean): void {
  const sinking = heap[0]!;
  let at = 0;
  for (;;) {
    const left = 2 * at + 1;
    if (left >= heap.length) break;
    const isRight = left + 1 < heap.length && isBefore(heap[left + 1]!, heap[left]!);
    const child = isRight ? left + 1 : left;
    if (!isBefore(heap[child]!, sinking)) break;
    heap[at] = heap[child]!;
    at = child;
  }
  heap[at] = sinking;
}

/** Null without an observation. */
export function estimatePace(observed: readonly Observation[]): Pace | null {
  if (observed.length === 0) return null;
  const fixedMs = fixedCost(observed);
  const times = observed.map(({ sequences, elapsedMs }) => (elapsedMs - fixedMs) / sequences);
  return { fixedMs, msPerSequence: Math.max(lowerMedian(times), LEAST_MS) };
}

/**
 * Where the line through the observations begins (Theil-Sen: the median of the slopes of all pairs), in
 * milliseconds; 0 if their shares are too much alike to tell. In the long run it does not matter: shares
 * under which all finish together stay as they are whatever the fixed cost is thought to be. It matters
 * for how soon they are found.
 */
function fixedCost(observed: readonly Observation[]): number {
  const slopes = observed.flatMap((a, i) =>
    observed
      .slice(i + 1)
      .filter((b) => isSpread(a.sequences, b.sequences))
      .map((b) => (b.elapsedMs - a.elapsedMs) / (b.sequences - a.sequences)),
  );
  if (slopes.length === 0) return 0;
  const slope = -lowerMedian(slopes.map((each) => -each)); // of two the one with the lower fixed cost
  const start = lowerMedian(observed.map(({ sequences, elapsedMs }) => elapsedMs - slope * sequences));
  const most = MOST_FIXED * Math.min(...observed.map(({ elapsedMs }) => elapsedMs));
  return Math.min(Math.max(start, 0), most);
}

function isSpread(a: number, b: number): boolean {
  return Math.abs(a - b) >= LEAST_SPREAD * Math.max(a, b);
}

/** Of an even number the lower of the two in the middle: odd steps are slow ones. */
function lowerMedian(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor((sorted.length - 1) / 2)]!;
}

/** A trainer that nothing is known of is taken for the mean of the others; all alike if there are none. */
function fillIn(paces: readonly (Pace | null)[]): readonly Pace[] {
  const known = paces.filter((pace) => pace !== null);
  const mean = (values: readonly number[]): number =>
    values.reduce((sum, value) => sum + value, 0) / values.length;
  const other =
    known.length === 0
      ? { fixedMs: 0, msPerSequence: 1 }
      : {
          fixedMs: mean(known.map(({ fixedMs }) => fixedMs)),
          msPerSequence: mean(known.map(({ msPerSequence }) => msPerSequence)),
        };
  return paces.map((pace) => pace ?? other);
}
