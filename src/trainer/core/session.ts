/**
 * The trainer's connection state machine: when to open a socket, what to say first, when to give up
 * on it and when to try again. Pure: no sockets, no clock, no dice. The types, and what the network
 * thread must do with them, are in session-state.ts; see docs/protocol.md, "Connecting".
 */
import { CLOSE_CODES, type CloseReason } from '../../protocol/close-codes.ts';
import { backoffMs } from './backoff.ts';
import { nextRoute, openingMs, routeOf, routeThatHolds, startRoute, type RouteFailure } from './route.ts';
import type {
  HeldState,
  SessionEffect,
  SessionEvent,
  SessionPhase,
  SessionPlan,
  SessionState,
  SessionTimers,
  SessionTransition,
} from './session-state.ts';

export type * from './session-state.ts';

/** A connection active for this long counts as good, also where nothing is committed: the next failure starts with the shortest wait. */
export const STABLE_AFTER_MS = 60_000;
/** Every address has answered so often that there is no coordinator; what answers may be a proxy that is being set up. */
export const MAX_MISSES = 3;

/** A session that opens its first socket at once. `held` is what a restarted trainer still has, or null. */
export function startSession(plan: SessionPlan, held: HeldState | null, nowMs: number): SessionTransition {
  const phase = { phase: 'backing-off', retryAtMs: nowMs } as const;
  const route = startRoute(plan.addresses ?? 1);
  return connect({ plan, phase, connection: 0, route, failures: 0, held }, nowMs);
}

/** The next state and what to do. Never throws for anything the coordinator can send. */
export function advanceSession(state: SessionState, event: SessionEvent): SessionTransition {
  if (state.phase.phase === 'closed') return ignore(state, 'the session is closed');
  if ('connection' in event && event.connection !== state.connection) {
    return ignore(state, `socket ${event.connection} is given up; the current one is ${state.connection}`);
  }
  switch (event.type) {
    case 'leaveRequested':
      return close(state, 'LEAVING', event.text);
    case 'addressesFound':
      return { state: { ...state, route: routeOf(state.route, event.count) }, effects: [] };
    case 'stateSpoiled':
      return fail(discard(state), 'INTERNAL_ERROR', event.text, event.nowMs);
    case 'socketClosed':
    case 'goodbyeReceived':
      return state.phase.phase === 'backing-off'
        ? ignore(state, `socket ${event.connection} is given up already`)
        : advanceEnded(state, event);
    case 'messageRefused':
      if (!isUp(state)) return ignore(state, 'no socket is open');
      if (event.reason === 'STATE_DIVERGED')
        return fail(discard(state), event.reason, event.text, event.nowMs);
      return CLOSE_CODES[event.reason].mayRetry
        ? fail(begin(state), event.reason, event.text, event.nowMs)
        : close(state, event.reason, event.text);
  }
  switch (state.phase.phase) {
    case 'backing-off':
      return event.type === 'ticked' && event.nowMs >= state.phase.retryAtMs
        ? connect(state, event.nowMs)
        : ignore(state, `without a socket until ${state.phase.retryAtMs} ms`);
    case 'connecting':
      return advanceConnecting(state, state.phase, event);
    case 'helloing':
      return advanceHelloing(state, state.phase, event);
    case 'loading':
    case 'active':
      return advanceWelcomed(state, state.phase, event);
  }
}

/** An event that the first switch of `advanceSession` has not dealt with. */
type LaterEvent = Exclude<
  SessionEvent,
  {
    type:
      | 'leaveRequested'
      | 'addressesFound'
      | 'stateSpoiled'
      | 'socketClosed'
      | 'goodbyeReceived'
      | 'messageRefused';
  }
>;
type PhaseOf<Name extends SessionPhase['phase']> = Extract<SessionPhase, { phase: Name }>;
/** A state and the effects that led to it. */
interface Draft {
  readonly state: SessionState;
  readonly effects: readonly SessionEffect[];
}

function advanceConnecting(
  state: SessionState,
  phase: PhaseOf<'connecting'>,
  event: LaterEvent,
): SessionTransition {
  switch (event.type) {
    case 'socketOpened': {
      const { connection, held } = state;
      return {
        state: { ...state, phase: { phase: 'helloing', sinceMs: phase.sinceMs } },
        effects: [{ type: 'sendHello', connection, held }],
      };
    }
    case 'ticked': {
      const limitMs = openingMs(state.route, state.plan.handshakeTimeoutMs);
      return expire(state, phase.sinceMs, limitMs, 'the coordinator does not answer', event.nowMs);
    }
    case 'stateApplied':
    case 'welcomed':
    case 'snapshotReceived':
    case 'recordReceived':
    case 'assigned':
    case 'frameReceived':
      return ignore(state, `${event.type} before the socket is open`);
    default:
      return event satisfies never;
  }
}

