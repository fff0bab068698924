// Behaviour that wants numbers rather than a transcript: limits, long waits, odd ids.
import test from 'ava';
import { advance } from '../../../src/coordinator/core/advance.ts';
import { SNAPSHOT_STALL_MS } from '../../../src/coordinator/core/checkpointing.ts';
import { MAX_DEADLINE_DOUBLINGS, waitMs } from '../../../src/coordinator/core/step-policy.ts';
import type { Effect, Event, RunState } from '../../../src/coordinator/core/state.ts';
import { describeEffect } from './describe.ts';
import { freshState } from './plan.ts';

type EventWithoutTime = Event extends infer E ? (E extends Event ? Omit<E, 'nowMs'> : never) : never;

/** Plays events one after another at the state's own time; gives all effects. */
function play(state: RunState, ...events: readonly EventWithoutTime[]): [RunState, readonly Effect[]] {
  const effects: Effect[] = [];
  for (const event of events) {
    const transition = advance(state, { nowMs: state.nowMs, ...event } as Event);
    state = transition.state;
    effects.push(...transition.effects);
  }
  return [state, effects];
}

function withReady(state: RunState, ...trainerIds: readonly string[]): RunState {
  for (const trainerId of trainerIds) {
    const { sequence } = state;
    [state] = play(
      state,
      { type: 'trainerJoined', trainerId },
      { type: 'trainerReady', trainerId, sequence },
    );
  }
  return state;
}

const contribution = (trainerId: string, step: number) =>
  ({ type: 'contributionReceived', trainerId, step, tokens: 5, lossSum: 10 }) as const;

const committed = (step: number, sequence: number) =>
  ({ type: 'recordCommitted', step, kind: 'update', sequence }) as const;

test('trainers are kept, summed and assigned in code-unit order of their ids', (t) => {
  const ids = ['b', 'B', 'a.10', 'a.9', '_', '__proto__', 'constructor'];
  let state = withReady(freshState({ startTrainers: 7, maxTrainers: 7, batchSequences: 7 }), ...ids);
  const ascending = [...ids].sort();
  t.deepEqual(
    state.trainers.map(({ trainerId }) => trainerId),
    ascending,
  );
  let effects: readonly Effect[];
  [state, effects] = play(state, ...ids.map((id) => contribution(id, 1)));
  const commit = effects.find(({ type }) => type === 'commitUpdate');
  t.deepEqual(
    commit?.type === 'commitUpdate' && commit.received.map(({ trainerId }) => trainerId),
    ascending,
  );
});

test('weight hashes of trainers with the names of object properties are compared like all others', (t) => {
  const ids = ['__proto__', 'constructor', 'toString'];
  let state = withReady(freshState({ startTrainers: 3, batchSequences: 3, hashEvery: 1 }), ...ids);
  [state] = play(state, ...ids.map((id) => contribution(id, 1)), committed(1, 1));
  const hash = (trainerId: string, weightsSha256: string) =>
    ({ type: 'stateHashReceived', trainerId, step: 1, weightsSha256 }) as const;
  const [after, effects] = play(
    state,
    hash('constructor', 'aa'),
    hash('__proto__', 'bb'),
    hash('toString', 'aa'),
  );
  t.deepEqual(effects.map(describeEffect), [
    'closeConnection __proto__ reason=STATE_DIVERGED text="the weights after step 1 differ: bb here, aa on 2 trainers"',
  ]);
  t.deepEqual(
    after.hashes?.byTrainer.map(({ trainerId }) => trainerId),
    ['constructor', 'toString'],
  );
});

test('a step that nobody finishes in time gets twice the time at each try, up to 64 times', (t) => {
  let state = withReady(freshState({ startTrainers: 1, heartbeatTimeoutMs: 1e9 }), 'a');
  const waits = [waitMs(state)];
  for (let i = 0; i < MAX_DEADLINE_DOUBLINGS + 2; i++) {
    const nowMs = state.nowMs + waitMs(state);
    ({ state } = advance(state, { type: 'ticked', nowMs }));
    t.is(state.phase.phase, 'waiting');
    [state] = play(state, contribution('a', 1));
    t.is(state.phase.phase, 'collecting');
    waits.push(waitMs(state) / 10_000);
  }
  t.deepEqual(waits, [10_000, 2, 4, 8, 16, 32, 64, 64, 64]);
});

test('without a deadline a step waits for ever', (t) => {
  const state = withReady(freshState({ startTrainers: 1, stepDeadlineMs: 0, heartbeatTimeoutMs: 1e12 }), 'a');
  const { state: after, effects, note } = advance(state, { type: 'ticked', nowMs: 1e11 });
  t.is(after.phase.phase, 'collecting');
  t.deepEqual(effects, []);
  t.is(note, 'step 1: 0 of 1 contributions are here; waiting for a');
});

