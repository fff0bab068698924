/**
 * Checkpoints: at one of the run's the gateway takes one of its own from a trainer, for those who join, whether or not
 * the coordinator wants the state from here.
 */
import type { SnapshotState } from './gateway-state.ts';
import type { EventOf, Turn } from './turn.ts';

export function askSnapshot(turn: Turn, { step, sequence, isLocalOnly }: EventOf<'snapshotAsked'>): void {
  const [trainerId] = turn.ready;
  if (trainerId === undefined || sequence !== turn.state.sequence) {
    return turn.reconnect(`no trainer can send the state of record ${sequence}`);
  }
  const { snapshot, hashes } = turn.state;
  if (snapshot !== null) giveUp(turn, snapshot);
  if (hashes?.step !== step) {
    turn.patch({ hashes: { step, expected: [trainerId], told: [], isSent: false } });
  }
  turn.patch({ snapshot: { step, sequence, trainerId, isAskedFor: !isLocalOnly, isOwed: true } });
  turn.emit({ type: 'requestSnapshot', trainerId, step, sequence });
  endLocalSnapshot(turn);
}

/** All of it is here. */
export function takeSnapshot(turn: Turn, { trainerId, step }: EventOf<'snapshotReceived'>): void {
  const { snapshot, hashes } = turn.state;
  if (snapshot?.trainerId !== trainerId || snapshot.step !== step) return;
  turn.patch({ snapshot: { ...snapshot, trainerId: null } });
  const told = hashes?.step === step ? hashes.told : [];
  const weightsSha256 = told.find((each) => each.trainerId === trainerId)?.weightsSha256 ?? null;
  turn.emit({ type: 'writeCheckpoint', step, trainerId, weightsSha256 });
}

/** It is on disk, or cannot be. */
export function endCheckpoint(
  turn: Turn,
  { type, step }: EventOf<'checkpointWritten' | 'checkpointFailed'>,
): void {
  const { snapshot } = turn.state;
  if (snapshot?.step !== step) return;
  turn.patch({ snapshot: null });
  if (!snapshot.isOwed) return;
  const { sequence } = snapshot;
  if (type === 'checkpointWritten' && snapshot.isAskedFor) {
    return turn.emit({ type: 'sendSnapshot', step, sequence });
  }
  if (snapshot.isAskedFor) return turn.reconnect(`the state of step ${step} could not be kept`);
  turn.emit({ type: 'endSnapshot', step, sequence });
}

/** The coordinator wanted only the hash, and has it. */
export function endLocalSnapshot(turn: Turn): void {
  const { snapshot, hashes } = turn.state;
  if (snapshot === null || snapshot.isAskedFor || !snapshot.isOwed) return;
  if (hashes?.step !== snapshot.step || !hashes.isSent) return;
  end(turn, snapshot);
}

/** A trainer is gone that was, perhaps, sending the state. */
export function loseUploader(turn: Turn, trainerId: string): void {
  const { snapshot } = turn.state;
  if (snapshot?.trainerId !== trainerId) return;
  if (snapshot.isAskedFor && snapshot.isOwed) {
    turn.reconnect(`${trainerId} was sending the state of step ${snapshot.step}`);
  }
  const left = turn.state.snapshot;
  if (left !== null) giveUp(turn, left);
}

/** The coordinator is gone: nothing is owed to it any more. What is on its way is kept all the same. */
export function oweNothing(turn: Turn): void {
  const { snapshot } = turn.state;
  if (snapshot !== null) turn.patch({ snapshot: { ...snapshot, isAskedFor: false, isOwed: false } });
}

function giveUp(turn: Turn, snapshot: SnapshotState): void {
  if (snapshot.trainerId !== null) turn.emit({ type: 'abandonCheckpoint', step: snapshot.step });
  if (snapshot.isOwed) end(turn, snapshot);
  turn.patch({ snapshot: null });
}

function end(turn: Turn, snapshot: SnapshotState): void {
  turn.patch({ snapshot: { ...snapshot, isOwed: false } });
  const { step, sequence } = snapshot;
  turn.emit({ type: 'endSnapshot', step, sequence });
}
