import test from 'ava';
import { countedSteps, SETTLING_STEPS, turnsOf, WARM_UP_STEPS } from '../../../src/cli/wan/turns.ts';

test('links are fast and slow in turns of four steps, behind a warm-up and with steps left out at each change', (t) => {
  t.is(WARM_UP_STEPS, 3);
  t.is(SETTLING_STEPS, 2);
  t.deepEqual(turnsOf(6), [
    { links: 'unshaped', first: 4, last: 7 },
    { links: 'shaped', first: 10, last: 13 },
    { links: 'unshaped', first: 16, last: 17 },
    { links: 'shaped', first: 20, last: 21 },
  ]);
});

test('as many steps are counted of each kind as were asked for', (t) => {
  for (const steps of [1, 2, 4, 5, 8, 11]) {
    const turns = turnsOf(steps);
    t.is(countedSteps(turns, 'shaped').length, steps);
    t.is(countedSteps(turns, 'unshaped').length, steps);
  }
  t.deepEqual(countedSteps(turnsOf(2), 'shaped'), [8, 9]);
});
