// The trainer's connection state machine: every phase meets every event, and what follows from it.
//
//   +  the phase or the held state changes, or commands are given
//   .  nothing changes but the time at which the coordinator was last heard
//   i  it is ignored, and a note says why
//   b  the socket is closed, the session backs off and will try again
//   s  the same, and the state held is discarded
//   c  the session is closed for good
import test from 'ava';
import { backoffMs, MAX_BACKOFF_MS, MIN_BACKOFF_MS } from '../../../src/trainer/core/backoff.ts';
import {
  advanceSession,
  STABLE_AFTER_MS,
  startSession,
  type SessionEffect,
  type SessionEvent,
  type SessionPhase,
  type SessionPlan,
  type SessionState,
} from '../../../src/trainer/core/session.ts';
import { startRoute } from '../../../src/trainer/core/route.ts';
import { CLOSE_CODES, type CloseReason } from '../../../src/protocol/close-codes.ts';

type EventWithoutTime = SessionEvent extends infer E
  ? E extends SessionEvent
    ? Omit<E, 'nowMs'>
    : never
  : never;

const PLAN: SessionPlan = { seed: 7, handshakeTimeoutMs: 10_000 };
const HELD = { runId: 'run', sequence: 5, digest: 'd5' };
const connection = 3;
const timers = {
  runId: 'run',
  heartbeatIntervalMs: 5_000,
  heartbeatTimeoutMs: 30_000,
  lastSeenMs: 1_000,
  nextHeartbeatMs: 6_000,
};

/** The columns. L is loading from its own state, S from a snapshot; R has said it is ready, A is assigned. */
const PHASES: Readonly<Record<string, SessionPhase>> = {
  C: { phase: 'connecting', sinceMs: 1_000 },
  H: { phase: 'helloing', sinceMs: 1_000 },
  L: { phase: 'loading', timers },
  S: { phase: 'loading', timers },
  R: { phase: 'active', timers, activeSinceMs: 1_000, readySequence: 5, isAssigned: false },
  A: { phase: 'active', timers, activeSinceMs: 1_000, readySequence: 5, isAssigned: true },
  B: { phase: 'backing-off', retryAtMs: 4_000 },
  X: { phase: 'closed', reason: 'LEAVING', text: 'asked to' },
};
const COLUMNS = 'C H L S R A B X'.split(' ');

const goodbye = (reason: CloseReason): EventWithoutTime => ({
  type: 'goodbyeReceived',
  connection,
  code: CLOSE_CODES[reason].code,
  text: 'why',
});
const refused = (reason: CloseReason): EventWithoutTime => ({
  type: 'messageRefused',
  connection,
  reason,
  text: 'why',
});

const welcomed = (hasSnapshot: boolean): EventWithoutTime => ({
  type: 'welcomed',
  connection,
  runId: 'run',
  hasSnapshot,
  heartbeatIntervalMs: 5_000,
  heartbeatTimeoutMs: 30_000,
});

/** The rows. An event that names no socket comes from inside the trainer. */
const EVENTS: Readonly<Record<string, EventWithoutTime>> = {
  socketOpened: { type: 'socketOpened', connection },
  'socketOpened, old': { type: 'socketOpened', connection: 2 },
  'socketClosed 1006': { type: 'socketClosed', connection, code: 1006, text: '' },
  'socketClosed 1006, old': { type: 'socketClosed', connection: 2, code: 1006, text: '' },
  'socketClosed RUN_FINISHED': { type: 'socketClosed', connection, code: 4000, text: 'over' },
  'goodbyeReceived COORDINATOR_STOPPING': goodbye('COORDINATOR_STOPPING'),
  'goodbyeReceived STATE_DIVERGED': goodbye('STATE_DIVERGED'),
  'goodbyeReceived SUPERSEDED': goodbye('SUPERSEDED'),
  'goodbyeReceived RUN_FINISHED': goodbye('RUN_FINISHED'),
  'goodbyeReceived 4999': { type: 'goodbyeReceived', connection, code: 4999, text: '' },
  welcomed: welcomed(false),
  'welcomed, with a snapshot': welcomed(true),
  snapshotReceived: { type: 'snapshotReceived', connection, sequence: 9, digest: 'd9' },
  recordReceived: { type: 'recordReceived', connection, sequence: 6, digest: 'd6' },
  assigned: { type: 'assigned', connection },
  frameReceived: { type: 'frameReceived', connection },
  'frameReceived, old': { type: 'frameReceived', connection: 2 },
  'messageRefused INTERNAL_ERROR': refused('INTERNAL_ERROR'),
  'messageRefused STATE_DIVERGED': refused('STATE_DIVERGED'),
  'messageRefused SCHEMA_MISMATCH': refused('SCHEMA_MISMATCH'),
  stateApplied: { type: 'stateApplied', sequence: 5 },
  stateSpoiled: { type: 'stateSpoiled', text: 'no memory' },
  leaveRequested: { type: 'leaveRequested', text: 'Ctrl-C' },
  addressesFound: { type: 'addressesFound', count: 2 },
  'ticked, soon': { type: 'ticked' },
  'ticked, after 5 s': { type: 'ticked' },
  'ticked, after 40 s': { type: 'ticked' },
};

