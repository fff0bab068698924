/** From what coordinator and trainers wrote down to what `galore bench wan` prints. Pure. */
import type { TrafficReport } from '../../coordinator/traffic.ts';
import type { TrafficKind } from '../../protocol/frame-kind.ts';
import type { StepMoments } from '../../trainer/step-times.ts';
import { countedSteps, WARM_UP_STEPS, type LinkState, type Turn } from './turns.ts';

/** A line of metrics.jsonl. */
export interface StepMetrics {
  readonly step: number;
  readonly tokens: number;
  /** From the record before to this step's. */
  readonly seconds: number;
  readonly traffic: TrafficReport;
}

/** A line `trainer.step` of a trainer's log. */
export interface TrainerStep extends StepMoments {
  readonly trainer: string;
  readonly step: number;
  readonly busySeconds: number;
}

/** A line `record.committed` of the coordinator's log. */
export interface CommittedRecord {
  readonly step: number;
  readonly committedMs: number;
  readonly sealSeconds: number;
  readonly writeSeconds: number;
}

/** All that was written down. */
export interface WanRecords {
  readonly metrics: readonly StepMetrics[];
  readonly trainerSteps: readonly TrainerStep[];
  readonly updates: readonly CommittedRecord[];
}

/**
 * Where the seconds go between the commits of two steps, on the path of the trainer whose contribution was ready
 * last: they follow each other and their sum is the step.
 */
export interface TimeLine {
  /** The update of the step before comes to the trainer as a whole. */
  readonly download: number;
  /** What of it was not applied by then. */
  readonly apply: number;
  /** Until the sequences of the step are there. */
  readonly assign: number;
  /** Until the whole contribution is encoded: forward, backward, projection. */
  readonly compute: number;
  /** Until the coordinator has all of it. */
  readonly upload: number;
  /** The rest of the sum is made and encoded. */
  readonly seal: number;
  /** It is written and synced. */
  readonly journal: number;
}

export interface StepTimesOf {
  readonly secondsPerStep: number;
  readonly tokensPerSecond: number;
  /** Of the trainer that worked longest: its main thread from handling one step's first message to the last. */
  readonly computeSecondsPerStep: number;
  readonly timeLine: TimeLine;
  readonly stepSeconds: readonly number[];
}

/** Of one trainer in a step. */
export interface WanBytes {
  readonly total: number;
  /** Of that, all slots' refresh divided by the steps between two. */
  readonly refresh: number;
}

export interface WanMeasurement {
  readonly shaped: StepTimesOf;
  readonly unshaped: StepTimesOf;
  readonly up: WanBytes;
  readonly down: WanBytes;
}

/** @param refreshGap steps from one refresh of a slot to the next */
export function measure(records: WanRecords, turns: readonly Turn[], refreshGap: number): WanMeasurement {
  return {
    shaped: timesOf(records, countedSteps(turns, 'shaped'), 'shaped'),
    unshaped: timesOf(records, countedSteps(turns, 'unshaped'), 'unshaped'),
    up: bytesOf(records.metrics, 'up', refreshGap),
    down: bytesOf(records.metrics, 'down', refreshGap),
  };
}

function timesOf(records: WanRecords, steps: readonly number[], links: LinkState): StepTimesOf {
  const metrics = steps.map((step) => found(records.metrics, step, 'metrics.jsonl'));
  const trainerSteps = steps.map((step) => {
    const lines = records.trainerSteps.filter((line) => line.step === step);
    if (lines.length === 0) throw new Error(`no trainer has told of step ${step} (${links})`);
    return lines;
  });
  const lines = steps.map((step) => timeLine(records, step));
  const busy = trainerSteps.map((all) => Math.max(...all.map(({ busySeconds }) => busySeconds)));
  const stepSeconds = metrics.map(({ seconds }) => seconds);
  const secondsPerStep = middle(steps, stepSeconds);
  const tokens = metrics.reduce((sum, line) => sum + line.tokens, 0) / steps.length;
  const part = (name: keyof TimeLine): number =>
    middle(
      steps,
      lines.map((line) => line[name]),
    );
  return {
    secondsPerStep,
    tokensPerSecond: tokens / secondsPerStep,
    computeSecondsPerStep: middle(steps, busy),
    timeLine: {
      ...{
        download: part('download'),
        apply: part('apply'),
        assign: part('assign'),
        compute: part('compute'),
      },
      ...{ upload: part('upload'), seal: part('seal'), journal: part('journal') },
    },
    stepSeconds,
  };
}

