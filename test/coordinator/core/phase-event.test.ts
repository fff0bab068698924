// Every phase meets every event, legal or not. The grid below is written by hand: one row for each
// event (and each way it can come), one column for each phase.
//
//   +  it is accepted: the state goes on, or commands are given
//   i  it is ignored, and a note says why
//   .  nothing changes and there is nothing to say
//   r  the trainer is told that its work is not used (rejectStep)
//   x  the trainer's connection is closed: it breaks the protocol
//   n  the trainer's connection is closed: its numbers cannot be
//   f  the trainer's connection is closed: the run has ended
//   !  a fault of our own: an assertion fails
//
// In all phases a and b are at work on step 2 (or have been on step 1), c is ready but not in the step,
// d is loading, l is lagging since step 1, z is unknown. Round 2 of 3 is under way in a refresh.
import test from 'ava';
import { advance } from '../../../src/coordinator/core/advance.ts';
import { ById } from '../../../src/coordinator/core/by-id.ts';
import type { Event, Phase, RunState, TrainerState } from '../../../src/coordinator/core/state.ts';
import { freshState } from './plan.ts';

const NOW_MS = 5_000;

type EventWithoutTime = Event extends infer E ? (E extends Event ? Omit<E, 'nowMs'> : never) : never;

const trainer = (trainerId: string, status: TrainerState['status']): TrainerState => ({
  trainerId,
  status,
  lastSeenMs: 4_000,
  joinedSequence: 2,
  laggingSinceMs: status === 'lagging' ? 3_000 : null,
  asked: null,
  observed: [],
});

const shards = [
  { trainerId: 'a', positions: [0, 1] },
  { trainerId: 'b', positions: [2, 3] },
];
const fromA = { trainerId: 'a', tokens: 10, lossSum: 20 };
const cursor = { next: 4, returned: [] };
const deadlineMs = 10_000;

/** The columns. W waits for more trainers; B and U write a basis and an update; P waits for room for one; N is finishing. */
const PHASES: Readonly<Record<string, Phase>> = {
  W: { phase: 'waiting', notBeforeMs: null },
  S: { phase: 'sketching', step: 2, round: 2, slots: [0, 1], shards, received: ById.of([fromA]), deadlineMs },
  F: {
    phase: 'factorising',
    step: 2,
    round: 2,
    slots: [0, 1],
    shards,
    jobs: [
      { trainerId: 'a', slots: [0], isDone: true },
      { trainerId: 'b', slots: [1], isDone: false },
    ],
    deadlineMs,
  },
  B: { phase: 'committing', step: 2, kind: 'basis', shards, received: [], cursor },
  C: { phase: 'collecting', step: 2, shards, received: ById.of([fromA]), deadlineMs },
  U: { phase: 'committing', step: 2, kind: 'update', shards, received: [fromA], cursor },
  P: {
    phase: 'committing',
    step: 2,
    kind: 'update',
    shards,
    received: [fromA],
    cursor,
    pause: { reason: 'full', sinceMs: 4_000, tries: 1, retryAtMs: deadlineMs },
  },
  E: { phase: 'evaluating', step: 1, shards: shards.slice(1), received: [fromA], deadlineMs },
  N: { phase: 'finishing', outcome: 'stopped', tried: ['a'] },
  X: { phase: 'finished', outcome: 'stopped' },
};
const COLUMNS = 'W S F B C U P E N X'.split(' ');

const failure = { type: 'recordFailed', step: 2, kind: 'update', sequence: 3, reason: 'full' } as const;

