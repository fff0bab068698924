import test from 'ava';
import { createClock } from '../../src/simulation/clock.ts';
import { createDice } from '../../src/simulation/dice.ts';

test('actions run in the order of their times, those of one time in the order they were scheduled', (t) => {
  const clock = createClock();
  const dice = createDice(1, 'clock test');
  const seen: [number, number][] = [];
  for (let i = 0; i < 500; i++) {
    const delayMs = Math.floor(20 * dice());
    clock.schedule(delayMs, () => seen.push([clock.nowMs(), i]));
  }
  clock.run(1_000, () => false);
  const ordered = [...seen].sort(([a, i], [b, j]) => a - b || i - j);
  t.is(seen.length, 500);
  t.deepEqual(seen, ordered);
});

test('time stops at the limit', (t) => {
  const clock = createClock();
  const seen: number[] = [];
  clock.schedule(10, () => seen.push(10));
  clock.schedule(11, () => seen.push(11));
  clock.run(10, () => false);
  t.deepEqual(seen, [10]);
  t.is(clock.nowMs(), 10);
});

test('a repeated action goes on until it is stopped, from within too', (t) => {
  const clock = createClock();
  const seen: number[] = [];
  const stop = clock.repeat(10, () => {
    seen.push(clock.nowMs());
    if (seen.length === 3) stop();
  });
  clock.run(1_000, () => false);
  t.deepEqual(seen, [10, 20, 30]);
});
