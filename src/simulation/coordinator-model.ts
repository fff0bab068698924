/**
 * The coordinator of a simulated run: the real core, with a shell that keeps fingerprints in place of
 * tensors and a disk in memory. It does what the real shell does, in the same order, and checks that
 * every command of the core can be carried out.
 */
import { advance, initialState } from '../coordinator/core/advance.ts';
import type { BasisFact } from '../coordinator/core/refresh-schedule.ts';
import type { Effect, Event, RunPlan, RunState } from '../coordinator/core/state.ts';
import { quorumOf } from '../coordinator/core/step-policy.ts';
import { CLOSE_CODES, type CloseReason } from '../protocol/close-codes.ts';
import type { Clock } from './clock.ts';
import type { Dice } from './dice.ts';
import type { Disk, JournalEntry } from './disk.ts';
import type { Invariants } from './invariants.ts';
import {
  fold,
  shapesOf,
  type DownMessage,
  type Fingerprint,
  type SimulatedRecord,
  type SimulatedState,
  type UpMessage,
} from './messages.ts';
import type { Network, Socket } from './network.ts';
import { createStaging } from './staging-model.ts';

export const RUN_ID = 'simulated';

export interface CoordinatorOptions {
  readonly plan: RunPlan;
  readonly clock: Clock;
  readonly network: Network<UpMessage, DownMessage>;
  readonly disk: Disk;
  readonly dice: Dice;
  readonly invariants: Invariants;
  readonly tickIntervalMs: number;
  readonly pingIntervalMs: number;
  /** What the process reads as the time. */
  readonly readClockMs: () => number;
  /** After every event, with the state it led to. */
  readonly onState: (state: RunState) => void;
  /** When a record is on disk and the core does not know yet. */
  readonly onJournalled: () => void;
  /** Whether the disk takes anything now. */
  readonly hasRoom: () => boolean;
  /** Whether the disk takes this checkpoint. */
  readonly canWriteCheckpoint: () => boolean;
  /** A trainer whose weights are wrong was alone when it gave a checkpoint: nobody can see that. */
  readonly onUnseen: () => void;
  /** Weights of a trainer known to be wrong: its contributions cannot be checked. */
  readonly isCorrupted: (trainerId: string) => boolean;
}

export interface SimulatedCoordinator {
  state(): RunState;
  /** Why nothing happens, in the core's words. */
  note(): string;
  stop(): void;
  /** The process is gone. */
  crash(): void;
}

interface Peer {
  readonly trainerId: string;
  readonly socket: Socket<DownMessage>;
  /** Last record queued to it. */
  sentSequence: number;
  isGone: boolean;
}

function hashOf(weights: Fingerprint): string {
  return weights.toString(16).padStart(64, '0');
}

const FEED_INTERVAL_MS = 7;
const SYNC_MS = 4;

