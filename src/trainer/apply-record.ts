/**
 * What a snapshot and the records after it make of the state of a run: the same for a trainer that takes part
 * in it (trainer.ts) and for one that only follows it (follower.ts).
 */
import { floatsOf } from '../array-bytes.ts';
import type { SlotBasisChange } from '../galore/feedback/feedback.ts';
import { withRanks } from '../galore/slot.ts';
import type { CommitMessage } from '../protocol/messages.ts';
import type { AssembledTensor } from '../protocol/parts.ts';
import { ranksIn } from '../protocol/slot-sizes.ts';
import { generateBases } from './generated-bases.ts';
import { Replica, type StateArray } from './replica.ts';
import type { WelcomedRun } from './welcomed-run.ts';

/** The numbers of a tensor of a snapshot. */
export function stateArrayOf({ codec, bytes }: Pick<AssembledTensor, 'codec' | 'bytes'>): StateArray {
  return codec === 'u8' ? bytes : floatsOf(bytes);
}

/** The state that a snapshot holds, at the ranks of its bases; `state` by the names in the state table. */
export function replicaOf(
  { config, shape, snapshot }: WelcomedRun,
  state: ReadonlyMap<string, StateArray>,
): Replica {
  const slots = withRanks(shape.slots, ranksIn(snapshot?.tensors ?? [], shape.sizes));
  return new Replica(slots, state, config, shape.parameters);
}

/** Brings the state up to the next record. `onBasisChange` is told of each slot whose basis is about to be replaced. */
export function applyRecord(
  replica: Replica,
  { config, shape }: Pick<WelcomedRun, 'config' | 'shape'>,
  { record, step }: Pick<CommitMessage, 'record' | 'step'>,
  tensors: readonly AssembledTensor[],
  onBasisChange?: (change: SlotBasisChange) => void,
): void {
  const bySlot = new Map(tensors.map((tensor) => [tensor.tensor, tensor]));
  if (record.type === 'update') return replica.applyUpdate(step, record.learningRate, bySlot);
  const bases = record.isGenerated ? generateBases(shape, config.seed, step, record.slots) : bySlot;
  replica.installBases(step, bases, record.keptSlots, onBasisChange);
}