function timeLine({ trainerSteps, updates }: WanRecords, step: number): TimeLine {
  const mine = trainerSteps.filter((line) => line.step === step);
  const last = mine.reduce((a, b) => (b.contributedMs > a.contributedMs ? b : a));
  const before = trainerSteps.find((line) => line.trainer === last.trainer && line.step === step - 1);
  if (before === undefined) throw new Error(`${last.trainer} has not told of step ${step - 1}`);
  const [from, { committedMs, sealSeconds, writeSeconds }] = [step - 1, step].map((each) =>
    found(updates, each, "the coordinator's log"),
  ) as [CommittedRecord, CommittedRecord];
  const completeMs = committedMs - 1000 * (sealSeconds + writeSeconds);
  return {
    download: (before.receivedMs - from.committedMs) / 1000,
    apply: (before.appliedMs - before.receivedMs) / 1000,
    assign: (last.assignedMs - before.appliedMs) / 1000,
    compute: (last.contributedMs - last.assignedMs) / 1000,
    upload: (completeMs - last.contributedMs) / 1000,
    seal: sealSeconds,
    journal: writeSeconds,
  };
}

/**
 * Mean over trainers and an even number of steps after the warm-up, but for refreshes: the first step has one of
 * every slot, and each comes again once in `refreshGap` steps.
 */
function bytesOf(metrics: readonly StepMetrics[], direction: 'up' | 'down', refreshGap: number): WanBytes {
  const after = metrics.filter(({ step }) => step > WARM_UP_STEPS);
  const even = after.slice(after.length % 2);
  const mean = (lines: readonly StepMetrics[], isCounted: (kind: TrafficKind) => boolean): number => {
    const perLine = lines.map(({ traffic }) => {
      const trainers = Object.values(traffic.trainers);
      const bytes = trainers.flatMap((directions) =>
        Object.entries(directions[direction]).map(([kind, count]) =>
          isCounted(kind as TrafficKind) ? count : 0,
        ),
      );
      return bytes.reduce((sum, count) => sum + count, 0) / Math.max(1, trainers.length);
    });
    return perLine.reduce((sum, bytes) => sum + bytes, 0) / Math.max(1, lines.length);
  };
  const steady = mean(even, (kind) => kind !== 'refresh' && kind !== 'snapshot');
  const first = metrics.filter(({ step }) => step === 1);
  const refresh = mean(first, (kind) => kind === 'refresh') / refreshGap;
  return { total: steady + refresh, refresh };
}

/** The mean of the medians of odd and of even steps, which power slots make unequal. */
function middle(steps: readonly number[], values: readonly number[]): number {
  const groups = [0, 1]
    .map((parity) => values.filter((_, i) => steps[i]! % 2 === parity))
    .filter((group) => group.length > 0);
  return groups.reduce((sum, group) => sum + median(group), 0) / groups.length;
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const half = (sorted.length - 1) / 2;
  return (sorted[Math.floor(half)]! + sorted[Math.ceil(half)]!) / 2;
}

function found<T extends { readonly step: number }>(lines: readonly T[], step: number, where: string): T {
  const line = lines.find((each) => each.step === step);
  if (line === undefined) throw new Error(`${where} has no line of step ${step}`);
  return line;
}

/** What a line of a log in JSON tells, if it is one of those that count. */
export function readLogLine(
  text: string,
):
  | { readonly type: 'step'; readonly step: number }
  | { readonly type: 'trainerStep'; readonly line: TrainerStep }
  | { readonly type: 'update'; readonly line: CommittedRecord }
  | null {
  if (!text.startsWith('{')) return null;
  const record = JSON.parse(text) as Record<string, unknown>;
  const { event, step } = record as { event: string; step: number };
  if (event === 'run.step') return { type: 'step', step };
  if (event === 'trainer.step') return { type: 'trainerStep', line: record as unknown as TrainerStep };
  if (event !== 'record.committed' || record['kind'] !== 'update') return null;
  const { time, seconds } = record as { time: string; seconds: { seal: number; write: number } };
  const committedMs = Date.parse(time);
  return {
    type: 'update',
    line: { step, committedMs, sealSeconds: seconds.seal, writeSeconds: seconds.write },
  };
}
