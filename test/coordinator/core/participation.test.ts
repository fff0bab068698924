import test from 'ava';
import { advance } from '../../../src/coordinator/core/advance.ts';
import { drawMembers } from '../../../src/coordinator/core/participation.ts';
import type { Transition } from '../../../src/coordinator/core/state.ts';
import { FRUITLESS_PAUSE_MS } from '../../../src/coordinator/core/step-policy.ts';
import { freshState } from './plan.ts';

const IDS = ['a', 'b', 'c', 'd', 'e', 'f', 'g'];

function draw(share: number, step: number, ids: readonly string[] = IDS, minTrainers = 1, seed = 3) {
  return drawMembers({ participation: { share, seed }, minTrainers }, step, 0, ids);
}

test('all are members without a share of them', (t) => {
  t.deepEqual(drawMembers({ participation: null, minTrainers: 1 }, 4, 0, IDS), { members: IDS, others: [] });
  t.deepEqual(draw(1, 4).members, IDS);
});

test('the share is rounded up, and is at least one and the least number of trainers', (t) => {
  const countOf = (share: number, ids: readonly string[], least = 1) =>
    draw(share, 1, ids, least).members.length;
  t.deepEqual(
    [0.001, 1 / 7, 0.15, 0.5, 0.99].map((share) => countOf(share, IDS)),
    [1, 1, 2, 4, 7],
  );
  t.is(countOf(0.1, IDS, 3), 3);
  t.is(countOf(0.1, IDS.slice(0, 2), 3), 2, 'no more than there are');
  const twenty = Array.from({ length: 20 }, (_, i) => `t${i}`);
  t.is(countOf(0.55, twenty.toSorted()), 11, 'and not by a rounding error');
});

test('the lots are of the seed, the step and the ids alone; members and others keep the order', (t) => {
  const { members, others } = draw(0.5, 9);
  t.deepEqual(draw(0.5, 9), { members, others });
  t.deepEqual([...members, ...others].toSorted(), IDS);
  t.deepEqual(members, members.toSorted());
  t.deepEqual(others, others.toSorted());
  const drawn = Array.from({ length: 30 }, (_, step) => draw(0.5, step).members.join());
  t.true(new Set(drawn).size > 10, 'other steps draw others');
  t.notDeepEqual(
    drawn,
    Array.from({ length: 30 }, (_, step) => draw(0.5, step, IDS, 1, 4).members.join()),
    'other seeds too',
  );
});

test('who else is there does not change the lots: without one of them the others keep their order', (t) => {
  for (let step = 1; step <= 20; step++) {
    const three = draw(3 / 7, step).members;
    const without = IDS.filter((id) => id !== three[0]);
    const again = draw(3 / 6, step, without).members;
    t.true(three.slice(1).every((id) => again.includes(id)));
  }
});

test('in many steps every trainer is drawn about as often', (t) => {
  const counts = new Map(IDS.map((id) => [id, 0]));
  for (let step = 1; step <= 2000; step++) {
    for (const id of draw(0.4, step).members) counts.set(id, counts.get(id)! + 1);
  }
  // 3 of 7 in 2000 steps: 857, standard deviation 22.
  for (const [id, count] of counts) t.true(Math.abs(count - 857) < 90, `${id}: ${count}`);
});

test('a step whose one member has no token is tried with others, after a pause', (t) => {
  const state = freshState({ startTrainers: 4, participation: { share: 0.25, seed: 2 } });
  const ids = ['a', 'b', 'c', 'd'];
  let { state: now, effects } = ids.reduce<Transition>(
    (before, trainerId) => {
      const joined = advance(before.state, { type: 'trainerJoined', trainerId, nowMs: 0 });
      return advance(joined.state, { type: 'trainerReady', trainerId, sequence: 0, nowMs: 0 });
    },
    { state, effects: [] },
  );
  const asked = new Set<string>();
  for (let attempt = 0; attempt < 25; attempt++) {
    const assigned = effects.filter((effect) => effect.type === 'assignStep');
    t.is(assigned.length, 1);
    t.is(effects.filter((effect) => effect.type === 'passOver').length, 3);
    const { trainerId, step } = assigned[0]!;
    asked.add(trainerId);
    const empty = { type: 'contributionReceived', trainerId, step, tokens: 0, lossSum: 0 } as const;
    const { state: given } = advance(now, { ...empty, nowMs: now.nowMs });
    t.deepEqual(given.phase, { phase: 'waiting', notBeforeMs: now.nowMs + FRUITLESS_PAUSE_MS });
    ({ state: now, effects } = advance(given, { type: 'ticked', nowMs: now.nowMs + FRUITLESS_PAUSE_MS }));
  }
  t.deepEqual([...asked].toSorted(), ids);
});
