import test from 'ava';
import { RunWatch } from '../../src/coordinator/run-watch.ts';
import { advance } from '../../src/coordinator/core/advance.ts';
import type { Event, RunPlan } from '../../src/coordinator/core/state.ts';
import { freshState } from './core/plan.ts';

/** Events of the core as they come. */
type Fact = Event extends infer Each ? (Each extends Event ? Omit<Each, 'nowMs'> : never) : never;

function watched(more: Partial<RunPlan> = {}) {
  let state = freshState(more);
  const watch = new RunWatch(state);
  let nowMs = 0;
  return {
    watch,
    tell: (fact: Fact) => {
      const event = { ...fact, nowMs: (nowMs += 10) } as Event;
      const { state: next, effects, note } = advance(state, event);
      state = next;
      watch.see(next, event, effects, note);
      return watch.now(null, { a: { residentBytes: 7 } });
    },
  };
}

test('what is waited for is said in words, from the first trainer to the update on disk', (t) => {
  const { tell } = watched({ startTrainers: 2, projectedSlots: [] });
  t.like(tell({ type: 'ticked' }), { state: 'waiting', activity: 'waiting: 0 of 2 trainers are ready' });
  tell({ type: 'trainerJoined', trainerId: 'a' });
  t.like(tell({ type: 'trainerJoined', trainerId: 'b' }).trainers[0], { trainerId: 'a', state: 'loading' });
  tell({ type: 'trainerReady', trainerId: 'a', sequence: 0 });
  const begun = tell({ type: 'trainerReady', trainerId: 'b', sequence: 0 });
  t.like(begun, {
    state: 'running',
    activity: 'step 1: contributions of 0 of 2 trainers are here; waiting for a, b',
  });
  const one = tell({ type: 'contributionReceived', trainerId: 'a', step: 1, tokens: 4, lossSum: 8 });
  t.is(one.activity, 'step 1: contributions of 1 of 2 trainers are here; waiting for b');
  t.like(one.trainers[0], { trainerId: 'a', state: 'ready', residentBytes: 7, answerSeconds: 0.01 });
  const both = tell({ type: 'contributionReceived', trainerId: 'b', step: 1, tokens: 4, lossSum: 8 });
  t.is(both.activity, 'step 1: the update is being written');
});

test('a trainer that has gone is shown with its reason, and comes back with it', (t) => {
  const { watch, tell } = watched({ startTrainers: 1, projectedSlots: [] });
  tell({ type: 'trainerJoined', trainerId: 'a' });
  const gone = tell({ type: 'trainerLost', trainerId: 'a', reason: 'nothing heard for 30.0 s' });
  t.like(gone.trainers[0], {
    trainerId: 'a',
    state: 'gone',
    reason: 'nothing heard for 30.0 s',
    reasonStep: 0,
  });
  t.is(watch.departures, 1);
  const back = tell({ type: 'trainerJoined', trainerId: 'a' });
  t.like(back.trainers[0], { state: 'loading', reason: 'nothing heard for 30.0 s' });
  t.is(back.trainers.length, 1);
});

test('a full disk is said with its path, and names of strangers do not fill the memory', (t) => {
  const { tell } = watched({ startTrainers: 1, projectedSlots: [] });
  tell({ type: 'trainerJoined', trainerId: 'a' });
  tell({ type: 'trainerReady', trainerId: 'a', sequence: 0 });
  tell({ type: 'contributionReceived', trainerId: 'a', step: 1, tokens: 4, lossSum: 8 });
  const reason = 'the disk is full: /runs/x';
  const paused = tell({ type: 'recordFailed', step: 1, kind: 'update', sequence: 1, reason });
  t.is(paused.state, 'paused');
  t.regex(paused.activity, /paused: the disk is full: \/runs\/x/);
  for (let i = 0; i < 3000; i++) {
    tell({ type: 'trainerJoined', trainerId: `stranger-${i}` });
    tell({ type: 'trainerLost', trainerId: `stranger-${i}`, reason: 'gone' });
  }
  tell({ type: 'trainerSeen', trainerId: 'a' });
  t.is(tell({ type: 'ticked' }).trainers.length, 33); // a, and 32 of those that have gone
});

test('a gateway is shown with those behind it', (t) => {
  const { tell } = watched();
  t.is(tell({ type: 'trainerJoined', trainerId: 'north' }).trainers[0]?.trainers, null);
  t.is(tell({ type: 'capacityTold', trainerId: 'north', trainers: 4 }).trainers[0]?.trainers, 4);
});
