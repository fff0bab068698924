/**
 * A trainer of a simulated run: the real session core, and a compute side that works through its queue
 * one task at a time, as a real one does. Its weights are the fold of the records it has applied.
 */
import { CLOSE_CODES } from '../protocol/close-codes.ts';
import {
  advanceSession,
  startSession,
  type SessionEffect,
  type SessionEvent,
  type SessionState,
  type SessionTransition,
} from '../trainer/core/session.ts';
import type { Clock } from './clock.ts';
import type { Dice } from './dice.ts';
import type { Invariants } from './invariants.ts';
import {
  applyRecord,
  fold,
  tokensOf,
  type DownMessage,
  type LocalSteps,
  type Provenance,
  type SimulatedRecord,
  type SimulatedState,
  type UpMessage,
} from './messages.ts';
import type { Network, Socket } from './network.ts';
import { createTaskQueue, type Task } from './task-queue.ts';

export interface TrainerOptions {
  readonly trainerId: string;
  readonly clock: Clock;
  readonly network: Network<UpMessage, DownMessage>;
  readonly dice: Dice;
  readonly invariants: Invariants;
  readonly hashEvery: number;
  readonly msPerSequence: number;
  /** How many times as long everything takes now. */
  readonly slowness: () => number;
  readonly tickIntervalMs: number;
  readonly heartbeatIntervalMs: number;
  readonly heartbeatTimeoutMs: number;
  readonly handshakeTimeoutMs: number;
}

export interface SimulatedTrainer {
  session(): SessionState;
  /** Its weights were changed by a fault and not replaced since. */
  isCorrupted(): boolean;
  crash(): void;
  freeze(durationMs: number): void;
  corrupt(): void;
  loseTokens(): void;
  leave(): void;
}

/** The step the trainer has a share of. */
interface Assignment {
  readonly connection: number;
  readonly step: number;
  readonly positions: readonly number[];
  readonly isRefreshed: boolean;
}

