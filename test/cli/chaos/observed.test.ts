// What `galore chaos` reads from logs, and how it accounts for steps.
import test from 'ava';
import { accountSteps, readLogLine } from '../../../src/cli/chaos/observed.ts';

const told = (...steps: readonly (readonly [number, number])[]): { step: number; loss: number }[] =>
  steps.map(([step, loss]) => ({ step, loss }));

test('the lines that matter are read, all others passed over', (t) => {
  const line = (fields: object): string => JSON.stringify({ level: 'info', ...fields });
  const notice = { event: 'run.notice', text: 'listening on ws://127.0.0.1:40123/; waiting for 2 to join' };
  t.deepEqual(readLogLine(line(notice)), { type: 'listening', port: 40_123 });
  const leading = {
    event: 'run.notice',
    text: 'leading the run from step 4 on (epoch 2); trainers join at ws://a/',
  };
  t.deepEqual(readLogLine(line(leading)), { type: 'leading', epoch: 2 });
  const standingBy = {
    event: 'run.notice',
    text: 'standing by: the run in nats://a is mirrored up to step 4',
  };
  t.deepEqual(readLogLine(line(standingBy)), { type: 'standingBy' });
  t.is(readLogLine(line({ event: 'run.notice', text: 'stopping after this step' })), null);
  t.deepEqual(readLogLine(line({ event: 'run.step', step: 3, loss: 1.5, tokens: 9 })), {
    ...{ type: 'step', step: 3, loss: 1.5 },
  });
  t.deepEqual(readLogLine(line({ event: 'run.completed', step: 9, weightsSha256: 'ab' })), {
    ...{ type: 'completed', step: 9, weightsSha256: 'ab' },
  });
  t.deepEqual(readLogLine(line({ event: 'trainer.weights', step: 9, weightsSha256: 'ab' })), {
    ...{ type: 'weights', step: 9, weightsSha256: 'ab' },
  });
  for (const text of [
    '',
    'a line for people',
    '{"event":"run.step","st',
    line({ event: 'run.checkpoint' }),
  ]) {
    t.is(readLogLine(text), null);
  }
});

test('nothing is lost when every step that was told is there as it was told', (t) => {
  const steps = told([1, 5], [2, 4], [3, 3]);
  t.deepEqual(accountSteps(steps, steps, 3), { lost: [], duplicate: [] });
  // A coordinator that is killed may not get to tell of a step that is on disk.
  t.deepEqual(accountSteps(told([1, 5], [3, 3]), steps, 3), { lost: [], duplicate: [] });
});

test('a step that is gone, that became another, that is there or was told twice is found', (t) => {
  const kept = told([1, 5], [2, 4]);
  t.deepEqual(accountSteps(told([1, 5]), kept, 3), { lost: [3], duplicate: [] });
  t.deepEqual(accountSteps(told([1, 5], [2, 4.5], [2, 4]), kept, 2), { lost: [2], duplicate: [2] });
  t.deepEqual(accountSteps(kept, [...kept, ...told([2, 4])], 2), { lost: [], duplicate: [2] });
});