const GRID = `
                                        C H L S R A B X
  socketOpened                          + i b b b b i i
  socketOpened, old                     i i i i i i i i
  socketClosed 1006                     b b b b b b i i
  socketClosed 1006, old                i i i i i i i i
  socketClosed RUN_FINISHED             c c c c c c i i
  goodbyeReceived COORDINATOR_STOPPING  b b b b b b i i
  goodbyeReceived STATE_DIVERGED        s s s b s s i i
  goodbyeReceived SUPERSEDED            c c c c c c i i
  goodbyeReceived RUN_FINISHED          c c c c c c i i
  goodbyeReceived 4999                  b b b b b b i i
  welcomed                              i + b b b b i i
  welcomed, with a snapshot             i + b b b b i i
  snapshotReceived                      i b + + + + i i
  recordReceived                        i b + + + + i i
  assigned                              i b i i + . i i
  frameReceived                         i b . . . . i i
  frameReceived, old                    i i i i i i i i
  messageRefused INTERNAL_ERROR         b b b b b b i i
  messageRefused STATE_DIVERGED         s s s b s s i i
  messageRefused SCHEMA_MISMATCH        c c c c c c i i
  stateApplied                          i i + i + . i i
  stateSpoiled                          s s s b s s s i
  leaveRequested                        c c c c c c c i
  addressesFound                        + + + + + + + i
  ticked, soon                          i i . . . . i i
  ticked, after 5 s                     i i + + + + + i
  ticked, after 40 s                    b b b b b b + i
`;

function stateOf(column: string): SessionState {
  const phase = PHASES[column] as SessionPhase;
  const route = startRoute(1);
  return { plan: PLAN, phase, connection, route, failures: 1, held: column === 'S' ? null : HELD };
}

function outcomeOf(column: string, row: string): string {
  const state = stateOf(column);
  const nowMs = 1_000 + (row.endsWith('5 s') ? 5_000 : row.endsWith('40 s') ? 40_000 : 1);
  const event = { ...(EVENTS[row] as EventWithoutTime), nowMs } as SessionEvent;
  const { state: after, effects, note } = advanceSession(state, event);
  if (after.phase.phase === 'closed' && column !== 'X') return 'c';
  if (effects.some(({ type }) => type === 'discardState') && after.phase.phase === 'backing-off') return 's';
  if (after.phase.phase === 'backing-off' && column !== 'B') return 'b';
  if (effects.length > 0 || timeless(after) !== timeless(state)) return '+';
  return note === undefined ? '.' : 'i';
}

function timeless(state: SessionState): string {
  return JSON.stringify(state, (key, value: unknown) => (key === 'lastSeenMs' ? 0 : value));
}

const grid = new Map(
  GRID.split('\n')
    .filter((line) => line.trim() !== '')
    .slice(1)
    .map((line) => {
      const cells = line.slice(-2 * COLUMNS.length);
      return [line.slice(0, line.length - cells.length).trim(), cells.trim().split(' ')];
    }),
);

test('the grid has every phase, every event and nothing else', (t) => {
  const everyEvent: Record<SessionEvent['type'], true> = {
    socketOpened: true,
    socketClosed: true,
    goodbyeReceived: true,
    welcomed: true,
    snapshotReceived: true,
    recordReceived: true,
    assigned: true,
    frameReceived: true,
    messageRefused: true,
    stateApplied: true,
    stateSpoiled: true,
    leaveRequested: true,
    addressesFound: true,
    ticked: true,
  };
  const everyPhase: Record<SessionPhase['phase'], true> = {
    connecting: true,
    helloing: true,
    loading: true,
    active: true,
    'backing-off': true,
    closed: true,
  };
  const events = new Set(Object.values(EVENTS).map(({ type }) => type));
  const phases = new Set(Object.values(PHASES).map(({ phase }) => phase));
  t.deepEqual([...events].sort(), Object.keys(everyEvent).sort() as SessionEvent['type'][]);
  t.deepEqual([...phases].sort(), Object.keys(everyPhase).sort() as SessionPhase['phase'][]);
  t.deepEqual([...grid.keys()], Object.keys(EVENTS));
  t.deepEqual(Object.keys(PHASES), COLUMNS);
});