/** The rows. What is said of a trainer is its part in step 2. */
const EVENTS: Readonly<Record<string, EventWithoutTime>> = {
  'trainerJoined n, new': { type: 'trainerJoined', trainerId: 'n' },
  'trainerJoined b, anew': { type: 'trainerJoined', trainerId: 'b' },
  'trainerReady d, loading': { type: 'trainerReady', trainerId: 'd', sequence: 2 },
  'trainerReady d, behind': { type: 'trainerReady', trainerId: 'd', sequence: 1 },
  'trainerReady d, ahead': { type: 'trainerReady', trainerId: 'd', sequence: 9 },
  'trainerReady l, lagging': { type: 'trainerReady', trainerId: 'l', sequence: 2 },
  'trainerReady a, ready': { type: 'trainerReady', trainerId: 'a', sequence: 2 },
  'capacityTold a': { type: 'capacityTold', trainerId: 'a', trainers: 4 },
  'capacityTold z, unknown': { type: 'capacityTold', trainerId: 'z', trainers: 4 },
  'trainerSeen a': { type: 'trainerSeen', trainerId: 'a' },
  'trainerSeen z, unknown': { type: 'trainerSeen', trainerId: 'z' },
  'trainerLost a, has answered': { type: 'trainerLost', trainerId: 'a', reason: 'cut' },
  'trainerLost b, awaited': { type: 'trainerLost', trainerId: 'b', reason: 'cut' },
  'trainerLost b, refused': { type: 'trainerLost', trainerId: 'b', reason: 'NaN', isRefused: true },
  'trainerLost c, not in the step': { type: 'trainerLost', trainerId: 'c', reason: 'cut' },
  'trainerLost z, unknown': { type: 'trainerLost', trainerId: 'z', reason: 'cut' },
  'sketchReceived b, awaited': { type: 'sketchReceived', trainerId: 'b', step: 2, round: 2, tokens: 9 },
  'sketchReceived a, again': { type: 'sketchReceived', trainerId: 'a', step: 2, round: 2, tokens: 9 },
  'sketchReceived b, round 1': { type: 'sketchReceived', trainerId: 'b', step: 2, round: 1, tokens: 9 },
  'sketchReceived b, round 3': { type: 'sketchReceived', trainerId: 'b', step: 2, round: 3, tokens: 9 },
  'sketchReceived c, not asked': { type: 'sketchReceived', trainerId: 'c', step: 2, round: 2, tokens: 9 },
  'sketchReceived l, lagging': { type: 'sketchReceived', trainerId: 'l', step: 2, round: 2, tokens: 9 },
  'sketchReceived b, step 1': { type: 'sketchReceived', trainerId: 'b', step: 1, round: 2, tokens: 9 },
  'sketchReceived b, step 4': { type: 'sketchReceived', trainerId: 'b', step: 4, round: 2, tokens: 9 },
  'sketchReceived b, NaN': { type: 'sketchReceived', trainerId: 'b', step: 2, round: 2, tokens: NaN },
  'sketchReceived z, unknown': { type: 'sketchReceived', trainerId: 'z', step: 2, round: 2, tokens: 9 },
  'factorReceived b, awaited': { type: 'factorReceived', trainerId: 'b', step: 2, round: 2, slots: [1] },
  'factorReceived a, again': { type: 'factorReceived', trainerId: 'a', step: 2, round: 2, slots: [0] },
  'factorReceived b, slot 7': { type: 'factorReceived', trainerId: 'b', step: 2, round: 2, slots: [7] },
  'factorReceived b, round 1': { type: 'factorReceived', trainerId: 'b', step: 2, round: 1, slots: [1] },
  'factorReceived b, round 3': { type: 'factorReceived', trainerId: 'b', step: 2, round: 3, slots: [1] },
  'factorReceived c, not asked': { type: 'factorReceived', trainerId: 'c', step: 2, round: 2, slots: [1] },
  'factorReceived l, lagging': { type: 'factorReceived', trainerId: 'l', step: 2, round: 2, slots: [1] },
  'factorReceived b, step 1': { type: 'factorReceived', trainerId: 'b', step: 1, round: 2, slots: [1] },
  'factorReceived b, step 4': { type: 'factorReceived', trainerId: 'b', step: 4, round: 2, slots: [1] },
  'contributionReceived b, awaited': contribution('b', 2),
  'contributionReceived a, again': contribution('a', 2),
  'contributionReceived c, not asked': contribution('c', 2),
  'contributionReceived d, loading': contribution('d', 2),
  'contributionReceived l, lagging': contribution('l', 2),
  'contributionReceived l, step 1': contribution('l', 1),
  'contributionReceived b, step 1': contribution('b', 1),
  'contributionReceived b, step 3': contribution('b', 3),
  'contributionReceived b, NaN': { ...contribution('b', 2), lossSum: NaN },
  'recordCommitted basis': { type: 'recordCommitted', step: 2, kind: 'basis', sequence: 3 },
  'recordCommitted update': { type: 'recordCommitted', step: 2, kind: 'update', sequence: 3 },
  'recordCommitted update, record 5': { type: 'recordCommitted', step: 2, kind: 'update', sequence: 5 },
  'recordCommitted update, step 1': { type: 'recordCommitted', step: 1, kind: 'update', sequence: 3 },
  'recordFailed basis': { ...failure, kind: 'basis' },
  'recordFailed update': { ...failure, kind: 'update' },
  'recordFailed update, record 5': { ...failure, kind: 'update', sequence: 5 },
  'evaluationReceived b, awaited': evaluation('b', 1),
  'evaluationReceived a, again': evaluation('a', 1),
  'evaluationReceived l, lagging': evaluation('l', 1),
  'evaluationReceived b, step 2': evaluation('b', 2),
  'evaluationReceived b, NaN': { ...evaluation('b', 1), lossSum: Infinity },
  'stateHashReceived a': hash('a', 1, '12'),
  'stateHashReceived a, step 0': hash('a', 0, '12'),
  'stateHashReceived a, step 2': hash('a', 2, '12'),
  'stateHashReceived a, step 3': hash('a', 3, '12'),
  'snapshotProgressed a, asked': { type: 'snapshotProgressed', trainerId: 'a', step: 1 },
  'snapshotReceived a, asked': { type: 'snapshotReceived', trainerId: 'a', step: 1 },
  'snapshotReceived c, local': { type: 'snapshotReceived', trainerId: 'c', step: 1 },
  'snapshotReceived b, not asked': { type: 'snapshotReceived', trainerId: 'b', step: 1 },
  'snapshotReceived a, step 4': { type: 'snapshotReceived', trainerId: 'a', step: 4 },
  checkpointWritten: { type: 'checkpointWritten', step: 1 },
  'checkpointWritten, given up': { type: 'checkpointWritten', step: 0 },
  checkpointFailed: { type: 'checkpointFailed', step: 1, reason: 'no space' },
  'checkpointFailed, given up': { type: 'checkpointFailed', step: 0, reason: 'no space' },
  stopRequested: { type: 'stopRequested' },
  ticked: { type: 'ticked' },
  'ticked, past the deadline': { type: 'ticked' },
};