function advanceHelloing(
  state: SessionState,
  phase: PhaseOf<'helloing'>,
  event: LaterEvent,
): SessionTransition {
  switch (event.type) {
    case 'welcomed': {
      const { runId, heartbeatIntervalMs, heartbeatTimeoutMs, nowMs } = event;
      const timers: SessionTimers = {
        runId,
        heartbeatIntervalMs,
        heartbeatTimeoutMs,
        lastSeenMs: nowMs,
        nextHeartbeatMs: nowMs + heartbeatIntervalMs,
      };
      const loading = { phase: 'loading', timers } as const;
      if (event.hasSnapshot) {
        const { state: emptied, effects } = discard(state);
        const text = `joined run ${runId}; receiving a snapshot`;
        return {
          state: { ...emptied, phase: loading },
          effects: [...effects, { type: 'report', status: 'loading', text }],
        };
      }
      const text = `joined run ${runId} with the state of record ${state.held?.sequence ?? 0}`;
      return {
        state: { ...state, phase: loading },
        effects: [{ type: 'report', status: 'loading', text }, { type: 'askApplied' }],
      };
    }
    case 'ticked':
      return expire(state, phase.sinceMs, state.plan.handshakeTimeoutMs, 'no Welcome came', event.nowMs);
    case 'snapshotReceived':
    case 'recordReceived':
    case 'assigned':
    case 'frameReceived':
      return fail(begin(state), 'UNEXPECTED_MESSAGE', 'a message came before the Welcome', event.nowMs);
    case 'stateApplied':
    case 'socketOpened':
      return ignore(state, `${event.type} while the Welcome is awaited`);
    default:
      return event satisfies never;
  }
}

function advanceWelcomed(
  state: SessionState,
  phase: PhaseOf<'loading' | 'active'>,
  event: LaterEvent,
): SessionTransition {
  const { connection } = state;
  const { runId } = phase.timers;
  const timers = { ...phase.timers, lastSeenMs: event.nowMs };
  const seen: SessionState = { ...state, phase: { ...phase, timers } };
  switch (event.type) {
    case 'snapshotReceived':
    case 'recordReceived': {
      const held = { runId, sequence: event.sequence, digest: event.digest };
      // A run that commits while we take part is one to come back to at once, however often it breaks off.
      const isTakingPart = phase.phase === 'active' && phase.isAssigned;
      if (!isTakingPart) return { state: { ...seen, held }, effects: [] };
      return { state: { ...seen, held, failures: 0, route: routeThatHolds(state.route) }, effects: [] };
    }
    case 'assigned':
      return phase.phase === 'active'
        ? { state: { ...seen, phase: { ...phase, timers, isAssigned: true } }, effects: [] }
        : { state: seen, effects: [], note: 'assigned before Ready was sent' };
    case 'frameReceived':
      return { state: seen, effects: [] };
    case 'stateApplied':
      return applied(state, phase, event.sequence, event.nowMs);
    case 'ticked': {
      const { lastSeenMs, heartbeatIntervalMs, heartbeatTimeoutMs, nextHeartbeatMs } = phase.timers;
      const silentMs = event.nowMs - lastSeenMs;
      if (silentMs >= heartbeatTimeoutMs) {
        return fail(begin(state), 'TIMEOUT', `nothing heard for ${seconds(silentMs)}`, event.nowMs, {
          isSilent: true,
        });
      }
      if (event.nowMs < nextHeartbeatMs) return { state, effects: [] };
      const beaten = { ...phase.timers, nextHeartbeatMs: event.nowMs + heartbeatIntervalMs };
      const beat: SessionEffect = { type: 'sendHeartbeat', connection };
      const isUnanswered = phase.phase === 'active' && !phase.isAssigned;
      return {
        state: { ...state, phase: { ...phase, timers: beaten } },
        effects: isUnanswered
          ? [beat, { type: 'sendReady', connection, sequence: phase.readySequence }]
          : [beat],
      };
    }
    case 'socketOpened':
    case 'welcomed':
      return fail(begin(state), 'UNEXPECTED_MESSAGE', `${event.type} a second time`, event.nowMs);
    default:
      return event satisfies never;
  }
}

/** The compute side is through with what it was given: say Ready, until the coordinator counts on us. */
function applied(
  state: SessionState,
  phase: PhaseOf<'loading' | 'active'>,
  sequence: number,
  nowMs: number,
): SessionTransition {
  const { connection, held } = state;
  if (held === null) return ignore(state, `record ${sequence} is applied, but a snapshot is on its way`);
  if (phase.phase === 'active' && phase.isAssigned) return { state, effects: [] };
  const activeSinceMs = phase.phase === 'active' ? phase.activeSinceMs : nowMs;
  const active = {
    phase: 'active',
    timers: phase.timers,
    activeSinceMs,
    readySequence: sequence,
    isAssigned: false,
  } as const;
  return {
    state: { ...state, phase: active },
    effects: [
      { type: 'sendReady', connection, sequence },
      { type: 'report', status: 'active', text: `ready at record ${sequence}` },
    ],
  };
}

