// What is known of a trainer's speed, and the shares that follow from it.
import test from 'ava';
import fc from 'fast-check';
import { advance } from '../../../src/coordinator/core/advance.ts';
import { shardEqually } from '../../../src/coordinator/core/assignment.ts';
import {
  estimatePace,
  PACE_MEMORY_STEPS,
  shardAmong,
  sharesByPace,
  type Pace,
} from '../../../src/coordinator/core/pace.ts';
import type { Event, Observation, RunPlan, RunState } from '../../../src/coordinator/core/state.ts';
import { freshState } from './plan.ts';

const observed = (...pairs: readonly (readonly [sequences: number, elapsedMs: number])[]): Observation[] =>
  pairs.map(([sequences, elapsedMs], i) => ({ step: i + 1, sequences, elapsedMs }));

const paces = fc.array(
  fc.record({ fixedMs: fc.integer({ min: 0, max: 500 }), msPerSequence: fc.integer({ min: 1, max: 300 }) }),
  { minLength: 1, maxLength: 4 },
);

test('speeds of 3 to 1 share 16 sequences 12 to 4, and a fixed cost counts', (t) => {
  const pace = (fixedMs: number, msPerSequence: number): Pace => ({ fixedMs, msPerSequence });
  t.deepEqual(sharesByPace(16, [pace(0, 100), pace(0, 300)]), [12, 4]);
  // 800 + 8 x 100 = 16 x 100: the second would be done with a ninth one after 1,700 ms, the first with a 17th too.
  t.deepEqual(sharesByPace(24, [pace(0, 100), pace(800, 100)]), [16, 8]);
  // The least, one sequence, although it holds the step up.
  t.deepEqual(sharesByPace(4, [pace(0, 1), pace(0, 1_000)]), [3, 1]);
  // Fewer sequences than trainers: the slow one goes without, the fast one gets two.
  t.deepEqual(sharesByPace(2, [pace(0, 1_000), pace(0, 10), pace(0, 100)]), [0, 2, 0]);
  t.deepEqual(sharesByPace(2, []), []);
});

test('all sequences are given out, nobody goes without if there are enough, and no other shares end sooner', (t) => {
  const lastMs = (shares: readonly number[], all: readonly Pace[]): number =>
    Math.max(...shares.map((n, i) => (n === 0 ? 0 : all[i]!.fixedMs + n * all[i]!.msPerSequence)));
  /** All ways to share `count` among `parts` with at least `least` each. */
  const ways = (count: number, parts: number, least: number): number[][] =>
    parts === 1
      ? count < least
        ? []
        : [[count]]
      : Array.from({ length: Math.max(0, count - least + 1) }, (_, i) => least + i).flatMap((first) =>
          ways(count - first, parts - 1, least).map((rest) => [first, ...rest]),
        );
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 9 }), paces, (count, all) => {
      const shares = sharesByPace(count, all);
      const least = count < all.length ? 0 : 1;
      t.is(
        shares.reduce((sum, n) => sum + n, 0),
        count,
      );
      t.true(shares.every((n) => n >= least));
      const best = Math.min(...ways(count, all.length, least).map((way) => lastMs(way, all)));
      t.is(lastMs(shares, all), best);
    }),
    { numRuns: 60 },
  );
});

test('equal paces give equal shares', (t) => {
  fc.assert(
    fc.property(fc.nat(40), fc.integer({ min: 1, max: 9 }), (count, trainers) => {
      const ids = Array.from({ length: trainers }, (_, i) => `t${i}`);
      const positions = Array.from({ length: count }, (_, i) => i);
      const shares = sharesByPace(
        count,
        ids.map(() => ({ fixedMs: 30, msPerSequence: 7 })),
      );
      t.deepEqual(
        shares.filter((n) => n > 0),
        shardEqually(positions, ids).map((shard) => shard.positions.length),
      );
    }),
  );
});

test('the estimate: time a sequence, the fixed cost once shares differ, and no odd step', (t) => {
  t.is(estimatePace([]), null);
  t.deepEqual(estimatePace(observed([4, 1_000])), { fixedMs: 0, msPerSequence: 250 });
  // 200 ms and 100 ms for each of 4 and 8 sequences.
  t.deepEqual(estimatePace(observed([4, 600], [8, 1_000])), { fixedMs: 200, msPerSequence: 100 });
  // 7 of 8: too much alike to tell.
  t.deepEqual(estimatePace(observed([7, 700], [8, 1_000])), { fixedMs: 0, msPerSequence: 100 });
  // The odd step is slow: first, last or in between.
  t.deepEqual(estimatePace(observed([4, 9_000], [4, 400])), { fixedMs: 0, msPerSequence: 100 });
  t.deepEqual(estimatePace(observed([4, 400], [6, 600], [4, 9_000])), { fixedMs: 0, msPerSequence: 100 });
  // Never more than half of the shortest answer, and never less than nothing.
  t.deepEqual(estimatePace(observed([4, 400], [8, 400])), { fixedMs: 200, msPerSequence: 25 });
  t.deepEqual(estimatePace(observed([2, 100], [4, 400])), { fixedMs: 0, msPerSequence: 50 });
});

type Said = Event extends infer E ? (E extends Event ? Omit<E, 'nowMs'> : never) : never;