const GRID = `
                                     W S F B C U P E N X
  trainerJoined n, new               + + + + + + + + + f
  trainerJoined b, anew              + + + + + + + + + f
  trainerReady d, loading            + + + + + + + + + i
  trainerReady d, behind             i i i i i i i i i i
  trainerReady d, ahead              x x x x x x x x x i
  trainerReady l, lagging            + + + + + + + + + i
  trainerReady a, ready              i . . . . . . . i i
  capacityTold a                     + + + + + + + + + i
  capacityTold z, unknown            x x x x x x x x x i
  trainerSeen a                      i . . . . . . . i i
  trainerSeen z, unknown             x x x x x x x x x i
  trainerLost a, has answered        + + + + + + + + + i
  trainerLost b, awaited             + + + + + + + + + i
  trainerLost b, refused             + + + + + + + + + i
  trainerLost c, not in the step     + + + + + + + + + i
  trainerLost z, unknown             i i i i i i i i i i
  sketchReceived b, awaited          r + i i i i i x r i
  sketchReceived a, again            r i i i i i i x r i
  sketchReceived b, round 1          r i i i i i i x r i
  sketchReceived b, round 3          r x x i i i i x r i
  sketchReceived c, not asked        r r r r r r r x r i
  sketchReceived l, lagging          r r r r i i i x r i
  sketchReceived b, step 1           r r r r r r r r r i
  sketchReceived b, step 4           x x x x x x x x x i
  sketchReceived b, NaN              n n n n n n n n n i
  sketchReceived z, unknown          x x x x x x x x x i
  factorReceived b, awaited          r x + i i i i x r i
  factorReceived a, again            r x i i i i i x r i
  factorReceived b, slot 7           r x x i i i i x r i
  factorReceived b, round 1          r i i i i i i x r i
  factorReceived b, round 3          r x x i i i i x r i
  factorReceived c, not asked        r r r r r r r x r i
  factorReceived l, lagging          r r r r i i i x r i
  factorReceived b, step 1           r r r r r r r r r i
  factorReceived b, step 4           x x x x x x x x x i
  contributionReceived b, awaited    r x x x + i i x r i
  contributionReceived a, again      r x x x i i i x r i
  contributionReceived c, not asked  r r r r r r r x r i
  contributionReceived d, loading    r r r r r r r x r i
  contributionReceived l, lagging    r r r r r r r x r i
  contributionReceived l, step 1     r r r r r r r r r i
  contributionReceived b, step 1     r r r r r r r r r i
  contributionReceived b, step 3     x x x x x x x x x i
  contributionReceived b, NaN        n n n n n n n n n i
  recordCommitted basis              ! ! ! + ! ! ! ! ! !
  recordCommitted update             ! ! ! ! ! + ! ! ! !
  recordCommitted update, record 5   ! ! ! ! ! ! ! ! ! !
  recordCommitted update, step 1     ! ! ! ! ! ! ! ! ! !
  recordFailed basis                 ! ! ! + ! ! ! ! ! !
  recordFailed update                ! ! ! ! ! + ! ! ! !
  recordFailed update, record 5      ! ! ! ! ! ! ! ! ! !
  evaluationReceived b, awaited      i i i i i i i + i i
  evaluationReceived a, again        i i i i i i i i i i
  evaluationReceived l, lagging      + + + + + + + + + i
  evaluationReceived b, step 2       x x x x x x x x x i
  evaluationReceived b, NaN          n n n n n n n n n i
  stateHashReceived a                + + + + + + + + + i
  stateHashReceived a, step 0        i i i i i i i i i i
  stateHashReceived a, step 2        x x x i x i i x x i
  stateHashReceived a, step 3        x x x x x x x x x i
  snapshotProgressed a, asked        + + + + + + + + + i
  snapshotReceived a, asked          + + + + + + + + + i
  snapshotReceived c, local          + + + + + + + + + i
  snapshotReceived b, not asked      i i i i i i i i i i
  snapshotReceived a, step 4         x x x x x x x x x i
  checkpointWritten                  + + + + + + + + + i
  checkpointWritten, given up        i i i i i i i i i i
  checkpointFailed                   + + + + + + + + + i
  checkpointFailed, given up         i i i i i i i i i i
  stopRequested                      + + + + + + + + + i
  ticked                             i i i i i i i i i i
  ticked, past the deadline          i + + i + i + + i i
`;