for (const [index, column] of COLUMNS.entries()) {
  const { phase } = PHASES[column] as SessionPhase;
  test(`every event has its answer in phase ${column}, ${phase}`, (t) => {
    const expected = [...grid].map(([row, cells]) => `${cells[index] ?? '?'} ${row}`);
    const actual = [...grid.keys()].map((row) => `${outcomeOf(column, row)} ${row}`);
    t.deepEqual(actual, expected);
  });
}

test('every close code that forbids a retry ends the session, every other one does not', (t) => {
  for (const [reason, { mayRetry }] of Object.entries(CLOSE_CODES)) {
    const event = { ...goodbye(reason as CloseReason), nowMs: 2_000 } as SessionEvent;
    const { phase } = advanceSession(stateOf('A'), event).state;
    t.is(phase.phase, mayRetry ? 'backing-off' : 'closed', reason);
    if (phase.phase === 'closed') t.is(phase.reason, reason as CloseReason);
  }
});

/** Plays events in order; gives the effects as short words. */
function play(state: SessionState, ...events: readonly SessionEvent[]): [SessionState, readonly string[]] {
  const words: string[] = [];
  for (const event of events) {
    const transition = advanceSession(state, event);
    state = transition.state;
    words.push(...transition.effects.map(describe));
  }
  return [state, words];
}

function describe(effect: SessionEffect): string {
  switch (effect.type) {
    case 'sendHello':
      return `sendHello ${effect.held === null ? 'nothing' : effect.held.sequence}`;
    case 'sendReady':
      return `sendReady ${effect.sequence}`;
    case 'openSocket':
      return `openSocket ${effect.connection}`;
    case 'closeSocket':
      return `closeSocket ${effect.connection} ${effect.reason}`;
    case 'report':
      return `report ${effect.status}: ${effect.text}`;
    default:
      return effect.type;
  }
}

test('a trainer that joins anew offers nothing, loads a snapshot and its records, and says Ready', (t) => {
  const start = startSession(PLAN, null, 0);
  const at = { connection: 1, nowMs: 100 };
  const [state, words] = play(
    start.state,
    { type: 'socketOpened', ...at },
    { ...welcomed(true), ...at } as SessionEvent,
    { type: 'stateApplied', sequence: 0, nowMs: 110 },
    { type: 'snapshotReceived', sequence: 4, digest: 'd4', ...at },
    { type: 'stateApplied', sequence: 4, nowMs: 120 },
    { type: 'recordReceived', sequence: 5, digest: 'd5', ...at },
    { type: 'stateApplied', sequence: 5, nowMs: 130 },
    { type: 'assigned', ...at },
    { type: 'recordReceived', sequence: 6, digest: 'd6', ...at },
    { type: 'stateApplied', sequence: 6, nowMs: 140 },
  );
  t.deepEqual(start.effects.map(describe), ['openSocket 1', 'report connecting: connecting']);
  t.deepEqual(words, [
    'sendHello nothing',
    'report loading: joined run run; receiving a snapshot',
    'sendReady 4',
    'report active: ready at record 4',
    'sendReady 5',
    'report active: ready at record 5',
  ]);
  t.deepEqual(state.held, { runId: 'run', sequence: 6, digest: 'd6' });
});

test('a trainer whose connection breaks comes back with the state it holds and says Ready at once', (t) => {
  const [cut, lost] = play(stateOf('A'), {
    type: 'socketClosed',
    connection,
    code: 1006,
    text: '',
    nowMs: 9_000,
  });
  const retryAtMs = 9_000 + backoffMs(PLAN.seed, 2);
  const at = { connection: 4, nowMs: retryAtMs };
  const [, words] = play(
    cut,
    { type: 'ticked', nowMs: retryAtMs - 1 },
    { type: 'ticked', nowMs: retryAtMs },
    { type: 'socketOpened', ...at },
    { ...welcomed(false), ...at } as SessionEvent,
    { type: 'stateApplied', sequence: 5, nowMs: retryAtMs },
  );
  t.deepEqual(lost.slice(0, 2), ['closeSocket 3 TIMEOUT', 'dropWork']);
  t.deepEqual(words, [
    'openSocket 4',
    'report connecting: connecting, attempt 3',
    'sendHello 5',
    'report loading: joined run run with the state of record 5',
    'askApplied',
    'sendReady 5',
    'report active: ready at record 5',
  ]);
});

