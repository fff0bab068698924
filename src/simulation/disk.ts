/** What survives a crash of the simulated coordinator: its journal and its checkpoints. */
import type { StartingPoint } from '../coordinator/core/advance.ts';
import type { Cursor, SlotBasis } from '../coordinator/core/state.ts';
import { createInvariants, type CommittedStep, type Invariants } from './invariants.ts';
import {
  applyRecord,
  chainDigest,
  type Fingerprint,
  type SimulatedRecord,
  type SimulatedState,
} from './messages.ts';

export interface JournalEntry {
  readonly record: SimulatedRecord;
  readonly committed: CommittedStep | null; // of an update
}

export interface Checkpoint {
  readonly state: SimulatedState;
  readonly cursor: Cursor;
  readonly refreshedStep: number;
  readonly bases: readonly SlotBasis[];
}

export interface Disk {
  readonly journal: readonly JournalEntry[];
  readonly checkpoints: readonly Checkpoint[];
  /** The rules for this journal and everyone who follows it. */
  readonly invariants: Invariants;
  /** The state after record `sequence`, as the journal defines it. */
  stateAfter(sequence: number): SimulatedState | undefined;
  append(kind: 'basis' | 'update', step: number, content: Fingerprint, committed: CommittedStep | null): void;
  writeCheckpoint(checkpoint: Checkpoint): void;
  /** Where a coordinator that starts now begins. */
  startingPoint(nowMs: number): StartingPoint;
}

export function createDisk(initial: SimulatedState): Disk {
  const journal: JournalEntry[] = [];
  const states: SimulatedState[] = [initial];
  const checkpoints: Checkpoint[] = [
    { state: initial, cursor: { next: 0, returned: [] }, refreshedStep: 0, bases: [] },
  ];
  const invariants = createInvariants((sequence) => states[sequence]?.weights);
  return {
    journal,
    checkpoints,
    invariants,
    stateAfter: (sequence) => states[sequence],
    append(kind, step, content, committed) {
      const before = states.at(-1) as SimulatedState;
      const sequence = before.sequence + 1;
      const digest = chainDigest(before.digest, sequence, step, content);
      const record = { sequence, step, kind, content, digest };
      journal.push({ record, committed });
      states.push(applyRecord(before, record));
      invariants.recordWritten(record, committed);
    },
    writeCheckpoint(checkpoint) {
      const expected = states[checkpoint.state.sequence];
      if (expected?.weights !== checkpoint.state.weights) {
        invariants.violate(
          `the checkpoint of step ${checkpoint.state.step} has other weights than the journal`,
        );
      }
      checkpoints.push(checkpoint);
    },
    startingPoint(nowMs) {
      const newest = states.at(-1) as SimulatedState;
      const updates = journal.flatMap(({ committed }) => (committed === null ? [] : [committed]));
      const bases = journal.filter(({ record }) => record.kind === 'basis');
      return {
        step: newest.step,
        sequence: newest.sequence,
        refreshedStep: bases.at(-1)?.record.step ?? 0,
        bases: [],
        cursor: updates.at(-1)?.cursor ?? { next: 0, returned: [] },
        checkpointedStep: Math.max(...checkpoints.map(({ state }) => state.step)),
        nowMs,
      };
    },
  };
}