function contribution(trainerId: string, step: number) {
  return { type: 'contributionReceived', trainerId, step, tokens: 9, lossSum: 18 } as const;
}

function evaluation(trainerId: string, step: number) {
  return { type: 'evaluationReceived', trainerId, step, tokens: 9, lossSum: 18 } as const;
}

function hash(trainerId: string, step: number, weightsSha256: string) {
  return { type: 'stateHashReceived', trainerId, step, weightsSha256 } as const;
}

/** Step 1 is committed, record 2 is the newest; in C, U and P the bases of step 2 are record 2. */
function stateOf(column: string): RunState {
  const phase = PHASES[column] as Phase;
  const from = { step: 1, sequence: 2, refreshedStep: 'CUP'.includes(column) ? 2 : 0, nowMs: 4_000 };
  const plan = {
    startTrainers: 9,
    minTrainers: 9,
    maxTrainers: 9,
    projectedSlots: [0, 1],
    firstRefreshRounds: 3,
    refreshRounds: 3,
  };
  const asked = { awaited: ['a', 'c'], received: [] };
  const checkpoint = { step: 1, trainerId: 'a', status: 'requested', ...asked, progressedMs: 4_000 } as const;
  const statuses = { a: 'ready', b: 'ready', c: 'ready', d: 'loading', l: 'lagging' } as const;
  return {
    ...freshState({ ...plan, heartbeatTimeoutMs: 60_000 }, from),
    phase,
    checkpoint: column === 'X' ? null : checkpoint,
    attendance: { step: 2, assigned: ['a', 'b'], late: [], waitMs: 0, firstAnswerMs: null },
    hashes: { step: 1, expected: ['a', 'b', 'c'], byTrainer: [] },
    trainers: ById.of(Object.entries(statuses).map(([trainerId, status]) => trainer(trainerId, status))),
  };
}

