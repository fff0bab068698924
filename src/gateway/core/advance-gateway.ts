/**
 * A gateway's rules: `advanceGateway(state, event)` gives the next state and the commands for the shell. Pure. What the
 * coordinator gives it is split among its trainers, what they answer is one answer. What it cannot do any more because
 * trainers are gone, it says (the sequences that are not in its contribution), or else it gives up its connection: then
 * it is to the coordinator as a trainer that was lost, and everything is handed out again. This file hands each event to
 * the rules it is for, and says what a loss means for all of them. See docs/gateways.md.
 */
import { insertById } from '../../coordinator/core/by-id.ts';
import { askSnapshot, endCheckpoint, loseUploader, oweNothing, takeSnapshot } from './checkpointing.ts';
import { askEvaluation, handOnEvaluations, takeEvaluation } from './evaluating.ts';
import type { BehindState, GatewayEvent, GatewayState, GatewayTransition } from './gateway-state.ts';
import { expectHashes, forgetHash, takeHash } from './hashing.ts';
import { askFactors, askSketches, takeFactor, takeSketch } from './refreshing.ts';
import { beginStep, dropMember, endStep, leaveBehind, takeBases, takeContribution } from './stepping.ts';
import { Turn, type EventOf } from './turn.ts';
import { dropWork } from './voiding.ts';

/** Where a gateway stands that has stored the state of record `sequence`, and knows no trainer yet. */
export function initialGateway(
  at: Pick<GatewayState, 'sequence' | 'committedStep' | 'hashEvery' | 'nowMs'>,
): GatewayState {
  return {
    ...at,
    trainers: [],
    work: null,
    evaluations: [],
    snapshot: null,
    hashes: null,
    isUp: false,
    toldCapacity: 0,
  };
}

export function advanceGateway(state: GatewayState, event: GatewayEvent): GatewayTransition {
  const nowMs = Math.max(state.nowMs, event.nowMs);
  const turn = new Turn({ ...state, nowMs }, { loseTrainer, loseLeader });
  route(turn, event);
  tellCapacity(turn);
  return turn.transition;
}

function route(turn: Turn, event: GatewayEvent): void {
  switch (event.type) {
    case 'trainerJoined':
      return admit(turn, event.trainerId);
    case 'trainerReady':
      return turn.setStatus([event.trainerId], 'ready');
    case 'trainerSeen':
      return;
    case 'trainerLost':
      turn.remark(`${event.trainerId} is lost: ${event.reason}`);
      return loseTrainer(turn, event.trainerId);
    case 'sketchReceived':
      return takeSketch(turn, event);
    case 'factorReceived':
      return takeFactor(turn, event);
    case 'contributionReceived':
      return takeContribution(turn, event);
    case 'evaluationReceived':
      return takeEvaluation(turn, event);
    case 'stateHashReceived':
      return takeHash(turn, event);
    case 'snapshotReceived':
      return takeSnapshot(turn, event);
    case 'checkpointWritten':
    case 'checkpointFailed':
      return endCheckpoint(turn, event);
    case 'recordStored':
      return passRecord(turn, event);
    case 'stepAssigned':
      return beginStep(turn, event);
    case 'sketchesAsked':
      return askSketches(turn, event);
    case 'factorsAsked':
      return askFactors(turn, event);
    case 'evaluationAsked':
      return askEvaluation(turn, event);
    case 'snapshotAsked':
      return askSnapshot(turn, event);
    case 'leaderJoined':
      return turn.patch({ isUp: true, toldCapacity: 0 });
    case 'leaderLost':
      return loseLeader(turn, event.reason);
    case 'ticked':
      return leaveBehind(turn);
    default:
      return event satisfies never;
  }
}

/** Takes in a trainer; an older connection of it is gone. */
function admit(turn: Turn, trainerId: string): void {
  loseTrainer(turn, trainerId);
  const joined: BehindState = { trainerId, status: 'loading' };
  turn.patch({ trainers: insertById(turn.state.trainers, joined) });
}

function passRecord(turn: Turn, { sequence, step, kind }: EventOf<'recordStored'>): void {
  turn.patch({ sequence });
  if (kind === 'basis') return takeBases(turn, step);
  endStep(turn, step);
  expectHashes(turn, step);
}

/** The coordinator shares work out by how many trainers are ready; with none left nothing must be asked of us. */
function tellCapacity(turn: Turn): void {
  const { isUp, toldCapacity } = turn.state;
  const trainers = turn.ready.length;
  if (!isUp || trainers === toldCapacity) return;
  if (trainers === 0) return turn.reconnect('no trainer is ready behind the gateway');
  turn.patch({ toldCapacity: trainers });
  turn.emit({ type: 'tellCapacity', trainers });
}

function loseTrainer(turn: Turn, trainerId: string): void {
  const { trainers } = turn.state;
  if (!trainers.some((trainer) => trainer.trainerId === trainerId)) return;
  turn.patch({ trainers: trainers.filter((trainer) => trainer.trainerId !== trainerId) });
  forgetHash(turn, trainerId);
  loseUploader(turn, trainerId);
  dropMember(turn, trainerId);
  handOnEvaluations(turn, trainerId);
}

/** What it has asked for is void. */
function loseLeader(turn: Turn, reason: string): void {
  turn.patch({ isUp: false, toldCapacity: 0 });
  oweNothing(turn);
  dropWork(turn, reason);
}