test('a trainer told that it has diverged joins again without its state', (t) => {
  const [told, words] = play(stateOf('A'), {
    ...goodbye('STATE_DIVERGED'),
    nowMs: 2_000,
  } as SessionEvent);
  const [, later] = play(
    told,
    { type: 'ticked', nowMs: 99_000 },
    { type: 'socketOpened', connection: 4, nowMs: 99_000 },
  );
  t.is(words[0], 'discardState');
  t.true(later.includes('sendHello nothing'));
});

test('Ready is repeated with every heartbeat until there is work', (t) => {
  const [waiting, words] = play(
    stateOf('R'),
    { type: 'ticked', nowMs: 6_000 },
    { type: 'ticked', nowMs: 10_999 },
    { type: 'ticked', nowMs: 11_000 },
  );
  t.deepEqual(words, ['sendHeartbeat', 'sendReady 5', 'sendHeartbeat', 'sendReady 5']);
  const [, later] = play(
    waiting,
    { type: 'assigned', connection, nowMs: 11_000 },
    { type: 'ticked', nowMs: 16_000 },
  );
  t.deepEqual(later, ['sendHeartbeat']);
});

test('a coordinator that does not answer is given up after the handshake timeout', (t) => {
  const { state } = startSession(PLAN, null, 0);
  const [, early] = play(state, { type: 'ticked', nowMs: 9_999 });
  const [after, late] = play(state, { type: 'ticked', nowMs: 10_000 });
  t.deepEqual(early, []);
  t.is(late[0], 'closeSocket 1 TIMEOUT');
  t.is(after.failures, 1);
});

test('the handshake timeout covers opening the socket and the Welcome together', (t) => {
  const { state } = startSession(PLAN, null, 0);
  const [, words] = play(
    state,
    { type: 'socketOpened', connection: 1, nowMs: 9_000 },
    { type: 'ticked', nowMs: 10_000 },
  );
  t.is(words[1], 'closeSocket 1 TIMEOUT');
});

test('a connection that was good for a minute starts over with the shortest wait', (t) => {
  const cut = { type: 'socketClosed', connection, code: 1006, text: '' } as const;
  const early = { ...stateOf('A'), failures: 5 };
  const [brief] = play(early, { ...cut, nowMs: 1_000 + STABLE_AFTER_MS - 1 });
  const [good] = play(early, { ...cut, nowMs: 1_000 + STABLE_AFTER_MS });
  t.is(brief.failures, 6);
  t.is(good.failures, 1);
});

test('so does one on which a step was committed that this trainer had work of', (t) => {
  const cut = { type: 'socketClosed', connection, code: 1006, text: '' } as const;
  const early = { ...stateOf('R'), failures: 5 };
  const record = { type: 'recordReceived', connection, sequence: 9, digest: 'ab', nowMs: 1_100 } as const;
  const [idle] = play(early, record, { ...cut, nowMs: 1_200 });
  const [busy] = play(early, { type: 'assigned', connection, nowMs: 1_050 }, record, {
    ...cut,
    nowMs: 1_200,
  });
  t.is(idle.failures, 6);
  t.is(busy.failures, 1);
});

test('the waits double from half a second to thirty, never leave that range, and differ by seed', (t) => {
  for (let seed = 0; seed < 200; seed++) {
    for (let attempt = 1; attempt <= 40; attempt++) {
      const waitMs = backoffMs(seed, attempt);
      const ceilingMs = Math.min(MAX_BACKOFF_MS, MIN_BACKOFF_MS * 2 ** attempt);
      t.true(waitMs >= Math.max(MIN_BACKOFF_MS, ceilingMs / 2) && waitMs <= ceilingMs);
    }
  }
  t.is(backoffMs(3, 5), backoffMs(3, 5));
  t.not(backoffMs(3, 5), backoffMs(4, 5));
});

/** A trainer with several addresses in virtual time: `answers` says what each address does; who joins stays. */
function follow(
  addresses: number,
  answers: (
    address: number,
    nowMs: number,
  ) => { code?: number; leader?: number | null } | 'welcome' | 'silence',
  state: SessionState,
  untilMs: number,
): { readonly state: SessionState; readonly tries: readonly string[] } {
  const tries: string[] = [];
  state = { ...state, route: { ...state.route, count: addresses } };
  for (let nowMs = 2_000; nowMs <= untilMs; nowMs += 100) {
    const { state: after, effects } = advanceSession(state, { type: 'ticked', nowMs });
    state = after;
    const opened = effects.find((effect) => effect.type === 'openSocket');
    if (opened === undefined) continue;
    const answer = answers(opened.address, nowMs);
    tries.push(`${(nowMs / 1000).toFixed(1)}:${opened.address}`);
    const at = { connection: opened.connection, nowMs };
    if (answer === 'silence') continue;
    if (answer === 'welcome') {
      const welcome = { ...welcomed(false), ...at } as SessionEvent;
      [state] = play(state, { type: 'socketOpened', ...at }, welcome);
      return { state, tries };
    }
    const { code = 1006, leader } = answer;
    const standby = leader === undefined ? {} : { standby: { leader } };
    [state] = play(state, { type: 'socketClosed', ...at, code, text: 'refused', ...standby });
  }
  return { state, tries };
}

