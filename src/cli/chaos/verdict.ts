/** What a run under `galore chaos` has kept, compared with one that nothing disturbed. Only reads. */
import { join } from 'node:path';
import type { RunConfig } from '../../config/schema.ts';
import { coverRun } from '../../coordinator/store/inspect-coverage.ts';
import { scanSoundPart } from '../../coordinator/store/journal-scan.ts';
import { readMetrics } from '../../coordinator/store/metrics-log.ts';
import { readRunDirectory } from '../../coordinator/store/run-directory.ts';
import type { ChaosRecord, FiredFault } from './chaos-run.ts';
import { accountSteps, type ToldStep } from './observed.ts';

/** What the weights at the end are compared with. */
export interface Undisturbed {
  readonly weightsSha256: string;
  /** Who did which sequences in each step, as one text. */
  readonly history: string;
}

/** Where the weights at the end come from, told by another way than the run itself. */
export type Explanation =
  /** Equal to those of the undisturbed run, whose trainers did the same in every step. */
  | 'undisturbed'
  /** Trainers have done other shares: `galore replay` makes the same weights from the journal. */
  | 'replay';

export interface Verdict {
  readonly seed: number;
  readonly faultsPlanned: number;
  readonly faultsFired: number;
  readonly hung: boolean;
  readonly steps: number;
  readonly lostSteps: number;
  readonly duplicateSteps: number;
  /** The journal proves that each sequence is used exactly once an epoch. */
  readonly coverageExact: boolean;
  /** The weights at the end are those of `explanation`, and of every trainer that was there. */
  readonly weightsEqual: boolean;
  readonly explanation: Explanation | null;
  readonly weightsSha256: string | null;
  /** Trainers that told their weights at the end. */
  readonly trainersAtEnd: number;
  readonly maxRecoverySeconds: number;
  readonly unexpectedEnds: number;
  readonly seconds: number;
  readonly faults: readonly FiredFault[];
}

/** Who did which sequences: the part of a run's history that decides the last bits. */
export async function historyOf(dir: string): Promise<string> {
  const { journalDir } = await readRunDirectory(dir);
  const lines: string[] = [];
  await scanSoundPart(journalDir, {
    onCommit: ({ kind, step, update }) => {
      const shares = update?.members.map(({ trainerId, positions }) => `${trainerId}:${positions.join()}`);
      lines.push(`${step} ${kind} ${shares?.join(' ') ?? ''}`);
    },
  });
  return lines.join('\n');
}

export interface Judged {
  readonly seed: number;
  readonly config: RunConfig;
  readonly faultsPlanned: number;
  readonly record: ChaosRecord;
  /** Null: there was none; the weights are those of the replay. */
  readonly undisturbed: Undisturbed | null;
  /** The weights that `galore replay` makes; null: it finds that something differs. */
  readonly replay: () => Promise<string | null>;
}

export async function judge(judged: Judged): Promise<Verdict> {
  const { seed, config, faultsPlanned, record, undisturbed } = judged;
  const { fired, told, weightsSha256, trainerWeights, unexpectedEnds, seconds } = record;
  const lines: ToldStep[] = [];
  for await (const { step, loss } of readMetrics(join(config.dir, 'metrics.jsonl'))) {
    lines.push({ step, loss: Number(loss) });
  }
  const { lost, duplicate } = accountSteps(told, lines, config.steps);
  const explanation =
    undisturbed !== null && (await historyOf(config.dir)) === undisturbed.history
      ? 'undisturbed'
      : ('replay' as const);
  const expected = explanation === 'undisturbed' ? undisturbed!.weightsSha256 : await judged.replay();
  const all = [weightsSha256, ...trainerWeights.values()];
  const recoveries = fired.map(({ recoverySeconds }) => recoverySeconds ?? 0);
  return {
    seed,
    faultsPlanned,
    faultsFired: fired.length,
    hung: weightsSha256 === null,
    steps: lines.length,
    lostSteps: lost.length,
    duplicateSteps: duplicate.length,
    coverageExact: await isCoverageExact(config.dir),
    weightsEqual: all.every((each) => each === expected),
    explanation,
    weightsSha256,
    trainersAtEnd: trainerWeights.size,
    maxRecoverySeconds: Math.max(0, ...recoveries),
    unexpectedEnds: unexpectedEnds.length,
    seconds,
    faults: fired,
  };
}

async function isCoverageExact(dir: string): Promise<boolean> {
  const { isExact, faults } = await coverRun(dir);
  return isExact && faults.length === 0;
}

/** Whether the run has kept its promises. */
export function isSound(verdict: Verdict): boolean {
  const { hung, lostSteps, duplicateSteps, coverageExact, weightsEqual } = verdict;
  return !hung && lostSteps === 0 && duplicateSteps === 0 && coverageExact && weightsEqual;
}

/** Of several runs; `--json` ends with it. */
export interface Totals {
  readonly runs: number;
  readonly soundRuns: number;
  readonly hangs: number;
  readonly lostSteps: number;
  readonly duplicateSteps: number;
  readonly coverageExact: boolean;
  readonly weightsEqual: boolean;
  readonly faultsPlanned: number;
  readonly faultsFired: number;
  readonly maxRecoverySeconds: number;
  readonly unexpectedEnds: number;
  readonly firedByVerb: Readonly<Record<string, number>>;
}

export function totalsOf(verdicts: readonly Verdict[]): Totals {
  const sum = (value: (verdict: Verdict) => number): number =>
    verdicts.reduce((total, verdict) => total + value(verdict), 0);
  const firedByVerb: Record<string, number> = {};
  for (const { verb } of verdicts.flatMap(({ faults }) => faults))
    firedByVerb[verb] = (firedByVerb[verb] ?? 0) + 1;
  return {
    runs: verdicts.length,
    soundRuns: verdicts.filter(isSound).length,
    hangs: sum(({ hung }) => Number(hung)),
    lostSteps: sum(({ lostSteps }) => lostSteps),
    duplicateSteps: sum(({ duplicateSteps }) => duplicateSteps),
    coverageExact: verdicts.every(({ coverageExact }) => coverageExact),
    weightsEqual: verdicts.every(({ weightsEqual }) => weightsEqual),
    faultsPlanned: sum(({ faultsPlanned }) => faultsPlanned),
    faultsFired: sum(({ faultsFired }) => faultsFired),
    maxRecoverySeconds: Math.max(0, ...verdicts.map(({ maxRecoverySeconds }) => maxRecoverySeconds)),
    unexpectedEnds: sum(({ unexpectedEnds }) => unexpectedEnds),
    firedByVerb,
  };
}