export function startTrainer(options: TrainerOptions): SimulatedTrainer {
  const { trainerId, clock, network, dice, invariants, msPerSequence } = options;
  let state: SimulatedState | null = null;
  /** What is kept of the gradients, and the step by which that is about to change. */
  let local: LocalSteps = [];
  let proposedStep = 0;
  let assignment: Assignment | null = null;
  let socket: Socket<UpMessage> | null = null;
  let session: SessionState;
  let isDown = false;
  let isCorrupted = false;
  let hasNoTokens = false;

  // The compute side.

  const later = (delayMs: number, action: () => void): void => {
    clock.schedule(delayMs, () => {
      if (!isDown) action();
    });
  };

  const isOfState = (task: Task): boolean => task.connection === null;

  const queue = createTaskQueue(clock, (task) => {
    if (isOfState(task)) reportApplied();
  });

  const enqueue = (connection: number | null, step: number, durationMs: number, run: () => void): void => {
    queue.add({ connection, step, durationMs: durationMs * options.slowness(), run });
  };

  const reportApplied = (): void => {
    if (state === null || queue.has(isOfState)) return;
    tell({ type: 'stateApplied', sequence: state.sequence });
  };

  const applySnapshot = (snapshot: SimulatedState, kept: LocalSteps): void => {
    state = snapshot;
    local = kept;
    proposedStep = 0;
    invariants.localKept(trainerId, snapshot.step, local);
    assignment = null;
    isCorrupted = false;
  };

  const apply = (record: SimulatedRecord): void => {
    if (state === null || record.sequence !== state.sequence + 1) {
      invariants.violate(`${trainerId} is to apply record ${record.sequence} to ${state?.sequence}`);
      return;
    }
    state = applyRecord(state, record);
    if (!isCorrupted) invariants.stateReached(trainerId, state.sequence, state.weights);
    if (record.kind === 'basis') {
      if (assignment?.step === record.step && assignment.isRefreshed) contribute(assignment);
      return;
    }
    decideLocal(record);
    if (assignment !== null && assignment.step <= record.step) assignment = null;
    if (options.hashEvery > 0 && record.step % options.hashEvery === 0) {
      socket?.send({ type: 'stateHash', step: record.step, weights: state.model });
    }
  };

  /** As LocalStates.decide does. */
  const decideLocal = ({ step, members }: SimulatedRecord): void => {
    if (members.includes(trainerId)) local = proposedStep === step ? [...local, step] : [];
    proposedStep = 0;
    invariants.localKept(trainerId, step, local);
  };

  /** Sends a result, unless the connection it was asked on is gone. */
  const answer = (connection: number, message: UpMessage): void => {
    if (connection === session.connection && session.phase.phase === 'active') socket?.send(message);
  };

  const provenance = (positions: readonly number[]): Provenance => ({
    weights: state?.weights ?? 0,
    positions,
    shapes: state?.shapes ?? '',
  });

  const tokensFor = (positions: readonly number[]): number => {
    const tokens = hasNoTokens ? 0 : positions.reduce((sum, position) => sum + tokensOf(position), 0);
    hasNoTokens = false;
    return tokens;
  };

  const contribute = ({ connection, step, positions }: Assignment): void => {
    answer(connection, {
      type: 'contribution',
      step,
      tokens: tokensFor(positions),
      from: provenance(positions),
    });
    if (assignment?.step === step) assignment = null;
  };

  /** Whether the trainer has the weights it is spoken to about. If not, a message got lost: it joins again. */
  const isAt = (connection: number, step: number, sequence = 0, isExact = false): boolean => {
    const isThere = state?.step === step && state.sequence >= sequence;
    if (isThere && (!isExact || state?.sequence === sequence)) return true;
    const text = `the state is that of step ${state?.step}, record ${state?.sequence}; not ${step}, ${sequence}`;
    tell({ type: 'messageRefused', connection, reason: 'INTERNAL_ERROR', text });
    return false;
  };

  const work = (connection: number, message: DownMessage): void => {
    switch (message.type) {
      case 'assignStep': {
        const { step, positions } = message;
        enqueue(connection, step, msPerSequence * positions.length, () => {
          if (!isAt(connection, step - 1, message.sequence)) return;
          proposedStep = step;
          assignment = { connection, step, positions, isRefreshed: message.refreshSlots.length > 0 };
          if (!assignment.isRefreshed) contribute(assignment);
        });
        break;
      }
      case 'requestSketches': {
        const { step, round, factors } = message;
        enqueue(connection, step, 5, () => {
          if (assignment?.step !== step) return;
          const { positions } = assignment;
          answer(connection, {
            type: 'sketch',
            step,
            round,
            tokens: tokensFor(positions),
            factors,
            from: provenance(positions),
          });
        });
        break;
      }
      case 'assignFactors': {
        const { step, round, slots, sum } = message;
        enqueue(connection, step, 8 * slots.length, () => {
          answer(connection, { type: 'factor', step, round, slots, content: fold(sum, round) });
        });
        break;
      }
      case 'assignEvaluation': {
        const { step, sequences } = message;
        enqueue(connection, step, (msPerSequence / 3) * sequences.length, () => {
          if (!isAt(connection, step)) return;
          const tokens = sequences.length * 20;
          answer(connection, { type: 'evaluation', step, tokens, weights: state?.weights ?? 0 });
        });
        break;
      }
      case 'requestSnapshot': {
        const { step, request } = message;
        enqueue(connection, step, 1, () => {
          if (state === null || !isAt(connection, step, message.sequence, true)) return;
          const [copy, kept] = [state, local];
          answer(connection, { type: 'stateHash', step, weights: state.model });
          answer(connection, { type: 'snapshotPiece', step });
          // The upload goes on beside the steps.
          later(60 + 200 * dice(), () =>
            answer(connection, { type: 'snapshot', step, request, state: copy, local: kept }),
          );
        });
        break;
      }
      case 'rejectStep':
        // What is being computed cannot be stopped, but its result need not be sent.
        queue.cancel((task) => !isOfState(task) && task.step === message.step, dice() < 0.5);
        if (assignment?.step === message.step) assignment = null;
        break;
    }
  };

  // The network side.

  const tell = (event: EventWithoutTime): void => {
    take(advanceSession(session, { ...event, nowMs: clock.nowMs() } as SessionEvent));
  };

  const take = (transition: SessionTransition): void => {
    session = transition.state;
    for (const effect of transition.effects) carryOut(effect);
  };

  const carryOut = (effect: SessionEffect): void => {
    switch (effect.type) {
      case 'openSocket': {
        const { connection } = effect;
        socket = network.connect(trainerId, {
          opened: () => tell({ type: 'socketOpened', connection }),
          received: (message) => receive(connection, message),
          closed: (code, text) => tell({ type: 'socketClosed', connection, code, text }),
        });
        break;
      }
      case 'closeSocket':
        socket?.close(CLOSE_CODES[effect.reason].code, effect.text);
        socket = null;
        break;
      case 'sendHello':
        socket?.send({ type: 'hello', trainerId, held: effect.held });
        break;
      case 'sendReady':
        socket?.send({ type: 'ready', sequence: effect.sequence });
        break;
      case 'sendHeartbeat':
        socket?.send({ type: 'heartbeat' });
        break;
      case 'askApplied':
        reportApplied();
        break;
      case 'dropWork':
        queue.cancel((task) => !isOfState(task), false);
        assignment = null;
        break;
      case 'discardState':
        queue.cancel(() => true, true);
        state = null;
        local = [];
        assignment = null;
        break;
      case 'report':
        break;
      default:
        effect satisfies never;
    }
  };

  const receive = (connection: number, message: DownMessage): void => {
    if (isDown || connection !== session.connection) return;
    switch (message.type) {
      case 'welcome': {
        const { heartbeatIntervalMs, heartbeatTimeoutMs } = options;
        const { runId, hasSnapshot } = message;
        tell({ type: 'welcomed', connection, runId, hasSnapshot, heartbeatIntervalMs, heartbeatTimeoutMs });
        return;
      }
      case 'goodbye':
        tell({ type: 'goodbyeReceived', connection, code: message.code, text: message.text });
        return;
      case 'ping':
        tell({ type: 'frameReceived', connection });
        return;
      case 'snapshot': {
        const { sequence, digest } = message.state;
        tell({ type: 'snapshotReceived', connection, sequence, digest });
        if (isCurrent(connection)) enqueue(null, 0, 15, () => applySnapshot(message.state, message.local));
        return;
      }
      case 'record':
        receiveRecord(connection, message.record);
        return;
      case 'assignStep':
      case 'assignEvaluation':
        tell({ type: 'assigned', connection });
        break;
      default:
        tell({ type: 'frameReceived', connection });
    }
    if (isCurrent(connection)) work(connection, message);
  };

  const receiveRecord = (connection: number, record: SimulatedRecord): void => {
    const { held } = session;
    if (held !== null && record.sequence <= held.sequence) {
      tell({ type: 'frameReceived', connection });
    } else if (held === null || record.sequence !== held.sequence + 1) {
      const text = `record ${record.sequence} after ${held?.sequence}`;
      tell({ type: 'messageRefused', connection, reason: 'INTERNAL_ERROR', text });
    } else {
      const { sequence, digest } = record;
      tell({ type: 'recordReceived', connection, sequence, digest });
      if (isCurrent(connection)) enqueue(null, 0, 2, () => apply(record));
    }
  };

  /** Whether the session still uses this connection after the last event. */
  const isCurrent = (connection: number): boolean => {
    const { phase } = session.phase;
    return connection === session.connection && (phase === 'loading' || phase === 'active');
  };

  const plan = { seed: fold(trainerId), handshakeTimeoutMs: options.handshakeTimeoutMs };
  const start = startSession(plan, null, clock.nowMs());
  session = start.state;
  take(start);
  const stopTicking = clock.repeat(options.tickIntervalMs, () => tell({ type: 'ticked' }));

  return {
    session: () => session,
    isCorrupted: () => isCorrupted,
    crash() {
      isDown = true;
      queue.close();
      stopTicking();
      network.crash(trainerId);
    },
    freeze(durationMs) {
      queue.freeze(durationMs);
    },
    corrupt() {
      if (state === null) return;
      state = { ...state, weights: (state.weights ^ 1) >>> 0, model: (state.model ^ 1) >>> 0 };
      isCorrupted = true;
    },
    loseTokens() {
      hasNoTokens = true;
    },
    leave() {
      tell({ type: 'leaveRequested', text: 'asked to' });
    },
  };
}

type EventWithoutTime = SessionEvent extends infer E
  ? E extends SessionEvent
    ? Omit<E, 'nowMs'>
    : never
  : never;
