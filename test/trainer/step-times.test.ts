import test from 'ava';
import { StepTimes } from '../../src/trainer/step-times.ts';

test('a step tells its moments and the work since the step before, once it is applied', (t) => {
  const times = new StepTimes();
  times.mark('assignedMs', 10);
  times.worked(1500);
  times.mark('contributedMs', 20);
  t.is(times.take(), null);
  times.mark('receivedMs', 30);
  times.mark('appliedMs', 40);
  times.worked(500);
  const moments = { assignedMs: 10, contributedMs: 20, receivedMs: 30, appliedMs: 40 };
  t.deepEqual(times.take(), { ...moments, busySeconds: 2 });
  t.is(times.take(), null);
});

test('a step in which the trainer did not take part tells nothing, and its work is not the next one’s', (t) => {
  const times = new StepTimes();
  times.worked(7000);
  times.mark('receivedMs', 1);
  times.mark('appliedMs', 2);
  t.is(times.take(), null);
  for (const moment of ['assignedMs', 'contributedMs', 'receivedMs', 'appliedMs'] as const)
    times.mark(moment, 3);
  times.worked(250);
  t.is(times.take()?.busySeconds, 0.25);
});

test('an assignment that is given again begins anew', (t) => {
  const times = new StepTimes();
  times.mark('assignedMs', 1);
  times.mark('contributedMs', 2);
  times.mark('assignedMs', 5);
  times.mark('receivedMs', 6);
  times.mark('appliedMs', 7);
  t.is(times.take(), null);
});
