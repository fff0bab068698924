// The plan of faults of `galore chaos`.
import test from 'ava';
import { COORDINATOR, planFaults, VERBS, type FaultPlan } from '../../../src/cli/chaos/faults.ts';

const PLAN: FaultPlan = {
  seed: 1,
  count: 200,
  steps: 100,
  trainerIds: ['a', 'b'],
  verbs: VERBS,
  only: null,
};

test('the same seed gives the same faults, another seed others', (t) => {
  t.deepEqual(planFaults(PLAN), planFaults(PLAN));
  t.notDeepEqual(planFaults(PLAN), planFaults({ ...PLAN, seed: 2 }));
});

test('every kind of fault comes to everyone, in order, in the first four fifths of the run', (t) => {
  const faults = planFaults(PLAN);
  t.is(faults.length, 200);
  t.deepEqual([...new Set(faults.map(({ verb }) => verb))].sort(), [...VERBS].sort());
  t.deepEqual([...new Set(faults.map(({ target }) => target))].sort(), ['a', 'b', COORDINATOR]);
  const steps = faults.map(({ step }) => step);
  t.deepEqual(
    steps,
    [...steps].sort((a, b) => a - b),
  );
  t.true(steps[0]! >= 1 && steps.at(-1)! <= 80);
  t.true(faults.every(({ verb, latencyMs }) => (verb === 'delay') === latencyMs > 0));
});

test('only one role, or one kind, can be asked for', (t) => {
  t.true(planFaults({ ...PLAN, only: 'coordinator' }).every(({ target }) => target === COORDINATOR));
  t.true(planFaults({ ...PLAN, only: 'trainer' }).every(({ target }) => target !== COORDINATOR));
  t.true(planFaults({ ...PLAN, verbs: ['stop'] }).every(({ verb }) => verb === 'stop'));
});
