/** From the steps of a simulated run to its figures, its tables and its plots. Pure. */
import type { HubUse } from '../../simulation/scale/hub.ts';
import type { PerformanceResult, StepResult, TimeLine } from '../../simulation/scale/performance.ts';
import { formatBytes, formatCount, table } from '../format.ts';
import { lineChart, type Line } from '../line-chart.ts';

/** What passes through a place, and what it takes. */
export interface PlaceLoad {
  readonly receivedBytesPerStep: number;
  readonly sentBytesPerStep: number;
  /** Of the step in which they were highest. */
  readonly mostReceivedBytesPerSecond: number;
  readonly mostSentBytesPerSecond: number;
  /** Of the time: its own link, and not the trainers', was what held transfers up. */
  readonly fullInShare: number;
  readonly fullOutShare: number;
  readonly cpuSecondsPerStep: number;
  /** Of one core. */
  readonly cpuShare: number;
}

/** Of one simulated run. */
export interface SimulationSummary {
  readonly trainers: number;
  readonly gateways: number;
  readonly steps: number;
  /** Until all are connected and the first step begins. */
  readonly secondsToStart: number;
  readonly secondsPerStep: number;
  readonly shortestSeconds: number;
  readonly longestSeconds: number;
  readonly tokensPerSecond: number;
  readonly timeLine: TimeLine;
  /** Of the mean trainer: what it computes and applies, and the rest of the step. */
  readonly busySecondsPerStep: number;
  readonly waitingSecondsPerStep: number;
  readonly lateShare: number;
  readonly failures: number;
  readonly coordinator: PlaceLoad;
  /** Of the mean gateway. */
  readonly gateway: PlaceLoad | null;
  /** What `galore plan` says a trainer sends and receives. */
  readonly trainer: { readonly up: number; readonly down: number };
  /** Contributions and a record, at the coordinator. */
  readonly coordinatorStagingBytes: number;
  readonly stepSeconds: readonly number[];
  readonly stuck: string | null;
}

export interface SummaryOptions {
  readonly trainers: number;
  readonly gateways: number;
  readonly tokensPerSequence: number;
  readonly trainer: { readonly up: number; readonly down: number };
  readonly coordinatorStagingBytes: number;
}

/** Every slot is refreshed in the first step, and the second still has its update; an even number is left where there is one. */
const WARM_UP_STEPS = 2;

export function summarise(result: PerformanceResult, options: SummaryOptions): SimulationSummary {
  const counted = result.steps.length > 2 * WARM_UP_STEPS ? result.steps.slice(WARM_UP_STEPS) : result.steps;
  const mean = (of: (step: StepResult) => number): number =>
    counted.reduce((sum, step) => sum + of(step), 0) / Math.max(1, counted.length);
  const secondsPerStep = mean(({ seconds }) => seconds);
  const all = counted.map(({ seconds }) => seconds);
  const load = (of: (step: StepResult) => HubUse): PlaceLoad => {
    const most = (bytes: (use: HubUse) => number): number =>
      Math.max(0, ...counted.map((step) => bytes(of(step)) / step.seconds));
    const cpuSecondsPerStep = mean((step) => of(step).cpuSeconds);
    return {
      receivedBytesPerStep: mean((step) => of(step).receivedBytes),
      sentBytesPerStep: mean((step) => of(step).sentBytes),
      mostReceivedBytesPerSecond: most(({ receivedBytes }) => receivedBytes),
      mostSentBytesPerSecond: most(({ sentBytes }) => sentBytes),
      fullInShare: mean((step) => of(step).fullInSeconds) / secondsPerStep,
      fullOutShare: mean((step) => of(step).fullOutSeconds) / secondsPerStep,
      cpuSecondsPerStep,
      cpuShare: cpuSecondsPerStep / secondsPerStep,
    };
  };
  const busySecondsPerStep = mean(({ busySeconds }) => busySeconds);
  const part = (name: keyof TimeLine): number => mean(({ timeLine }) => timeLine[name]);
  const { trainers, gateways, trainer, coordinatorStagingBytes, tokensPerSequence } = options;
  return {
    ...{ trainers, gateways, steps: result.steps.length, secondsToStart: result.startSeconds },
    secondsPerStep,
    shortestSeconds: Math.min(...all),
    longestSeconds: Math.max(...all),
    tokensPerSecond: (mean(({ sequences }) => sequences) * tokensPerSequence) / secondsPerStep,
    timeLine: {
      ...{ download: part('download'), apply: part('apply'), compute: part('compute') },
      ...{ upload: part('upload'), gateway: part('gateway'), coordinator: part('coordinator') },
    },
    busySecondsPerStep,
    waitingSecondsPerStep: secondsPerStep - busySecondsPerStep,
    lateShare:
      mean(({ late }) => late) /
      Math.max(
        1,
        mean(({ assigned }) => assigned),
      ),
    failures: result.failures,
    coordinator: load(({ coordinator }) => coordinator),
    gateway: gateways === 0 ? null : load(({ gateway }) => gateway!),
    ...{ trainer, coordinatorStagingBytes, stepSeconds: result.steps.map(({ seconds }) => seconds) },
    stuck: result.stuck,
  };
}

