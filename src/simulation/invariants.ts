/**
 * What must hold in every run, whatever goes wrong. A violation is a sentence; a run without any is
 * right. The checks see everything, more than any process of the run does.
 */
import type { Cursor } from '../coordinator/core/state.ts';
import type { Fingerprint, LocalSteps, SimulatedRecord } from './messages.ts';

/** One committed update, as the journal has it. */
export interface CommittedStep {
  readonly step: number;
  readonly trainerIds: readonly string[];
  /** `a:3 b:1`: how many sequences each contributed. */
  readonly shares: readonly string[];
  readonly positions: readonly number[];
  readonly cursor: Cursor;
}

export interface Invariants {
  readonly violations: readonly string[];
  violate(text: string): void;
  /** Each step is committed once, in order, and no position is used twice. */
  recordWritten(record: SimulatedRecord, committed: CommittedStep | null): void;
  /** All trainers have the same weights after the same record. */
  stateReached(trainerId: string, sequence: number, weights: Fingerprint): void;
  /** The same try of a step draws the same members of the same trainers, also after the coordinator began anew. */
  membersDrawn(step: number, attempts: number, readyIds: readonly string[], members: readonly string[]): void;
  /** What a trainer keeps lacks none of the steps that counted it, up to this one, since it began with zeros. */
  localKept(trainerId: string, step: number, local: LocalSteps): void;
}

export function createInvariants(expectedWeights: (sequence: number) => Fingerprint | undefined): Invariants {
  const violations: string[] = [];
  const used = new Set<number>();
  /** Steps by the trainers that they counted. */
  const counted = new Map<string, number[]>();
  /** Members of a step, by the step and who was ready. */
  const drawn = new Map<string, string>();
  let sequence = 0;
  let step = 0;
  let refreshedStep = 0;
  const violate = (text: string): void => {
    // A wrong run repeats itself; the first few tell what went wrong.
    if (violations.length < 20) violations.push(text);
  };
  return {
    violations,
    violate,
    recordWritten(record, committed) {
      sequence += 1;
      if (record.sequence !== sequence) violate(`record ${record.sequence} is written as number ${sequence}`);
      if (committed === null) {
        if (record.step !== step + 1) violate(`bases of step ${record.step} after step ${step}`);
        if (refreshedStep === record.step) violate(`step ${record.step} is refreshed twice`);
        refreshedStep = record.step;
        return;
      }
      if (committed.step !== step + 1) violate(`step ${committed.step} is committed after step ${step}`);
      step = committed.step;
      for (const trainerId of committed.trainerIds) {
        counted.set(trainerId, [...(counted.get(trainerId) ?? []), step]);
      }
      for (const position of committed.positions) {
        if (used.has(position)) violate(`position ${position} is used again in step ${committed.step}`);
        used.add(position);
      }
      const { next, returned } = committed.cursor;
      const isBack = new Set(returned);
      for (let position = 0; position < next; position++) {
        if (used.has(position) === isBack.has(position)) {
          const what = used.has(position) ? 'used and also returned' : 'passed over';
          violate(`position ${position} is ${what} after step ${committed.step}`);
        }
      }
    },
    membersDrawn(at, attempts, readyIds, members) {
      const key = `${at}, try ${attempts + 1}, of ${readyIds.join()}`;
      const before = drawn.get(key);
      drawn.set(key, members.join());
      if (before !== undefined && before !== members.join()) {
        violate(`step ${key} has the members ${members.join()}, not ${before}`);
      }
    },
    localKept(trainerId, at, local) {
      const steps = (counted.get(trainerId) ?? []).filter((each) => each <= at);
      const right = local.length === 0 ? [] : steps.slice(-local.length);
      if (local.join() === right.join()) return;
      violate(
        `${trainerId} keeps what is left of steps ${local.join()} after step ${at}, not ${right.join()}`,
      );
    },
    stateReached(trainerId, at, weights) {
      const expected = expectedWeights(at);
      if (expected !== undefined && expected !== weights) {
        violate(`${trainerId} has other weights than the journal after record ${at}`);
      }
    },
  };
}
