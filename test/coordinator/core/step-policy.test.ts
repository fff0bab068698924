import test from 'ava';
import {
  deadlineAfterAnswer,
  deadlineMs,
  quorumOf,
  stepQuorum,
  whyOver,
} from '../../../src/coordinator/core/step-policy.ts';
import { freshState } from './plan.ts';

test('a quorum is a number of trainers, a share rounded up, or all, and never more than there are', (t) => {
  // [configured, of 1 trainer, of 2, of 3, of 4, of 10]
  const table = [
    ['all', 1, 2, 3, 4, 10],
    ['100%', 1, 2, 3, 4, 10],
    ['75%', 1, 2, 3, 3, 8],
    ['50%', 1, 1, 2, 2, 5],
    ['1%', 1, 1, 1, 1, 1],
    [1, 1, 1, 1, 1, 1],
    [3, 1, 2, 3, 3, 3],
    [12, 1, 2, 3, 4, 10],
  ] as const;
  for (const [quorum, ...wanted] of table) {
    const actual = [1, 2, 3, 4, 10].map((trainers) => quorumOf({ quorum }, trainers));
    t.deepEqual(actual, wanted, String(quorum));
  }
  // 7% of 100 in floating point is a little more than 7.
  t.is(quorumOf({ quorum: '7%' }, 100), 7);
});

test('the quorum of a step is one of those who were given work, or all who are left', (t) => {
  const attendance = { step: 1, assigned: ['a', 'b', 'c', 'd'], late: [], waitMs: 0, firstAnswerMs: null };
  const state = { ...freshState({ quorum: '75%' }), attendance };
  t.deepEqual(
    [4, 3, 2, 1].map((left) => stepQuorum(state, left)),
    [3, 3, 2, 1],
  );
});

test('the answer that completes the quorum leaves the others the grace, if the deadline is not sooner', (t) => {
  // The deadline now, answers before, answers with this one, and the deadline then.
  const table = [
    [10_000, 0, 1, 10_000],
    [10_000, 1, 2, 5_000],
    [10_000, 2, 3, 10_000], // the grace was set before
    [10_000, 1, 1, 10_000], // an answer without tokens
    [4_000, 1, 2, 4_000],
    [null, 0, 1, null],
    [null, 1, 2, 5_000],
  ] as const;
  const state = { ...freshState({ graceMs: 2_000 }), nowMs: 3_000 };
  for (const [until, before, now, wanted] of table) {
    t.is(deadlineAfterAnswer(state, { deadlineMs: until, quorum: 2 }, before, now), wanted);
  }
});

test('why nobody is waited for any longer is said with its numbers', (t) => {
  const state = freshState({ graceMs: 2_500 });
  const wait = { deadlineMs: 0, quorum: 2 };
  t.is(whyOver(state, wait, 1, ['b', 'c']), 'the deadline passed without b, c');
  t.is(whyOver(state, wait, 2, ['c']), 'the grace of 2.5 s after 2 answers passed without c');
});

test('without a deadline there is none, and a step that was abandoned gets twice the time', (t) => {
  t.is(deadlineMs(freshState({ stepDeadlineMs: 0 })), null);
  t.is(deadlineMs({ ...freshState(), nowMs: 5, attempts: 0 }), 10_005);
  t.is(deadlineMs({ ...freshState(), nowMs: 5, attempts: 2 }), 40_005);
});
