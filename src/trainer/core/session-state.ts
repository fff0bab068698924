/**
 * The trainer's side of one connection after another: its state, the facts that change it and the
 * commands it gives. Types only; the rules are in session.ts. The network thread turns sockets, frames and a timer
 * into events and carries out the effects in order; it calls `advanceSession` with `ticked` at least
 * every 250 ms, which is the only timer there is.
 *
 *   connecting -> helloing -> loading -> active        the way up
 *   any of these -> backing-off -> connecting          a failure that may pass
 *   any -> closed                                      the run is over, we were refused, or we leave
 *
 * Every socket has a number, `connection`, given by openSocket. Events of a socket that is no longer
 * the current one may arrive late; they are ignored here, so the thread need not filter them.
 */
import type { CloseReason } from '../../protocol/close-codes.ts';
import type { Route, StandbyAnswer } from './route.ts';

/** What the session is told once. */
export interface SessionPlan {
  /** Jitter of the waits; different for every trainer (derive it from the trainer id). */
  readonly seed: number;
  /** From openSocket until the Welcome must be there; where there are several addresses the socket must open sooner (route.ts). */
  readonly handshakeTimeoutMs: number;
  /** How many addresses there are to try. Default 1. */
  readonly addresses?: number;
}

/** The state the trainer holds: that of record `sequence` of run `runId`. */
export interface HeldState {
  readonly runId: string;
  readonly sequence: number;
  /** SHA-256 of the record chain, lower-case hexadecimal. */
  readonly digest: string;
}

/** What a Welcome decided, for the length of the connection. */
export interface SessionTimers {
  readonly runId: string;
  readonly heartbeatIntervalMs: number;
  readonly heartbeatTimeoutMs: number;
  /** When the coordinator was last heard. */
  readonly lastSeenMs: number;
  readonly nextHeartbeatMs: number;
}

export type SessionPhase =
  /** The socket is being opened. */
  | { readonly phase: 'connecting'; readonly sinceMs: number }
  /** Hello is sent, the Welcome is awaited. `sinceMs`: when the socket was begun. */
  | { readonly phase: 'helloing'; readonly sinceMs: number }
  /** Welcome is here; state is on its way, or being applied. No Ready was sent yet. */
  | { readonly phase: 'loading'; readonly timers: SessionTimers }
  /**
   * Ready was sent. `isAssigned` from the first assignment on; until then every stateApplied and every
   * heartbeat repeats Ready, for the coordinator counts us in only once we have caught up with it.
   */
  | {
      readonly phase: 'active';
      readonly timers: SessionTimers;
      readonly activeSinceMs: number;
      readonly readySequence: number; // of the last Ready
      readonly isAssigned: boolean;
    }
  /** Without a socket until `retryAtMs`. */
  | { readonly phase: 'backing-off'; readonly retryAtMs: number }
  /** For good. `reason` RUN_FINISHED and LEAVING are good ends, all others are failures. */
  | { readonly phase: 'closed'; readonly reason: CloseReason; readonly text: string };

export interface SessionState {
  readonly plan: SessionPlan;
  readonly phase: SessionPhase;
  /** Number of the current or last socket, from 1. */
  readonly connection: number;
  readonly route: Route;
  /** Rounds of failures in a row; a record of a step that we had work of sets it back to 0, and STABLE_AFTER_MS of being active. */
  readonly failures: number;
  /** What the next Hello offers; null: nothing, a snapshot is needed. */
  readonly held: HeldState | null;
}

