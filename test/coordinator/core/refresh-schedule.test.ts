import test from 'ava';
import {
  foldBases,
  foldNorms,
  nextRefreshSlots,
  refreshSlots,
  MAX_GAP_FACTOR,
  type BasisFact,
} from '../../../src/coordinator/core/refresh-schedule.ts';
import type { RunPlan, SlotBasis } from '../../../src/coordinator/core/state.ts';
import { PLAN } from './plan.ts';

const BASE: RunPlan = { ...PLAN, projectedSlots: [3, 5, 8, 9], updateProjGap: 4 };

/** What each slot's new basis is said to keep of the old one, by step and slot. */
type SimilarityOf = (step: number, slot: number) => number | null;
type NormOf = (step: number, slot: number) => number;

interface Course {
  readonly similarityOf?: SimilarityOf;
  readonly normOf?: NormOf;
}

/** Plays `steps` steps; returns the steps in which each slot was refreshed. */
function play(plan: RunPlan, steps: number, { similarityOf, normOf }: Course = {}): Record<number, number[]> {
  const refreshed: Record<number, number[]> = Object.fromEntries(
    plan.projectedSlots.map((slot) => [slot, []]),
  );
  let bases: readonly SlotBasis[] = [];
  for (let step = 1; step <= steps; step++) {
    const slots = refreshSlots(plan, step, bases);
    const facts = slots.map((slot): BasisFact => {
      const similarity = step === 1 ? null : (similarityOf?.(step, slot) ?? null);
      return { slot, rank: null, similarity };
    });
    if (slots.length > 0) bases = foldBases(bases, step, facts, plan);
    for (const slot of slots) refreshed[slot]!.push(step);
    if (normOf !== undefined) {
      bases = foldNorms(
        bases,
        plan.projectedSlots.map((slot) => ({ slot, norm: normOf(step, slot) })),
      );
    }
  }
  return refreshed;
}

test('a fixed gap needs nothing of what is known of the bases', (t) => {
  for (const isStaggered of [false, true]) {
    const plan = { ...BASE, isStaggered };
    for (let step = 1; step < 30; step++) {
      const known = foldBases([], step, [{ slot: 3, rank: 2, similarity: 1 }], plan);
      t.deepEqual(refreshSlots(plan, step, known), refreshSlots(plan, step));
    }
  }
});

test('with a threshold that is never reached the schedule is that of a fixed gap', (t) => {
  for (const isStaggered of [false, true]) {
    const plan = { ...BASE, isStaggered };
    const fixed = play(plan, 40);
    t.deepEqual(play({ ...plan, lazyThreshold: 0.9 }, 40, { similarityOf: () => 0.5 }), fixed);
    t.deepEqual(play({ ...plan, convergedRatio: 0.1 }, 40, { normOf: () => 1 }), fixed);
  }
});

test('five similar refreshes in a row double the gap of that slot alone, again and again, up to a limit', (t) => {
  const plan = { ...BASE, updateProjGap: 1, lazyThreshold: 0.4 };
  const refreshed = play(plan, 40, { similarityOf: (_, slot) => (slot === 5 ? 0.4 : 0.39) });
  // Five similarities are known after the sixth refresh: gaps 2, 4, 8, 8, …
  t.deepEqual(refreshed[5], [1, 2, 3, 4, 5, 6, 8, 12, 20, 28, 36]);
  t.is(36 - 28, MAX_GAP_FACTOR * plan.updateProjGap);
  t.deepEqual(
    refreshed[3],
    Array.from({ length: 40 }, (_, i) => i + 1),
  );
});

test('the mean of the last five decides, not each of them', (t) => {
  const plan = { ...BASE, updateProjGap: 1, lazyThreshold: 0.5 };
  const similarities = [0, 1, 0, 1, 0.4, 0.6]; // means of five: 0.48, 0.6
  const refreshed = play(plan, 10, { similarityOf: (step) => similarities[step - 2] ?? 0 });
  t.deepEqual(refreshed[3], [1, 2, 3, 4, 5, 6, 7, 9]);
});

test('a slot whose projected gradient has shrunk is refreshed at the next step, but not too soon', (t) => {
  const plan = { ...BASE, updateProjGap: 20, convergedRatio: 0.5 };
  const normOf: NormOf = (step, slot) => (slot === 8 ? 0.8 ** (step - 1) : 1);
  // 0.8^4 = 0.41 is the first below a half of the first norm: step 5 shows it, step 6 refreshes. The norm
  // after that refresh is what the next ones are compared with.
  const refreshed = play(plan, 21, { normOf });
  t.deepEqual(refreshed[8], [1, 6, 11, 16, 21]);
  t.deepEqual(refreshed[3], [1, 21]);
  const sudden = play(plan, 10, { normOf: (step) => (step === 1 ? 1 : 0.1) });
  t.deepEqual(sudden[8], [1, 3], 'a tenth of T, 2 steps, must have passed');
  const silent = play(plan, 21, { normOf: () => 0 });
  t.deepEqual(silent[8], [1, 21], 'a slot without gradient has not shrunk');
});

test('a zero gradient counts as a refresh and tells nothing of similarity', (t) => {
  const plan = { ...BASE, lazyThreshold: 0.4 };
  const before = foldBases([], 1, [{ slot: 3, rank: 6, similarity: null }], plan);
  const [after] = foldBases(before, 5, [{ slot: 3, rank: null, similarity: null }], plan);
  t.deepEqual(after, {
    slot: 3,
    rank: 6,
    refreshedStep: 5,
    gap: 4,
    similarities: [],
    firstNorm: null,
    lastNorm: null,
  });
});

test('bases that the journal says nothing of are due at once', (t) => {
  const plan = { ...BASE, lazyThreshold: 0.4 };
  t.deepEqual(refreshSlots(plan, 2, []), BASE.projectedSlots);
});

test('the slots of the next step are known in the one before, with fixed, staggered and growing gaps', (t) => {
  const plans = [BASE, { ...BASE, isStaggered: true }, { ...BASE, lazyThreshold: 0.4, isStaggered: true }];
  for (const plan of [...plans, ...plans.map((each) => ({ ...each, updateProjGap: 1 }))]) {
    let bases: readonly SlotBasis[] = [];
    let foreseen: readonly number[] = plan.projectedSlots;
    for (let step = 1; step <= 60; step++) {
      const slots = refreshSlots(plan, step, bases);
      // Of a gap that has just grown nobody knew.
      if (plan.lazyThreshold === null) t.deepEqual(foreseen, slots, `step ${step}`);
      else
        t.true(
          slots.every((slot) => foreseen.includes(slot)),
          `step ${step}`,
        );
      foreseen = nextRefreshSlots(plan, step, bases, slots);
      const facts = slots.map((slot) => ({ slot, rank: null, similarity: 0.9 }));
      bases = foldBases(bases, step, facts, plan);
    }
  }
});
