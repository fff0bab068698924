/**
 * Which records of a journal are replayed from which checkpoint, and at which checkpoints the state is compared.
 * Pure; the files are looked at in replay-source.ts.
 */
import type { RecordPlace } from './journal-scan.ts';

/** What a checkpoint says of itself; null: it cannot be read, and `fault` says why. */
export interface KnownCheckpoint {
  readonly step: number;
  /** The last record it includes. */
  readonly sequence: number | null;
  readonly fault: string | null;
}

/** What of a journal can be read. */
export interface ReadableJournal {
  /** The first record there is, or would be. */
  readonly firstSequence: number;
  readonly records: readonly Pick<RecordPlace, 'sequence' | 'step' | 'kind'>[];
}

/** What was asked for; null: as far as it goes. */
export interface ReplayWish {
  readonly fromStep: number | null;
  readonly toStep: number | null;
}

/** A range that can be replayed. */
export interface ReplayPlan {
  /** The checkpoint it begins with. */
  readonly fromStep: number;
  readonly firstSequence: number;
  /** The last record; `firstSequence - 1`: there is none behind the checkpoint. */
  readonly lastSequence: number;
  readonly toStep: number;
  /** Checkpoints on the way, ascending; also those before it that the replay would have begun with, were they sound. */
  readonly compared: readonly KnownCheckpoint[];
}

/** Why there is no such range, and what can be done instead. */
export interface NoReplay {
  readonly fault: string;
  /** What was asked for that there is not; null: it is the run's fault. */
  readonly option: '--from' | '--to' | null;
}

/** The range to replay. */
export function planReplay(
  checkpoints: readonly KnownCheckpoint[],
  journal: ReadableJournal,
  wish: ReplayWish,
): ReplayPlan | NoReplay {
  const start = chooseStart(checkpoints, journal, wish.fromStep);
  if ('fault' in start) return start;
  const behind = journal.records.filter(({ sequence }) => sequence > start.sequence);
  const headStep = stepAfter(behind, start.step);
  const toStep = wish.toStep ?? headStep;
  if (toStep < start.step) {
    const fault = `step ${toStep} is before the checkpoint of step ${start.step}, where the replay begins`;
    return { fault, option: '--to' };
  }
  if (toStep > headStep) return { fault: `the journal ends with step ${headStep}`, option: '--to' };
  const last = checkpoints.find(({ step }) => step === toStep)?.sequence ?? 0;
  // The checkpoint of the last step may hold the bases of the next one.
  const records = behind.filter(
    ({ sequence, step }) => wish.toStep === null || step <= toStep || sequence <= last,
  );
  return {
    fromStep: start.step,
    firstSequence: start.sequence + 1,
    lastSequence: records.at(-1)?.sequence ?? start.sequence,
    toStep,
    compared: checkpoints.filter(
      ({ step, fault }) =>
        step <= toStep && (step > start.step || (fault !== null && wish.fromStep === null)),
    ),
  };
}

interface Start {
  readonly step: number;
  readonly sequence: number;
}

/** The oldest checkpoint that the journal goes on from, or the one of `fromStep`. */
function chooseStart(
  checkpoints: readonly KnownCheckpoint[],
  { firstSequence }: ReadableJournal,
  fromStep: number | null,
): Start | NoReplay {
  if (checkpoints.length === 0) return { fault: 'there is no checkpoint to begin with', option: null };
  const wanted = fromStep === null ? checkpoints : checkpoints.filter(({ step }) => step === fromStep);
  if (wanted.length === 0) {
    const steps = checkpoints.map(({ step }) => step).join(', ');
    const fault = `there is no checkpoint of step ${fromStep}; there are those of steps ${steps}`;
    return { fault, option: '--from' };
  }
  const isCovered = ({ sequence }: Start): boolean => sequence >= firstSequence - 1;
  const readable = wanted.flatMap(asStart);
  const start = readable.find(isCovered);
  if (start !== undefined) return start;
  const newest = readable.at(-1);
  if (newest === undefined) {
    return { fault: wanted.map(({ fault }) => fault).join('; '), option: null };
  }
  const others = checkpoints.flatMap(asStart).filter(isCovered);
  const hint =
    others.length === 0 ? '' : `; --from ${others.map(({ step }) => step).join(' or ')} can be used`;
  const lost = `records ${newest.sequence + 1} to ${firstSequence - 1}`;
  return {
    fault: `${lost}, between the checkpoint of step ${newest.step} and the journal, are not there any more${hint}`,
    option: null,
  };
}

function asStart({ step, sequence }: KnownCheckpoint): Start[] {
  return sequence === null ? [] : [{ step, sequence }];
}

/** The committed step after these records. */
function stepAfter(records: ReadableJournal['records'], before: number): number {
  return records.findLast(({ kind }) => kind === 'update')?.step ?? before;
}

/** What can be replayed of a journal that is damaged behind `journal`, in words; '' for nothing. */
export function describeRest(
  checkpoints: readonly KnownCheckpoint[],
  journal: ReadableJournal,
  laterSegments: readonly number[],
): string {
  const starts = checkpoints.flatMap(asStart);
  const first = starts.find(({ sequence }) => sequence >= journal.firstSequence - 1);
  const headStep = first === undefined ? 0 : stepAfter(journal.records, first.step);
  const later = starts.filter(({ sequence }) => laterSegments.some((segment) => segment <= sequence + 1));
  const ways = [
    ...(first !== undefined && headStep > first.step
      ? [`steps ${first.step + 1} to ${headStep} with --to ${headStep}`]
      : []),
    ...(later[0] === undefined ? [] : [`steps from ${later[0].step + 1} on with --from ${later[0].step}`]),
  ];
  return ways.length === 0 ? 'nothing can be replayed' : `what can be replayed: ${ways.join('; ')}`;
}
