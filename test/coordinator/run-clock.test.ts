import test from 'ava';
import { RunClock } from '../../src/coordinator/run-clock.ts';

test('time goes on as it does, but for pauses of the process itself', (t) => {
  let nowMs = 1000;
  const clock = new RunClock({ nowMs: () => nowMs });
  t.is(clock.nowMs(), 1000);
  nowMs += 200;
  t.is(clock.nowMs(), 1200);
  nowMs += 2000; // as long as it may take
  t.is(clock.nowMs(), 3200);
  nowMs += 3_600_000; // an hour asleep
  t.is(clock.nowMs(), 5200);
  nowMs += 1;
  t.is(clock.nowMs(), 5201);
});