export function startCoordinator(options: CoordinatorOptions): SimulatedCoordinator {
  const { plan, clock, network, disk, dice, invariants } = options;
  const peers = new Map<string, Peer>();
  const staging = createStaging(invariants);
  let state = initialState(plan, disk.startingPoint(options.readClockMs(), plan));
  let note = '';
  /** What the sketches of the current round are multiplied with. */
  let roundFactors: Fingerprint = 0;
  let isDown = false;
  /** When the last work was given out. */
  let assignedAtMs = 0;
  /** Writes the record that was made last. */
  let write = (): void => {};
  /** Cancels the checkpoint being written. */
  let cancelWriting = (): void => {};
  let requested: Extract<Effect, { type: 'requestSnapshot' }> | null = null;
  /** Number of the last request. */
  let request = 0;
  /** What was sent for it, by trainer id. */
  const uploads = new Map<string, Extract<UpMessage, { type: 'snapshot' }>>();

  /** Runs later, unless the process is gone by then; the result takes it back. */
  const later = (delayMs: number, action: () => void): (() => void) => {
    let isWanted = true;
    clock.schedule(delayMs, () => {
      if (isWanted && !isDown) action();
    });
    return () => {
      isWanted = false;
    };
  };

  const feed = (event: EventWithoutTime): void => {
    const transition = advance(state, { ...event, nowMs: options.readClockMs() } as Event);
    state = transition.state;
    if (transition.note !== undefined) note = transition.note;
    checkMembers(transition.effects);
    for (const effect of transition.effects) carryOut(effect);
    options.onState(state);
  };

  const disconnect = (peer: Peer, reason: CloseReason, text: string): void => {
    const { code } = CLOSE_CODES[reason];
    peer.isGone = true;
    peer.socket.send({ type: 'goodbye', code, text });
    peer.socket.close(code, text);
    if (peers.get(peer.trainerId) === peer) peers.delete(peer.trainerId);
  };

  const currentWeights = (): Fingerprint => (disk.stateAfter(state.sequence) as SimulatedState).weights;

  /** Everything from the last record queued up to `sequence`. */
  const sendRecords = (peer: Peer, sequence: number): void => {
    while (peer.sentSequence < sequence) {
      const entry = disk.journal[peer.sentSequence];
      if (entry === undefined) return;
      peer.sentSequence += 1;
      peer.socket.send({ type: 'record', record: entry.record });
    }
  };

  /** Feeds a loading trainer from the journal, a record at a time, without stopping the others. */
  const feedLoading = (peer: Peer): void => {
    if (peer.isGone) return;
    const { status } = state.trainers.find(({ trainerId }) => trainerId === peer.trainerId) ?? {};
    if (status !== 'loading') return;
    sendRecords(peer, Math.min(peer.sentSequence + 1, state.sequence));
    later(FEED_INTERVAL_MS, () => feedLoading(peer));
  };

  const send = (trainerId: string, message: DownMessage): void => {
    const peer = peers.get(trainerId);
    if (peer === undefined) {
      invariants.violate(`the core speaks to ${trainerId}, which is not connected: ${message.type}`);
      return;
    }
    // Whoever gets work has all records first.
    sendRecords(peer, state.sequence);
    peer.socket.send(message);
  };

  const commit = (
    record: Pick<SimulatedRecord, 'kind' | 'step' | 'content' | 'members'>,
    entry: Partial<Omit<JournalEntry, 'record'>>,
  ): void => {
    const { kind, step } = record;
    const { committed = null, bases = [], norms = [] } = entry;
    const ranks = bases.flatMap(({ slot, rank }) => (rank === null ? [] : [{ slot, rank }]));
    write = () => {
      later(SYNC_MS * dice(), () => {
        if (!options.hasRoom()) {
          const sequence = disk.journal.length + 1;
          feed({ type: 'recordFailed', step, kind, sequence, reason: 'the disk is full' });
          return;
        }
        disk.append({ ...record, ranks }, { committed, bases, norms });
        options.onJournalled();
        later(SYNC_MS * dice(), () => {
          feed({ type: 'recordCommitted', step, kind, sequence: disk.journal.length, bases, norms });
        });
      });
    };
    write();
  };

  /** What a factorisation makes of a slot: a rank, and a likeness to the basis before; both by what was summed. */
  const factOf = (content: Fingerprint, slot: number): BasisFact => {
    const chance = fold(content, slot);
    const isFirst = !state.bases.some((basis) => basis.slot === slot);
    return { slot, rank: 1 + (chance % 8), similarity: isFirst ? null : (chance % 100) / 99 };
  };

  const carryOut = (effect: Effect): void => {
    switch (effect.type) {
      case 'assignStep': {
        const { step, positions, refreshSlots } = effect;
        assignedAtMs = state.nowMs;
        send(effect.trainerId, {
          type: 'assignStep',
          step,
          positions,
          refreshSlots,
          sequence: state.sequence,
        });
        break;
      }
      case 'passOver':
        send(effect.trainerId, { type: 'passOver' });
        break;
      case 'requestSketches': {
        const { step, round, slots, jobs } = effect;
        roundFactors = jobs.length === 0 ? 0 : staging.factorsOf(step, round - 1, slots, jobs);
        for (const trainerId of effect.trainerIds) {
          send(trainerId, { type: 'requestSketches', step, round, factors: roundFactors });
        }
        break;
      }
      case 'sumSketches':
        staging.sumSketches(effect.step, effect.round, effect.weights);
        break;
      case 'assignFactors': {
        const { trainerId, step, round, slots } = effect;
        const sum = staging.sumOf(step, round);
        send(trainerId, { type: 'assignFactors', step, round, slots, sum });
        break;
      }
      case 'commitBases': {
        const { step, slots, jobs } = effect;
        const rounds = plan.refreshRounds;
        const factors = rounds === 0 ? slots : [staging.factorsOf(step, rounds, slots, jobs)];
        const content = fold('basis', step, ...factors);
        const bases = slots.map((slot) => factOf(content, slot));
        commit({ kind: 'basis', step, content, members: [] }, { bases });
        break;
      }
      case 'commitUpdate': {
        const { step, received, shards, cursor } = effect;
        checkWait(effect);
        const trainerIds = received.map(({ trainerId }) => trainerId);
        const contents = shards.map((shard) => staging.contributionOf(step, shard));
        const positions = shards.flatMap((shard) => shard.positions);
        const content = fold('update', step, ...contents);
        const shares = shards.map((shard) => `${shard.trainerId}:${shard.positions.length}`);
        const committed = { step, trainerIds, shares, positions, cursor };
        const norms = plan.projectedSlots.map((slot) => ({ slot, norm: 1 + (fold(content, slot) % 100) }));
        commit({ kind: 'update', step, content, members: trainerIds }, { committed, norms });
        break;
      }
      case 'announceRecord':
        for (const { trainerId, status } of state.trainers) {
          const peer = peers.get(trainerId);
          if (status !== 'loading' && peer !== undefined) sendRecords(peer, effect.sequence);
        }
        break;
      case 'retryRecord':
        write();
        break;
      case 'discardStaged':
        staging.clear();
        break;
      case 'rejectStep':
        send(effect.trainerId, { type: 'rejectStep', step: effect.step });
        break;
      case 'assignEvaluation': {
        const { step, sequences } = effect;
        send(effect.trainerId, { type: 'assignEvaluation', step, sequences });
        break;
      }
      case 'reportEvaluation':
        break;
      case 'requestSnapshot': {
        const { step, sequence } = effect;
        requested = effect;
        uploads.clear();
        request += 1;
        send(effect.trainerId, { type: 'requestSnapshot', step, sequence, request });
        break;
      }
      case 'requestLocalState': {
        const { step, sequence } = effect;
        send(effect.trainerId, { type: 'requestSnapshot', step, sequence, request });
        break;
      }
      case 'writeCheckpoint':
        writeCheckpoint(effect);
        break;
      case 'abandonCheckpoint':
        cancelWriting();
        requested = null;
        break;
      case 'closeConnection': {
        const peer = peers.get(effect.trainerId);
        if (peer !== undefined) disconnect(peer, effect.reason, effect.text);
        break;
      }
      case 'finishRun': {
        const reason = effect.outcome === 'completed' ? 'RUN_FINISHED' : 'COORDINATOR_STOPPING';
        for (const peer of Array.from(peers.values()))
          disconnect(peer, reason, `the run is ${effect.outcome}`);
        break;
      }
      default:
        effect satisfies never;
    }
  };

  /** All who are ready have a part in the step or are told that they have none, and the lots are the same each time. */
  const checkMembers = (effects: readonly Effect[]): void => {
    const assigned = effects.filter((effect) => effect.type === 'assignStep');
    if (assigned.length === 0) return;
    const idsOf = (each: readonly { readonly trainerId: string }[]): readonly string[] =>
      each.map(({ trainerId }) => trainerId).toSorted();
    const step = assigned[0]!.step;
    const members = idsOf(assigned);
    const passed = idsOf(effects.filter((effect) => effect.type === 'passOver'));
    const ready = idsOf(state.trainers.filter(({ status }) => status === 'ready'));
    const share = plan.participation?.share ?? 1;
    const count = Math.min(ready.length, Math.max(plan.minTrainers, Math.ceil(share * ready.length)));
    const isAll = [...members, ...passed].toSorted().join() === ready.join();
    if (!isAll || members.length !== Math.min(count, plan.batchSequences)) {
      invariants.violate(
        `step ${step} begins with ${members.join()} and without ${passed.join()} of ${ready.join()}`,
      );
    }
    if (plan.sharding === 'equal') invariants.membersDrawn(step, state.attempts, ready, members);
  };

  /** Without a quorum nobody is left behind before the deadline. */
  const checkWait = ({ step, received, attendance }: Extract<Effect, { type: 'commitUpdate' }>): void => {
    const { assigned, late } = attendance;
    const isAnyLost = received.length + late.length < assigned.length;
    if (late.length === 0 || isAnyLost || received.length >= quorumOf(plan, assigned.length)) return;
    const waitedMs = state.nowMs - assignedAtMs;
    if (waitedMs >= plan.stepDeadlineMs) return;
    invariants.violate(
      `step ${step} went on after ${waitedMs} ms with ${received.length} of ${assigned.length}: no quorum`,
    );
  };

  /** What a trainer sends must come from the weights that it says it has. */
  const checkWeights = (trainerId: string, what: string, weights: Fingerprint): void => {
    if (weights !== currentWeights() && !options.isCorrupted(trainerId)) {
      invariants.violate(`${what} from ${trainerId} was computed from other weights`);
    }
  };

  /** The real shell refuses a contribution of other sizes than its records have led to. */
  const checkShapes = (trainerId: string, step: number, shapes: string): void => {
    const ranks = state.bases.map(({ slot, rank }) => ({ slot, rank: rank ?? 0 }));
    if (shapes === shapesOf(ranks)) return;
    invariants.violate(
      `the contribution to step ${step} from ${trainerId} has ranks ${shapes}, not ${shapesOf(ranks)}`,
    );
  };

  /** Only what the core is going to take is checked: the rest is late or twice. */
  const isAwaited = (trainerId: string, step: number): boolean => {
    const { phase } = state;
    if (phase.phase !== 'sketching' && phase.phase !== 'collecting') return false;
    const isMember = phase.shards.some((shard) => shard.trainerId === trainerId);
    const isHere = phase.received.has(trainerId);
    return phase.step === step && isMember && !isHere;
  };

  const receive = (peer: Peer, message: UpMessage): void => {
    const { trainerId } = peer;
    switch (message.type) {
      case 'hello':
        // The same frame again: only this network does that. The real shell closes the connection.
        break;
      case 'ready': {
        const { sequence } = message;
        feed({ type: 'trainerReady', trainerId, sequence });
        break;
      }
      case 'heartbeat':
        feed({ type: 'trainerSeen', trainerId });
        break;
      case 'sketch': {
        const { step, round, tokens, from, factors } = message;
        if (isAwaited(trainerId, step) && 'round' in state.phase && state.phase.round === round) {
          checkWeights(trainerId, `the sketch of step ${step}`, from.weights);
          if (factors !== roundFactors) {
            invariants.violate(
              `the sketch of step ${step}, round ${round} from ${trainerId} has other factors`,
            );
          }
          staging.stageSketch(step, round, trainerId, from);
        }
        feed({ type: 'sketchReceived', trainerId, step, round, tokens });
        break;
      }
      case 'factor': {
        const { step, round, slots, content } = message;
        staging.stageFactor(step, round, trainerId, slots, content);
        feed({ type: 'factorReceived', trainerId, step, round, slots });
        break;
      }
      case 'contribution': {
        const { step, tokens, from } = message;
        if (isAwaited(trainerId, step)) {
          checkWeights(trainerId, `the contribution to step ${step}`, from.weights);
          checkShapes(trainerId, step, from.shapes);
          staging.stageContribution(step, trainerId, tokens, from);
        }
        feed({ type: 'contributionReceived', trainerId, step, tokens, lossSum: 2 * tokens });
        break;
      }
      case 'evaluation': {
        const { step, tokens, weights } = message;
        if (state.phase.phase === 'evaluating' && state.phase.step === step) {
          checkWeights(trainerId, `the evaluation of step ${step}`, weights);
        }
        feed({ type: 'evaluationReceived', trainerId, step, tokens, lossSum: 2 * tokens });
        break;
      }
      case 'stateHash':
        feed({
          type: 'stateHashReceived',
          trainerId,
          step: message.step,
          weightsSha256: hashOf(message.weights),
        });
        break;
      case 'snapshotPiece':
        feed({ type: 'snapshotProgressed', trainerId, step: message.step });
        break;
      case 'snapshot':
        if (message.request !== request) break; // for a checkpoint that was given up
        if (state.checkpoint?.awaited.includes(trainerId) === true) uploads.set(trainerId, message);
        feed({ type: 'snapshotReceived', trainerId, step: message.step });
        break;
      default:
        message satisfies never;
    }
  };

  const writeCheckpoint = (effect: Extract<Effect, { type: 'writeCheckpoint' }>): void => {
    const { step, trainerIds, weightsSha256 } = effect;
    const asked = requested;
    const snapshot = asked === null ? undefined : uploads.get(asked.trainerId)?.state;
    const locals = new Map(
      trainerIds.map((trainerId) => [trainerId, uploads.get(trainerId)?.local ?? []] as const),
    );
    if (asked?.step !== step || snapshot === undefined) {
      invariants.violate(`a checkpoint of step ${step} is to be written that nobody has sent`);
      return;
    }
    requested = null;
    if (snapshot.sequence !== asked.sequence) {
      invariants.violate(
        `the snapshot of step ${step} is of record ${snapshot.sequence}, not ${asked.sequence}`,
      );
    }
    const isAlone = (state.hashes?.step === step ? state.hashes.byTrainer.length : 0) < 2;
    cancelWriting = later(20 + 80 * dice(), () => {
      const isDiskFull = !options.hasRoom();
      if (isDiskFull || !options.canWriteCheckpoint()) {
        feed({ type: 'checkpointFailed', step, reason: 'no space is left', isDiskFull });
        return;
      }
      if (weightsSha256 !== null && weightsSha256 !== hashOf(snapshot.model)) {
        feed({ type: 'checkpointFailed', step, reason: 'the weights are not those that were told of' });
        return;
      }
      if (isAlone && disk.stateAfter(snapshot.sequence)?.weights !== snapshot.weights) {
        return options.onUnseen();
      }
      const { cursor, refreshedStep, bases } = asked;
      disk.writeCheckpoint({ state: snapshot, cursor, refreshedStep, bases, locals });
      feed({ type: 'checkpointWritten', step });
    });
  };

  /** The handshake: a trainer whose state is in the journal goes on from it, any other gets a snapshot. */
  const admit = (
    trainerId: string,
    held: Extract<UpMessage, { type: 'hello' }>['held'],
    socket: Socket<DownMessage>,
  ): Peer | null => {
    const { phase } = state;
    if (phase.phase === 'finished') {
      const reason = phase.outcome === 'completed' ? 'RUN_FINISHED' : 'COORDINATOR_STOPPING';
      const { code, meaning } = CLOSE_CODES[reason];
      socket.send({ type: 'goodbye', code, text: meaning });
      socket.close(code, meaning);
      return null;
    }
    const old = peers.get(trainerId);
    if (old !== undefined) disconnect(old, 'SUPERSEDED', 'a newer connection uses this id');
    const isKnown =
      held !== null &&
      held.runId === RUN_ID &&
      held.sequence <= state.sequence &&
      disk.stateAfter(held.sequence)?.digest === held.digest;
    const { state: snapshot, locals } = disk.checkpoints.reduce((a, b) =>
      b.state.sequence > a.state.sequence ? b : a,
    );
    const sentSequence = isKnown ? held.sequence : snapshot.sequence;
    const peer: Peer = { trainerId, socket, sentSequence, isGone: false };
    peers.set(trainerId, peer);
    feed({ type: 'trainerJoined', trainerId });
    if (peer.isGone) return null;
    socket.send({ type: 'welcome', runId: RUN_ID, hasSnapshot: !isKnown });
    const local = snapshot.step === state.step ? (locals.get(trainerId) ?? []) : [];
    if (!isKnown) socket.send({ type: 'snapshot', state: snapshot, local });
    feedLoading(peer);
    return peer;
  };

  network.serve((socket) => {
    let peer: Peer | null = null;
    let isRefused = false;
    return {
      received(message) {
        if (isDown || isRefused || peer?.isGone === true) return;
        if (peer !== null) {
          receive(peer, message);
        } else if (message.type === 'hello') {
          peer = admit(message.trainerId, message.held, socket);
          isRefused = peer === null;
        } else {
          isRefused = true;
          const { code } = CLOSE_CODES.UNEXPECTED_MESSAGE;
          socket.close(code, 'the first message is not Hello');
        }
      },
      closed(_code, text) {
        if (isDown || peer === null || peer.isGone) return;
        peer.isGone = true;
        peers.delete(peer.trainerId);
        feed({ type: 'trainerLost', trainerId: peer.trainerId, reason: text });
      },
    };
  });

  const stopTicking = clock.repeat(options.tickIntervalMs, () => feed({ type: 'ticked' }));
  const stopPinging = clock.repeat(options.pingIntervalMs, () => {
    for (const { socket } of peers.values()) socket.send({ type: 'ping' });
  });

  return {
    state: () => state,
    note: () => note,
    stop: () => feed({ type: 'stopRequested' }),
    crash() {
      isDown = true;
      stopTicking();
      stopPinging();
      network.serve(null);
    },
  };
}

type EventWithoutTime = Event extends infer E ? (E extends Event ? Omit<E, 'nowMs'> : never) : never;