/** Facts, in the past tense. Those of a socket carry its number. */
export type SessionEvent = { readonly nowMs: number } &
  /** The socket is open (TLS and WebSocket handshake done). */
  (
    | { readonly type: 'socketOpened'; readonly connection: number }
    /** It closed or could not be opened. `code`: of the close frame, 1006 if there was none. */
    | {
        readonly type: 'socketClosed';
        readonly connection: number;
        readonly code: number;
        readonly text: string;
        readonly standby?: StandbyAnswer; // a standby has refused it
      }
    /** Names have got so many addresses now. */
    | { readonly type: 'addressesFound'; readonly count: number }
    /** A Goodbye message. The socketClosed that follows it is ignored. */
    | {
        readonly type: 'goodbyeReceived';
        readonly connection: number;
        readonly code: number;
        readonly text: string;
      }
    /** A Welcome whose version and schema the thread has checked (see messageRefused). */
    | {
        readonly type: 'welcomed';
        readonly connection: number;
        readonly runId: string;
        readonly hasSnapshot: boolean; // the trainer's own state is void, a snapshot follows
        readonly heartbeatIntervalMs: number;
        readonly heartbeatTimeoutMs: number;
      }
    /** A snapshot has arrived whole and is handed to the compute side. */
    | {
        readonly type: 'snapshotReceived';
        readonly connection: number;
        readonly sequence: number;
        readonly digest: string;
      }
    /** A record has arrived whole, its digest is right, and it is handed to the compute side. */
    | {
        readonly type: 'recordReceived';
        readonly connection: number;
        readonly sequence: number;
        readonly digest: string;
      }
    /** A StepAssignment or an EvaluationAssignment: the coordinator counts on us. */
    | { readonly type: 'assigned'; readonly connection: number }
    /** Any other frame, a Part or a WebSocket ping too: a sign of life. */
    | { readonly type: 'frameReceived'; readonly connection: number }
    /** The thread could not accept a message. STATE_DIVERGED (a digest that does not fit): join again without state. */
    | {
        readonly type: 'messageRefused';
        readonly connection: number;
        readonly reason: CloseReason;
        readonly text: string;
      }
    /**
     * The compute side has applied all that was handed to it so far, which brings it to `sequence`:
     * whenever its queue of snapshots and records runs empty, and in answer to askApplied.
     */
    | { readonly type: 'stateApplied'; readonly sequence: number }
    /** The compute side cannot go on from its state (an apply failed): join again without it. */
    | { readonly type: 'stateSpoiled'; readonly text: string }
    /** Ctrl-C, or the program that embeds us. */
    | { readonly type: 'leaveRequested'; readonly text: string }
    | { readonly type: 'ticked' }
  );

/** Commands, in the imperative, carried out by the network thread in this order. */
export type SessionEffect =
  /** Open a socket to the address of this number and report its events under the number of the connection. */
  | { readonly type: 'openSocket'; readonly connection: number; readonly address: number }
  /**
   * If the socket is open send Goodbye{code, text}; then close it with the code's number, and destroy
   * it should the other side not answer. Its later events may still be reported.
   */
  | {
      readonly type: 'closeSocket';
      readonly connection: number;
      readonly reason: CloseReason;
      readonly text: string;
    }
  | { readonly type: 'sendHello'; readonly connection: number; readonly held: HeldState | null }
  | { readonly type: 'sendReady'; readonly connection: number; readonly sequence: number }
  | { readonly type: 'sendHeartbeat'; readonly connection: number }
  /**
   * The connection is gone: forget half-received Parts, and assignments whose results can no longer be
   * delivered. Snapshots and records that were handed over whole stay in the compute side's queue.
   */
  | { readonly type: 'dropWork'; readonly connection: number }
  /** Ask the compute side to report stateApplied as soon as its queue is empty, even if nothing is queued. */
  | { readonly type: 'askApplied' }
  /** The compute side's state is void from here on; what was handed over before this does not count. */
  | { readonly type: 'discardState' }
  /** Something people want to know. */
  | { readonly type: 'report'; readonly status: SessionPhase['phase']; readonly text: string };

/** The answer of `advanceSession`. `note` says in words why an event changed nothing. */
export interface SessionTransition {
  readonly state: SessionState;
  readonly effects: readonly SessionEffect[];
  readonly note?: string;
}