function outcomeOf(column: string, row: string): string {
  const state = stateOf(column);
  const nowMs = row.includes('deadline') ? deadlineMs : NOW_MS;
  const event = { ...(EVENTS[row] as EventWithoutTime), nowMs } as Event;
  let transition;
  try {
    transition = advance(state, event);
  } catch {
    return '!';
  }
  for (const effect of transition.effects) {
    if (effect.type === 'rejectStep') return 'r';
    if (effect.type === 'closeConnection') {
      return effect.reason === 'UNEXPECTED_MESSAGE'
        ? 'x'
        : effect.reason === 'INVALID_CONTRIBUTION'
          ? 'n'
          : 'f';
    }
  }
  const isUnchanged = timeless(transition.state) === timeless(state);
  if (transition.effects.length > 0 || !isUnchanged) return '+';
  return transition.note === undefined ? '.' : 'i';
}

/** The state but for the times at which someone was seen. */
function timeless(state: RunState): string {
  const trainers = ById.of(state.trainers.map((each) => ({ ...each, lastSeenMs: 0 })));
  return JSON.stringify({ ...state, nowMs: 0, trainers });
}

function readGrid(): ReadonlyMap<string, readonly string[]> {
  const [, ...lines] = GRID.split('\n').filter((line) => line.trim() !== '');
  return new Map(
    lines.map((line) => {
      const cells = line.trimEnd().slice(-2 * COLUMNS.length);
      return [line.slice(0, line.length - cells.length).trim(), cells.trim().split(' ')];
    }),
  );
}

const grid = readGrid();

test('the grid has every phase, every event and nothing else', (t) => {
  const everyEvent: Record<Event['type'], true> = {
    trainerJoined: true,
    trainerReady: true,
    capacityTold: true,
    trainerSeen: true,
    trainerLost: true,
    sketchReceived: true,
    factorReceived: true,
    contributionReceived: true,
    recordCommitted: true,
    recordFailed: true,
    evaluationReceived: true,
    stateHashReceived: true,
    snapshotProgressed: true,
    snapshotReceived: true,
    checkpointWritten: true,
    checkpointFailed: true,
    stopRequested: true,
    ticked: true,
  };
  const everyPhase: Record<Phase['phase'], true> = {
    waiting: true,
    sketching: true,
    factorising: true,
    collecting: true,
    committing: true,
    evaluating: true,
    finishing: true,
    finished: true,
  };
  const events = new Set(Object.values(EVENTS).map((event) => event.type));
  const phases = new Set(Object.values(PHASES).map(({ phase }) => phase));
  t.deepEqual([...events].sort(), Object.keys(everyEvent).sort() as Event['type'][]);
  t.deepEqual([...phases].sort(), Object.keys(everyPhase).sort() as Phase['phase'][]);
  t.deepEqual([...grid.keys()], Object.keys(EVENTS));
  t.deepEqual(Object.keys(PHASES), COLUMNS);
  for (const [row, cells] of grid) t.is(cells.length, COLUMNS.length, row);
});

for (const [column, index] of COLUMNS.map((name, i) => [name, i] as const)) {
  const { phase } = PHASES[column] as Phase;
  test(`every event has its answer in phase ${column}, ${phase}`, (t) => {
    const expected = [...grid].map(([row, cells]) => `${cells[index] ?? '?'} ${row}`);
    const actual = [...grid.keys()].map((row) => `${outcomeOf(column, row)} ${row}`);
    t.deepEqual(actual, expected);
  });
}

test('an event never changes the state it is given', (t) => {
  for (const column of COLUMNS) {
    for (const row of grid.keys()) {
      const state = stateOf(column);
      const before = JSON.stringify(state);
      const event = { ...(EVENTS[row] as EventWithoutTime), nowMs: NOW_MS } as Event;
      try {
        advance(state, event);
      } catch {
        // An assertion, as the grid says.
      }
      t.is(JSON.stringify(state), before, `${column}: ${row}`);
    }
  }
});

test('time does not go backwards when an event is older than what was seen', (t) => {
  const { state } = advance(stateOf('C'), { type: 'ticked', nowMs: 3_000 });
  t.is(state.nowMs, 4_000);
});