const lost = (from: number): SessionState => {
  const base = stateOf('A');
  const active = { ...base, failures: 0, route: { ...base.route, count: 3, address: from } };
  return advanceSession(active, { type: 'socketClosed', connection, code: 4011, text: 'lost', nowMs: 2_000 })
    .state;
};

test('a trainer whose leader is gone goes to the next address at once, and where the standby sends it', (t) => {
  const answers = (address: number) => (address === 2 ? 'welcome' : { leader: 2 });
  const { state, tries } = follow(3, answers, lost(0), 60_000);
  t.deepEqual(tries, ['2.0:1', '2.1:2']);
  t.is(state.phase.phase, 'loading');
  t.deepEqual(state.held, HELD);
});

test('while standbys wait for the lease of a dead leader the waits do not grow', (t) => {
  const answers = (address: number, nowMs: number) =>
    address === 0 ? {} : nowMs >= 12_000 && address === 1 ? ('welcome' as const) : { leader: null };
  const { state, tries } = follow(3, answers, lost(0), 60_000);
  t.is(state.phase.phase, 'loading');
  const seconds = tries.map((each) => Number(each.split(':')[0]));
  t.true(
    seconds.every((each, i) => i === 0 || each - seconds[i - 1]! <= 1.1),
    tries.join(' '),
  );
  t.true(seconds.at(-1)! <= 13.1, tries.join(' '));
});

test('a leader that stands still holds no trainer up once another one leads', (t) => {
  const leads = (nowMs: number) => nowMs >= 4_500;
  const answers = (address: number, nowMs: number) =>
    address === 0 ? 'silence' : address === 1 && leads(nowMs) ? 'welcome' : { leader: leads(nowMs) ? 1 : 0 };
  const stopped = stateOf('A');
  const [silent] = play(
    { ...stopped, failures: 0, route: { ...stopped.route, count: 3, address: 0 } },
    { type: 'ticked', nowMs: 31_000 },
  );
  t.is(silent.phase.phase, 'backing-off');
  const { state, tries } = follow(3, (address, nowMs) => answers(address, nowMs - 29_000), silent, 90_000);
  t.is(state.phase.phase, 'loading');
  t.true(Number(tries.at(-1)!.split(':')[0]) <= 29 + 4.5 + 1.1, tries.join(' '));
});

test('a trainer that begins while the leader stands still finds the next one within seconds', (t) => {
  const answers = (address: number, nowMs: number) =>
    address === 0 ? 'silence' : nowMs >= 4_500 ? 'welcome' : { leader: 0 };
  const { state, tries } = follow(2, answers, startSession(PLAN, HELD, 2_000).state, 60_000);
  t.is(state.phase.phase, 'loading');
  t.true(Number(tries.at(-1)!.split(':')[0]) <= 6.5, tries.join(' '));
});

test('where nothing answers at all they do', (t) => {
  const { tries } = follow(3, () => ({}), lost(0), 60_000);
  const rounds = tries.filter((each) => each.endsWith(':1'));
  t.true(rounds.length < 10, tries.join(' '));
});

test('a wrong path ends the session when every address has answered so three times, and not before', (t) => {
  const { code } = CLOSE_CODES.NO_COORDINATOR;
  const { state, tries } = follow(2, () => ({ code }), lost(0), 600_000);
  t.is(tries.length, 6);
  t.like(state.phase, { phase: 'closed', reason: 'NO_COORDINATOR' });
  const mixed = follow(2, (address) => (address === 0 ? { code } : {}), lost(0), 600_000);
  t.is(mixed.state.phase.phase, 'backing-off');
});

test('a certificate that is not accepted ends it only when no other address is better', (t) => {
  const { code } = CLOSE_CODES.BAD_CERTIFICATE;
  const one = follow(2, (address) => (address === 1 ? { code } : 'welcome'), lost(0), 60_000);
  t.is(one.state.phase.phase, 'loading');
  const all = follow(2, () => ({ code }), lost(0), 60_000);
  t.like(all.state.phase, { phase: 'closed', reason: 'BAD_CERTIFICATE' });
  t.is(all.tries.length, 2);
});
