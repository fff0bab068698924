/** What survives a crash of the simulated coordinator: its journal and its checkpoints. */
import type { StartingPoint } from '../coordinator/core/advance.ts';
import { foldBases, foldNorms, type BasisFact, type SlotNorm } from '../coordinator/core/refresh-schedule.ts';
import type { Cursor, GapPlan, SlotBasis } from '../coordinator/core/state.ts';
import { createInvariants, type CommittedStep, type Invariants } from './invariants.ts';
import {
  applyRecord,
  chainDigest,
  type LocalSteps,
  type SimulatedRecord,
  type SimulatedState,
} from './messages.ts';

export interface JournalEntry {
  readonly record: SimulatedRecord;
  readonly committed: CommittedStep | null; // of an update
  /** What the real record says of its slots. */
  readonly bases: readonly BasisFact[];
  readonly norms: readonly SlotNorm[];
}

export interface Checkpoint {
  readonly state: SimulatedState;
  readonly cursor: Cursor;
  readonly refreshedStep: number;
  readonly bases: readonly SlotBasis[];
  /** By trainer id. */
  readonly locals: ReadonlyMap<string, LocalSteps>;
}

export interface Disk {
  readonly journal: readonly JournalEntry[];
  readonly checkpoints: readonly Checkpoint[];
  /** The rules for this journal and everyone who follows it. */
  readonly invariants: Invariants;
  /** The state after record `sequence`, as the journal defines it. */
  stateAfter(sequence: number): SimulatedState | undefined;
  append(record: Omit<SimulatedRecord, 'sequence' | 'digest'>, entry: Omit<JournalEntry, 'record'>): void;
  writeCheckpoint(checkpoint: Checkpoint): void;
  /** Where a coordinator that starts now begins. */
  startingPoint(nowMs: number, plan: GapPlan): StartingPoint;
}

export function createDisk(initial: SimulatedState): Disk {
  const journal: JournalEntry[] = [];
  const states: SimulatedState[] = [initial];
  const checkpoints: Checkpoint[] = [
    { state: initial, cursor: { next: 0, returned: [] }, refreshedStep: 0, bases: [], locals: new Map() },
  ];
  const invariants = createInvariants((sequence) => states[sequence]?.weights);
  return {
    journal,
    checkpoints,
    invariants,
    stateAfter: (sequence) => states[sequence],
    append({ kind, step, content, ranks, members }, entry) {
      const before = states.at(-1) as SimulatedState;
      const sequence = before.sequence + 1;
      const digest = chainDigest(before.digest, sequence, step, content);
      const record = { sequence, step, kind, content, digest, ranks, members };
      journal.push({ record, ...entry });
      states.push(applyRecord(before, record));
      invariants.recordWritten(record, entry.committed);
    },
    writeCheckpoint(checkpoint) {
      const expected = states[checkpoint.state.sequence];
      if (expected?.weights !== checkpoint.state.weights) {
        invariants.violate(
          `the checkpoint of step ${checkpoint.state.step} has other weights than the journal`,
        );
      }
      for (const [trainerId, local] of checkpoint.locals) {
        invariants.localKept(trainerId, checkpoint.state.step, local);
      }
      checkpoints.push(checkpoint);
    },
    startingPoint(nowMs, plan) {
      const newest = states.at(-1) as SimulatedState;
      const updates = journal.flatMap(({ committed }) => (committed === null ? [] : [committed]));
      const bases = journal.filter(({ record }) => record.kind === 'basis');
      return {
        step: newest.step,
        sequence: newest.sequence,
        refreshedStep: bases.at(-1)?.record.step ?? 0,
        bases: basesAfter(checkpoints.at(-1) as Checkpoint, journal, plan),
        cursor: updates.at(-1)?.cursor ?? { next: 0, returned: [] },
        checkpointedStep: Math.max(...checkpoints.map(({ state }) => state.step)),
        nowMs,
      };
    },
  };
}

/** As the real coordinator does when it starts: the checkpoint's, and the records after it. */
function basesAfter(
  { state, bases }: Checkpoint,
  journal: readonly JournalEntry[],
  plan: GapPlan,
): readonly SlotBasis[] {
  return journal
    .slice(state.sequence)
    .reduce(
      (known, { record, bases: facts, norms }) =>
        record.kind === 'basis' ? foldBases(known, record.step, facts, plan) : foldNorms(known, norms),
      bases,
    );
}
