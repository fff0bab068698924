/** Replays a range of a run and compares on the way. What is computed is the follower's, what is read the source's. */
import { setImmediate } from 'node:timers/promises';
import type { ReplaySource } from '../coordinator/replay-source.ts';
import { compareWithCheckpoint } from '../coordinator/store/compare-state.ts';
import type { Follower } from '../trainer/follower.ts';

/** The state after some record, beside what is known of it: a checkpoint, or the hash that the run's trainers told. */
export interface ReplayRow {
  readonly step: number;
  /** Replayed up to here. */
  readonly records: number;
  /** Of the weights here; null: the checkpoint does not say after which record it was made. */
  readonly weightsSha256: string | null;
  readonly comparedWith: 'checkpoint' | 'trainers' | null;
  /** What these state; null: the checkpoint is damaged, or there is nothing. */
  readonly statedSha256: string | null;
  /** Null: there is nothing to compare with. */
  readonly isEqual: boolean | null;
  /** What differs or is damaged, in words; null: nothing. */
  readonly reason: string | null;
}

/** What came of a replay. */
export interface ReplayResult {
  readonly from: number;
  readonly to: number;
  readonly steps: number;
  readonly records: number;
  /** At the end. */
  readonly weightsSha256: string;
  /** Nothing on the way differs or is damaged. */
  readonly equal: boolean;
  readonly rows: readonly ReplayRow[];
}

/** Computes the state record by record, and compares it with every checkpoint and every told hash it comes past. */
export async function replay(
  source: ReplaySource,
  follower: Follower,
  checkpointsDir: string,
  onStep: (step: number) => void,
): Promise<ReplayResult> {
  const { fromStep: from, toStep: to, compared } = source.plan;
  const rows: ReplayRow[] = [];
  for (const { step, sequence, fault } of compared) {
    if (sequence !== null) continue;
    const known = { weightsSha256: null, comparedWith: 'checkpoint', statedSha256: null } as const;
    rows.push({ step, records: 0, ...known, isEqual: false, reason: fault });
  }
  for await (const frame of source.snapshot()) follower.take(frame);
  let records = 0;
  let step = from;
  let hashed: { readonly records: number; readonly weightsSha256: string } | null = null;
  /** Of the weights after the last record, made once for each. */
  const weightsNow = (): string => {
    if (hashed?.records !== records) hashed = { records, weightsSha256: follower.weightsSha256() };
    return hashed.weightsSha256;
  };
  rows.push(startRow(from, source.weightsSha256, weightsNow()));
  for await (const frame of source.records()) {
    const commit = follower.take(frame);
    if (commit === null) continue;
    records++;
    const told = commit.record.type === 'update' ? source.stateHashes.get(commit.step) : undefined;
    if (commit.record.type === 'update') step = commit.step;
    const here = compared.find(({ sequence }) => sequence === commit.sequence);
    if (told !== undefined) rows.push(toldRow(step, records, told, weightsNow()));
    if (here !== undefined) {
      const weightsSha256 = weightsNow();
      const comparison = await compareWithCheckpoint(checkpointsDir, here.step, follower.state());
      const isEqual = comparison.reason === null;
      rows.push({ step, records, weightsSha256, comparedWith: 'checkpoint', ...comparison, isEqual });
    }
    onStep(step);
    await setImmediate(); // the engine blocks: let signals in
  }
  const weightsSha256 = weightsNow();
  if (rows.at(-1)?.records !== records) {
    const nothing = { comparedWith: null, statedSha256: null, isEqual: null, reason: null };
    rows.push({ step, records, weightsSha256, ...nothing });
  }
  const equal = rows.every(({ isEqual }) => isEqual !== false);
  return { from, to, steps: to - from, records, weightsSha256, equal, rows };
}

/** The state as it was read has the hash that the checkpoint states; but weights of step 0 may have become int8. */
function startRow(step: number, statedSha256: string, weightsSha256: string): ReplayRow {
  const row = { step, records: 0, weightsSha256, comparedWith: 'checkpoint', statedSha256 } as const;
  if (weightsSha256 === statedSha256) return { ...row, isEqual: true, reason: null };
  if (step === 0) return { ...row, isEqual: null, reason: null };
  return { ...row, isEqual: false, reason: 'its weights are not those it states' };
}

function toldRow(step: number, records: number, statedSha256: string, weightsSha256: string): ReplayRow {
  const isEqual = weightsSha256 === statedSha256;
  const reason = isEqual ? null : `the weights of the trainers had SHA-256 ${statedSha256}`;
  return { step, records, weightsSha256, comparedWith: 'trainers', statedSha256, isEqual, reason };
}