/** A run with trainers a and b that has begun; `say` tells the core something at a time. */
function run(plan: Partial<RunPlan>) {
  let state: RunState = freshState({ totalSteps: 200, batchSequences: 8, sharding: 'adaptive', ...plan });
  const say = (nowMs: number, event: Said): void => {
    state = advance(state, { ...event, nowMs } as Event).state;
  };
  for (const trainerId of ['a', 'b']) say(0, { type: 'trainerJoined', trainerId });
  for (const trainerId of ['a', 'b']) say(0, { type: 'trainerReady', trainerId, sequence: 0 });
  const commit = (nowMs: number): void => {
    const { phase } = state;
    if (phase.phase !== 'committing') throw new Error(`nothing is to be committed while ${phase.phase}`);
    say(nowMs, { type: 'recordCommitted', step: phase.step, kind: phase.kind, sequence: state.sequence + 1 });
  };
  const contribute = (nowMs: number, trainerId: string): void =>
    say(nowMs, { type: 'contributionReceived', trainerId, step: state.step + 1, tokens: 8, lossSum: 1 });
  const shares = (): string =>
    'shards' in state.phase
      ? state.phase.shards.map(({ trainerId, positions }) => `${trainerId}:${positions.length}`).join(' ')
      : state.phase.phase;
  return { say, commit, contribute, shares, state: () => state };
}

test('in a step with a refresh only the time to the first sketch counts', (t) => {
  const { say, commit, contribute, shares, state } = run({
    projectedSlots: [0],
    refreshRounds: 1,
    updateProjGap: 100,
  });
  t.is(shares(), 'a:4 b:4');
  const sketch = (nowMs: number, trainerId: string): void =>
    say(nowMs, { type: 'sketchReceived', trainerId, step: 1, round: 1, tokens: 8 });
  sketch(1_000, 'a');
  sketch(3_000, 'b');
  say(9_000, { type: 'factorReceived', trainerId: 'a', step: 1, round: 1, slots: [0] });
  commit(9_000);
  // Both contribute after the same wait for others.
  contribute(9_500, 'b');
  contribute(9_500, 'a');
  commit(9_500);
  t.deepEqual(
    state().trainers.map((trainer) => trainer.observed.map(({ elapsedMs }) => elapsedMs)),
    [[1_000], [3_000]],
  );
  t.is(shares(), 'a:6 b:2');
});

test('equal shares stay equal whatever the pace, and held-out sequences are shared by pace, too', (t) => {
  for (const sharding of ['equal', 'adaptive'] as const) {
    const { commit, contribute, shares } = run({ sharding, evaluationEvery: 1, evaluationSequences: 16 });
    contribute(1_000, 'a');
    contribute(3_000, 'b');
    commit(3_000);
    t.is(shares(), sharding === 'adaptive' ? 'a:12 b:4' : 'a:8 b:8');
  }
});

test('sites take of their own by how many they have, one at least; together as many as with equal shares', (t) => {
  const join = (plan: Partial<RunPlan>, sizes: readonly number[]): RunState => {
    let state = freshState({
      isLocal: true,
      localExamples: 16,
      startTrainers: sizes.length,
      maxTrainers: 8,
      ...plan,
    });
    for (const [i, examples] of sizes.entries()) {
      const trainerId = String.fromCharCode(97 + i);
      state = advance(state, { type: 'trainerJoined', trainerId, nowMs: 0 }).state;
      state = advance(state, { type: 'trainerReady', trainerId, sequence: 0, examples, nowMs: 0 }).state;
    }
    return state;
  };
  const sharesOf = ({ phase }: RunState): readonly unknown[] =>
    'shards' in phase ? phase.shards.map(({ localExamples }) => localExamples) : [];
  t.deepEqual(sharesOf(join({}, [625, 218, 202, 767, 738])), [16, 16, 16, 16, 16]);
  const state = join({ sharding: 'examples' }, [625, 218, 202, 767, 738]);
  t.deepEqual(sharesOf(state), [20, 7, 6, 24, 23]);
  t.deepEqual(sharesOf(join({ sharding: 'examples' }, [1, 1, 1e12])), [1, 1, 46]);
  // Of those who are left each has more.
  const gone = advance(state, { type: 'trainerLost', trainerId: 'd', reason: 'gone', nowMs: 1 }).state;
  const ids = gone.trainers.map(({ trainerId }) => trainerId);
  t.deepEqual(
    shardAmong(gone, ids, []).map(({ localExamples }) => localExamples),
    [22, 8, 7, 27],
  );
});

test('a slow trainer that gets no sequence is tried again after a while', (t) => {
  const { say, commit, contribute, shares } = run({ batchSequences: 2 });
  contribute(1_000, 'a');
  contribute(9_000, 'b');
  commit(9_000);
  say(9_000, { type: 'trainerJoined', trainerId: 'c' });
  say(9_000, { type: 'trainerReady', trainerId: 'c', sequence: 1 });
  let nowMs = 9_000;
  const members = new Set<string>();
  for (let step = 2; step < PACE_MEMORY_STEPS + 4; step++) {
    const ids = shares().split(' ');
    for (const share of ids) {
      const [trainerId = '', sequences = ''] = share.split(':');
      if (step > 2) members.add(trainerId);
      nowMs += trainerId === 'b' ? 9_000 : 1_000 * Number(sequences);
      contribute(nowMs, trainerId);
    }
    commit(nowMs);
    if (step === PACE_MEMORY_STEPS - 1) t.false(members.has('b'));
  }
  t.true(members.has('b'));
});
