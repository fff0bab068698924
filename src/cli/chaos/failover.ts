/** `galore chaos --state nats`: runs with standbys on nats-servers of their own, and what came of them. */
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { RunConfig } from '../../config/schema.ts';
import type { CliContext } from '../context.ts';
import type { Display } from '../display.ts';
import { table } from '../format.ts';
import { FAILOVER_FAULTS, kindOf, planFailover, type FailoverFault } from './failover-faults.ts';
import { runWithFailover } from './failover-run.ts';
import type { FiredFault } from './chaos-run.ts';
import { isSound, judge, type Verdict } from './verdict.ts';

/** A new leader is to have committed a step by then. */
export const RECOVERY_LIMIT_SECONDS = 10;

export interface FailoverOptions {
  readonly config: RunConfig;
  readonly folder: string;
  readonly seed: number;
  readonly runs: number;
  readonly kills: number;
  readonly kinds: readonly FailoverFault[];
  readonly coordinators: number;
  readonly natsNodes: number;
  readonly trainerIds: readonly string[];
  readonly threads: number;
  readonly patienceMs: number;
  readonly isJson: boolean;
  readonly isKept: boolean;
  readonly signal: AbortSignal;
}

/** One run, and what its store has. */
export interface FailoverVerdict extends Verdict {
  readonly epochs: number;
  /** Records of the store that the run directory has otherwise, or lacks, or has beyond it. */
  readonly recordsUnlikeStore: number;
  readonly slowRecoveries: number;
}

/** @throws InterruptedError, OperatingError where there is no nats-server */
export async function breakLeaders(
  context: CliContext,
  display: Display,
  options: FailoverOptions,
): Promise<readonly FailoverVerdict[]> {
  const verdicts: FailoverVerdict[] = [];
  for (let i = 0; i < options.runs; i++) {
    const verdict = await breakRun(context, display, options, options.seed + i);
    verdicts.push(verdict);
    if (options.isJson) display.line(JSON.stringify(verdict));
  }
  return verdicts;
}

async function breakRun(
  context: CliContext,
  display: Display,
  options: FailoverOptions,
  seed: number,
): Promise<FailoverVerdict> {
  const { config: given, kills, kinds, trainerIds, threads, patienceMs, signal } = options;
  const name = `seed-${seed}`;
  const scratch = join(options.folder, name);
  await mkdir(scratch, { recursive: true });
  const { tls: _, ...coordinator } = given.coordinator;
  const local = {
    host: '127.0.0.1',
    port: 0,
    auth: {},
    local_trainers: 0,
    start_trainers: trainerIds.length,
  };
  const config = { ...given, dir: join(scratch, 'runs'), coordinator: { ...coordinator, ...local } };
  let fired = 0;
  const record = await runWithFailover({
    ...{ config, scratch, trainerIds, threads, patienceMs, signal },
    ...{ coordinators: options.coordinators, natsNodes: options.natsNodes },
    faults: planFailover({ seed, count: kills, steps: config.steps, kinds }),
    launch: context.launchProcess,
    onStep: (step) => display.status(`${name}: step ${step}/${config.steps}, ${fired} of ${kills} faults`),
    onFault: (fault) => {
      fired += 1;
      const seconds = (fault.durationMs / 1000).toFixed(1);
      const what = kindOf(fault) === 'nats' ? 'kill a nats-server' : `${fault.verb} the leader`;
      if (!options.isJson) display.line(`${name}: after step ${fault.step}: ${what} for ${seconds} s`);
    },
  });
  for (const { name: member, how, lines } of record.unexpectedEnds) {
    display.error([`${name}: ${member} ended (${how}):`, ...lines, ''].join('\n'));
  }
  const verdict = await judge({
    ...{ seed, config: record.config, faultsPlanned: kills, record },
    undisturbed: null,
    replay: () => replayOf(context, record.config.dir, threads),
  });
  const { epochs, recordsUnlikeStore } = record;
  const slowRecoveries = verdict.faults.filter(
    ({ recoverySeconds }) => recoverySeconds === null || recoverySeconds >= RECOVERY_LIMIT_SECONDS,
  ).length;
  const whole = { ...verdict, epochs, recordsUnlikeStore, slowRecoveries };
  if (isSafe(whole) && !options.isKept) await rm(scratch, { recursive: true, force: true });
  return whole;
}