test('an uploader that sends nothing for ten minutes is dropped and another one is asked', (t) => {
  let state = withReady(
    freshState({ totalSteps: 9, checkpointEvery: 1, heartbeatTimeoutMs: 1e9, stepDeadlineMs: 0 }),
    'a',
    'b',
  );
  [state] = play(state, contribution('a', 1), contribution('b', 1), committed(1, 1));
  t.is(state.checkpoint?.trainerId, 'a');
  [state] = play({ ...state, nowMs: 1_000 }, { type: 'snapshotProgressed', trainerId: 'a', step: 1 });
  const early = advance(state, { type: 'ticked', nowMs: SNAPSHOT_STALL_MS + 999 });
  t.deepEqual(early.effects, []);
  const late = advance(early.state, { type: 'ticked', nowMs: SNAPSHOT_STALL_MS + 1_000 });
  t.deepEqual(late.effects.map(describeEffect), [
    'closeConnection a reason=TIMEOUT text="nothing of the snapshot of step 1 came for 600 s"',
    'abandonCheckpoint step=1',
    'requestSnapshot b step=1 sequence=1 cursor=4/- refreshedStep=0 bases=-',
  ]);
});

test('the checkpoint of a trainer whose weights differ is not used, even when it has arrived whole', (t) => {
  let state = withReady(freshState({ totalSteps: 9, checkpointEvery: 1, hashEvery: 1 }), 'a', 'b', 'c');
  [state] = play(state, ...['a', 'b'].map((id) => contribution(id, 1)), committed(1, 1));
  const snapshot = (trainerId: string) => ({ type: 'snapshotReceived', trainerId, step: 1 }) as const;
  [state] = play(state, snapshot('a'), snapshot('b'));
  t.is(state.checkpoint?.status, 'requested');
  [state] = play(state, snapshot('c'));
  t.is(state.checkpoint?.status, 'writing');
  const hash = (trainerId: string, weightsSha256: string) =>
    ({ type: 'stateHashReceived', trainerId, step: 1, weightsSha256 }) as const;
  const [after, effects] = play(state, hash('a', 'bad'), hash('b', 'good'), hash('c', 'good'));
  t.deepEqual(
    effects.map(({ type }) => type),
    ['abandonCheckpoint', 'closeConnection', 'requestSnapshot', 'requestLocalState'],
  );
  t.is(after.checkpoint?.trainerId, 'b');
});

test('a trainer is refused only when the run is full, and its own old connection does not count', (t) => {
  let state = withReady(freshState({ maxTrainers: 2 }), 'a', 'b');
  let effects: readonly Effect[];
  [state, effects] = play(state, { type: 'trainerJoined', trainerId: 'c' });
  t.deepEqual(
    effects.map(({ type }) => type),
    ['closeConnection'],
  );
  [state, effects] = play(state, { type: 'trainerJoined', trainerId: 'b' });
  t.deepEqual(effects, []);
  t.deepEqual(
    state.trainers.map(({ trainerId }) => trainerId),
    ['a', 'b'],
  );
});

test('a late sketch does not make a trainer ready while its contribution to the same step may follow', (t) => {
  // b misses the sketch of step 1; the bases are committed without it; then its sketch comes. It has
  // seen the new bases too and will contribute. Were it ready at once, and the step begun anew, that
  // contribution would count for sequences it was not computed from.
  const plan = {
    projectedSlots: [0],
    firstRefreshRounds: 1,
    refreshRounds: 1,
    minTrainers: 1,
    heartbeatTimeoutMs: 1e9,
  };
  let state = withReady(freshState(plan), 'a', 'b');
  [state] = play(state, { type: 'sketchReceived', trainerId: 'a', step: 1, round: 1, tokens: 5 });
  ({ state } = advance(state, { type: 'ticked', nowMs: 10_000 }));
  [state] = play(
    state,
    { type: 'factorReceived', trainerId: 'a', step: 1, round: 1, slots: [0] },
    { type: 'recordCommitted', step: 1, kind: 'basis', sequence: 1 },
  );
  const status = (): string | undefined => state.trainers.find(({ trainerId }) => trainerId === 'b')?.status;
  let effects: readonly Effect[];
  [state, effects] = play(state, { type: 'sketchReceived', trainerId: 'b', step: 1, round: 1, tokens: 5 });
  t.deepEqual(effects, []);
  t.is(status(), 'lagging');
  [state, effects] = play(state, contribution('b', 1));
  t.deepEqual(
    effects.map(({ type }) => type),
    ['rejectStep'],
  );
  t.is(status(), 'ready');
});