/** One run, for people. */
export function summaryLines(summary: SimulationSummary): string[] {
  const { timeLine, coordinator, gateway, trainer, secondsPerStep: step } = summary;
  const parts = Object.keys(timeLine) as (keyof TimeLine)[];
  const rate = (bytes: number): string => `${formatBytes(bytes)}/s`;
  const place = (name: string, load: PlaceLoad): string[] => [
    ...[name, formatBytes(load.receivedBytesPerStep), formatBytes(load.sentBytesPerStep)],
    ...[rate(load.mostReceivedBytesPerSecond), rate(load.mostSentBytesPerSecond)],
    ...[percent(load.fullInShare), percent(load.fullOutShare)],
    ...[`${seconds(load.cpuSecondsPerStep)} s`, percent(load.cpuShare)],
  ];
  const { gateways, busySecondsPerStep: busy, failures } = summary;
  return [
    `who:       ${summary.trainers} trainers${gateways === 0 ? '' : ` behind ${gateways} gateways`}; the first step begins after ${seconds(summary.secondsToStart)} s`,
    `steps:     ${summary.steps}; ${seconds(step)} s each (${seconds(summary.shortestSeconds)} to ${seconds(summary.longestSeconds)}), ` +
      `${formatCount(summary.tokensPerSecond)} tokens/s`,
    `trainers:  the mean one works ${seconds(busy)} s of a step and waits ${seconds(summary.waitingSecondsPerStep)} s (${percent(summary.waitingSecondsPerStep / step)})` +
      `${failures === 0 ? '' : `; ${failures} failures`}${summary.lateShare === 0 ? '' : `; ${percent(summary.lateShare)} late`}`,
    '',
    ...table([
      ['seconds of the one waited for', ...parts, 'step'],
      ['', ...parts.map((part) => seconds(timeLine[part])), seconds(step)],
    ]),
    '',
    ...table([
      [
        'place',
        'receives',
        'sends',
        'in, most',
        'out, most',
        'in full',
        'out full',
        'CPU a step',
        'of a core',
      ],
      place('coordinator', coordinator),
      ...(gateway === null ? [] : [place('a gateway', gateway)]),
      ['a trainer', formatBytes(trainer.down), formatBytes(trainer.up), '', '', '', '', '', ''],
    ]),
    ...(summary.stuck === null ? [] : ['', `warning: ${summary.stuck}`]),
  ];
}

/** Several runs, a line each. */
export function sweepLines(summaries: readonly SimulationSummary[]): string[] {
  return table([
    [
      'trainers',
      'gateways',
      's a step',
      'tokens/s',
      'waiting',
      'longest',
      'coordinator in',
      'out',
      'of a core',
    ],
    ...summaries.map((summary) => [
      String(summary.trainers),
      String(summary.gateways),
      seconds(summary.secondsPerStep),
      formatCount(summary.tokensPerSecond),
      percent(summary.waitingSecondsPerStep / summary.secondsPerStep),
      longestPart(summary),
      `${formatBytes(summary.coordinator.mostReceivedBytesPerSecond)}/s`,
      `${formatBytes(summary.coordinator.mostSentBytesPerSecond)}/s`,
      percent(summary.coordinator.cpuShare),
    ]),
  ]);
}

/** Of several runs the step by trainers, a line for each number of gateways; of one, its steps and their parts. */
export function summaryChart(
  summaries: readonly SimulationSummary[],
  steps: readonly StepResult[],
  title: string,
): string {
  if (summaries.length > 1) {
    const gateways = [...new Set(summaries.map((summary) => summary.gateways))];
    const lines = gateways.map((count): Line => ({
      name: count === 0 ? 'no gateways' : `${count} gateways`,
      points: summaries
        .filter((summary) => summary.gateways === count)
        .map(({ trainers, secondsPerStep }) => [trainers, secondsPerStep] as const)
        .toSorted(([a], [b]) => a - b),
    }));
    const x = { label: 'trainers', isLogarithmic: true };
    return lineChart({ title, x, y: { label: 'seconds a step', isLogarithmic: true }, lines });
  }
  const parts = ['download', 'apply', 'compute', 'upload', 'gateway', 'coordinator'] as const;
  const curve = (name: string, of: (step: StepResult) => number): Line => ({
    name,
    points: steps.map((step) => [step.step, of(step)] as const),
  });
  const lines = [
    curve('step', ({ seconds: all }) => all),
    ...parts
      .filter((part) => steps.some(({ timeLine }) => timeLine[part] > 0))
      .map((part) => curve(part, ({ timeLine }) => timeLine[part])),
  ];
  return lineChart({ title, x: { label: 'step' }, y: { label: 'seconds' }, lines });
}

function longestPart({ timeLine }: SimulationSummary): string {
  const [name] = Object.entries(timeLine).reduce((a, b) => (b[1] > a[1] ? b : a));
  return name;
}

function seconds(value: number): string {
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(3);
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}