export function isSafe(verdict: FailoverVerdict): boolean {
  return (
    isSound(verdict) && verdict.recordsUnlikeStore === 0 && verdict.faultsFired === verdict.faultsPlanned
  );
}

/** What `galore replay` makes of the journal; null: it finds that something differs. */
export function replayOf(context: CliContext, dir: string, threads: number): Promise<string | null> {
  const lines: string[] = [];
  return new Promise((settle) => {
    context.launchProcess(['replay', dir, '--json', '--threads', String(threads)], {
      onLine: (line) => lines.push(line),
      onExit: (code) => {
        const last = lines.findLast((line) => line.startsWith('{')) ?? '{}';
        const { weightsSha256 = null } = JSON.parse(last) as { weightsSha256?: string };
        settle(code === 0 ? weightsSha256 : null);
      },
    });
  });
}

/** A row for each run and one for each kind of fault, and the verdict. */
export function formatFailover(verdicts: readonly FailoverVerdict[]): readonly string[] {
  const runs = verdicts.map((each) => [
    String(each.seed),
    `${each.faultsFired} of ${each.faultsPlanned}`,
    String(each.epochs),
    each.hung ? `HUNG at ${each.steps}` : String(each.steps),
    String(each.lostSteps),
    String(each.duplicateSteps),
    each.coverageExact ? 'once each' : 'NOT EXACT',
    each.weightsEqual ? 'as replay' : 'NOT as replay',
    each.recordsUnlikeStore === 0 ? 'same' : `${each.recordsUnlikeStore} DIFFER`,
    each.seconds.toFixed(0),
  ]);
  const headings = [
    'seed',
    'faults',
    'leaders',
    'steps',
    'lost',
    'twice',
    'sequences',
    'weights',
    'store',
    'seconds',
  ];
  const faults = verdicts.flatMap((each) => each.faults);
  const kinds = FAILOVER_FAULTS.flatMap((kind) =>
    rowOf(
      kind,
      faults.filter((fault) => kindOf(fault) === kind),
    ),
  );
  const safe = verdicts.filter(isSafe).length;
  const slow = verdicts.reduce((sum, each) => sum + each.slowRecoveries, 0);
  return [
    ...table([headings, ...runs]),
    '',
    ...table([['fault', 'times', 'no step for', 'at most'], ...kinds]),
    '',
    safe === verdicts.length
      ? `nothing was lost in ${safe} of ${verdicts.length} runs`
      : `${verdicts.length - safe} of ${verdicts.length} runs WENT WRONG`,
    `${faults.length - slow} of ${faults.length} times the next step was committed within ${RECOVERY_LIMIT_SECONDS} s`,
  ];
}

const KINDS_IN_WORDS: Readonly<Record<FailoverFault, string>> = {
  kill: 'leader killed',
  stop: 'leader stopped past its lease',
  cut: 'leader cut off from NATS',
  nats: 'nats-server killed',
};

function rowOf(kind: FailoverFault, faults: readonly FiredFault[]): readonly (readonly string[])[] {
  if (faults.length === 0) return [];
  const seconds = faults.map(({ recoverySeconds }) => recoverySeconds ?? Infinity).sort((a, b) => a - b);
  const median = seconds[Math.floor((seconds.length - 1) / 2)]!;
  const shown = (value: number): string => (value === Infinity ? 'NEVER' : `${value.toFixed(1)} s`);
  return [[KINDS_IN_WORDS[kind], String(faults.length), `${shown(median)} (median)`, shown(seconds.at(-1)!)]];
}
