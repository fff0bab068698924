import test from 'ava';
import { FAILOVER_FAULTS, kindOf, planFailover } from '../../../src/cli/chaos/failover-faults.ts';

test('faults come in order, as many of each kind, after other steps with another seed', (t) => {
  const plan = { seed: 3, count: 8, steps: 200, kinds: FAILOVER_FAULTS };
  const faults = planFailover(plan);
  const steps = faults.map(({ step }) => step);
  t.deepEqual(
    steps,
    steps.toSorted((a, b) => a - b),
  );
  t.true(steps.every((step) => step >= 1 && step <= 160));
  for (const kind of FAILOVER_FAULTS) t.is(faults.filter((fault) => kindOf(fault) === kind).length, 2, kind);
  t.deepEqual(planFailover(plan), faults);
  t.notDeepEqual(planFailover({ ...plan, seed: 4 }), faults);
});