/** The coordinator's end of the connection is gone, with or without a reason. */
function advanceEnded(
  state: SessionState,
  event: Extract<SessionEvent, { type: 'socketClosed' | 'goodbyeReceived' }>,
): SessionTransition {
  const reason = reasonOf(event.code);
  const text = event.text === '' ? `the connection ended with code ${event.code}` : event.text;
  if (reason === 'STATE_DIVERGED') return fail(discard(state), reason, text, event.nowMs);
  const standby = event.type === 'socketClosed' ? (event.standby ?? null) : null;
  if (reason === null || CLOSE_CODES[reason].mayRetry) {
    return fail(begin(state), reason ?? 'TIMEOUT', text, event.nowMs, { standby });
  }
  if (event.type !== 'socketClosed' || !OF_AN_ADDRESS.has(reason)) return close(state, reason, text);
  const most = state.route.count * (reason === 'NO_COORDINATOR' ? MAX_MISSES : 1);
  return state.route.refusals + 1 >= most
    ? close(state, reason, text)
    : fail(begin(state), reason, text, event.nowMs, { standby, isRefusal: true });
}

/** What is wrong with one address may be right with another. */
const OF_AN_ADDRESS: ReadonlySet<CloseReason> = new Set([
  'NO_COORDINATOR',
  'BAD_CERTIFICATE',
  'TLS_MISMATCH',
]);

function expire(
  state: SessionState,
  sinceMs: number,
  limitMs: number,
  what: string,
  nowMs: number,
): SessionTransition {
  const leftMs = sinceMs + limitMs - nowMs;
  if (leftMs > 0) return ignore(state, `waiting for the coordinator: ${seconds(leftMs)} left`);
  return fail(begin(state), 'TIMEOUT', `${what} within ${seconds(limitMs)}`, nowMs, { isSilent: true });
}

function connect(state: SessionState, nowMs: number): SessionTransition {
  const connection = state.connection + 1;
  const text = state.failures === 0 ? 'connecting' : `connecting, attempt ${state.failures + 1}`;
  return {
    state: { ...state, connection, phase: { phase: 'connecting', sinceMs: nowMs } },
    effects: [
      { type: 'openSocket', connection, address: state.route.address },
      { type: 'report', status: 'connecting', text },
    ],
  };
}

/** Gives up the current socket, if there is one. The next address is tried at once, after all of them there is a wait. */
function fail(
  draft: Draft,
  reason: CloseReason,
  text: string,
  nowMs: number,
  { standby = null, isRefusal = false, isSilent = false }: Partial<RouteFailure> = {},
): SessionTransition {
  const { state } = draft;
  const { phase, connection } = state;
  if (phase.phase === 'backing-off') return draft;
  const wasStable = phase.phase === 'active' && nowMs - phase.activeSinceMs >= STABLE_AFTER_MS;
  const before = wasStable ? routeThatHolds(state.route) : state.route;
  const { route, isRoundOver } = nextRoute(before, { nowMs, standby, isRefusal, isSilent });
  const failures = (wasStable ? 0 : state.failures) + (isRoundOver ? 1 : 0);
  // Where a standby answers somebody will lead the run in seconds.
  const waitMs = isRoundOver ? backoffMs(state.plan.seed, route.hasStandby ? 1 : failures) : 0;
  const next = isRoundOver ? `connecting again in ${seconds(waitMs)}` : 'trying the next address';
  return {
    state: {
      ...state,
      failures,
      route: isRoundOver ? { ...route, hasStandby: false } : route,
      phase: { phase: 'backing-off', retryAtMs: nowMs + waitMs },
    },
    effects: [
      ...draft.effects,
      { type: 'closeSocket', connection, reason, text },
      { type: 'dropWork', connection },
      { type: 'report', status: 'backing-off', text: `${text}; ${next}` },
    ],
  };
}

function close(state: SessionState, reason: CloseReason, text: string): SessionTransition {
  const { connection } = state;
  const shut: readonly SessionEffect[] = isUp(state)
    ? [
        { type: 'closeSocket', connection, reason, text },
        { type: 'dropWork', connection },
      ]
    : [];
  return {
    state: { ...state, phase: { phase: 'closed', reason, text } },
    effects: [...shut, { type: 'report', status: 'closed', text: `${CLOSE_CODES[reason].meaning}: ${text}` }],
  };
}

function discard(state: SessionState): Draft {
  return state.held === null
    ? begin(state)
    : { state: { ...state, held: null }, effects: [{ type: 'discardState' }] };
}

function begin(state: SessionState): Draft {
  return { state, effects: [] };
}

function ignore(state: SessionState, note: string): SessionTransition {
  return { state, effects: [], note };
}

function isUp(state: SessionState): boolean {
  return state.phase.phase !== 'backing-off' && state.phase.phase !== 'closed';
}

function reasonOf(code: number): CloseReason | null {
  for (const [reason, info] of Object.entries(CLOSE_CODES)) {
    if (info.code === code) return reason as CloseReason;
  }
  return null;
}

function seconds(durationMs: number): string {
  return `${(durationMs / 1000).toFixed(1)} s`;
}
