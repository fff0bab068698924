/** `galore simulate`: how fast a run with so many trainers would be, and what would hold it up. */
import { writeFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { InvalidArgumentError, Option, type Command } from 'commander';
import { loadRunConfig, parseRunConfig } from '../config/load.ts';
import { override, parseOverride, type Override } from '../config/overrides.ts';
import { RUN_PRESETS, type RunPreset } from '../config/run-presets.ts';
import { MODEL_SIZES, type RunConfig } from '../config/schema.ts';
import { planOf } from '../coordinator/plan.ts';
import { trafficPlan, type TrafficPlan } from '../coordinator/traffic-plan.ts';
import { ConfigError, DataError } from '../errors.ts';
import { readSmallTextSync } from '../files/small-file.ts';
import { letYoungGenerationGrow } from '../heap.ts';
import type { ModelConfig } from '../model/model-config.ts';
import { MAX_FRAME_BYTES, maxSequencesPerAssignment } from '../protocol/limits.ts';
import { stepSequences, type RunShape } from '../run-shape.ts';
import { simulatePerformance, type StepResult } from '../simulation/scale/performance.ts';
import { parseScenario, type Scenario } from '../simulation/scale/scenario.ts';
import { workloadOf, type Workload } from '../simulation/scale/workload.ts';
import { stepFlops } from '../trainer/step-flops.ts';
import type { CliContext } from './context.ts';
import { Display } from './display.ts';
import { EXIT_CODES } from './exit-codes.ts';
import { formatBytes, formatCount } from './format.ts';
import { debugOption, numberWhere, wholeNumber } from './options.ts';
import { rate, shapeOfRun } from './plan.ts';
import { parseMeasured, settingsOf, type Measured } from './simulate/measured.ts';
import {
  summarise,
  summaryChart,
  summaryLines,
  sweepLines,
  type SimulationSummary,
} from './simulate/summary.ts';

interface SimulateFlags {
  readonly model?: (typeof MODEL_SIZES)[number];
  readonly preset?: RunPreset;
  readonly vocab?: number;
  readonly batch?: number;
  readonly seq?: number;
  readonly scenario?: string;
  readonly trainers?: readonly number[];
  readonly gateways?: readonly number[];
  readonly up?: number;
  readonly down?: number;
  readonly latency?: number;
  readonly secondsPerSequence?: number;
  readonly flops?: number;
  readonly apply?: number;
  readonly coordinatorRate?: number;
  readonly gatewayRate?: number;
  readonly join?: true;
  readonly steps: number;
  readonly seed: number;
  readonly pieces: number;
  readonly compare?: string;
  readonly svg?: string;
  readonly json?: true;
}

const MAX_SCENARIO_BYTES = 1_048_576;
const MAX_TRAINERS = 100_000;
/** Long, so that schedules that depend on the length of the run are those of a real one. */
const CONFIGURED_STEPS = 10_000;
const DEFAULT_BATCH = 2;

/** Adds the command; `finish` takes its exit code. */
export function registerSimulateCommand(
  program: Command,
  context: CliContext,
  finish: (code: number) => void,
): void {
  const overrides: Override[] = [];
  const positive = numberWhere((value) => value > 0, 'a number above 0');
  const notNegative = numberWhere((value) => value >= 0, 'a number of at least 0');
  program
    .command('simulate')
    .argument('[run.yaml]', 'the run; without one --model and --preset say what is trained')
    .summary('say how fast a run with many trainers would be, and what would hold it up')
    .description(
      "Runs the coordinator's rules in virtual time with as many trainers as asked for, over links and machines\n" +
        'as given, with gateways or without, and says what a step takes, where trainers wait, and what passes\n' +
        'through each place. Nothing is trained. docs/simulate.md says what is modelled and what is not.',
    )
    .addOption(new Option('--model <size>', 'a size of the GaLore paper (60m)').choices(MODEL_SIZES))
    .addOption(new Option('--preset <name>', 'preset of the configuration (wan)').choices(RUN_PRESETS))
    .option('--vocab <n>', 'tokens of the vocabulary (32000)', wholeNumber(2, 10_000_000))
    .option('--seq <n>', 'tokens of a sequence (256)', wholeNumber(1, 1_048_576))
    .option(
      '--batch <n>',
      `sequences of each trainer in a step (${DEFAULT_BATCH}, or batch_size of the file by all trainers)`,
      wholeNumber(1, 65_536),
    )
    .option(
      '--set <field=value>',
      'set any field of the run file, such as method.rank; may be repeated',
      (text: string) => void overrides.push(parseOverride(text)),
    )
    .option('--scenario <file>', 'YAML with kinds of trainers, links, gateways and failures')
    .option('--trainers <n,…>', 'how many; several numbers are simulated one after the other', counts(1))
    .option('--gateways <n,…>', 'how many trainers are behind, in equal parts; 0: none', counts(0))
    .option('--up <rate>', 'what a trainer sends with, such as 20mbit', rate)
    .option('--down <rate>', 'what it receives with', rate)
    .option('--latency <ms>', 'one way, between a trainer and whom it is connected to', notNegative)
    .option('--seconds-per-sequence <s>', 'a trainer computes a sequence in so long', positive)
    .option('--flops <n>', 'or does so many operations of matrix products a second, such as 2e13', positive)
    .option('--apply <s>', 'a trainer applies an update in so long', notNegative)
    .option('--coordinator-rate <rate>', "of the coordinator's link, both ways", rate)
    .option('--gateway-rate <rate>', "of a gateway's two links, both ways", rate)
    .option('--join', 'begin with trainers that have yet to fetch the state')
    .option('--steps <n>', 'steps that are simulated', wholeNumber(1, 100_000), 20)
    .option('--pieces <n>', 'parts of a contribution that travel on their own', wholeNumber(1, 256), 8)
    .option('--seed <n>', 'of everything random', wholeNumber(0), 0)
    .option('--compare <wan.json>', 'simulate what galore bench wan --json measured, and compare')
    .option('--svg <file>', 'write a plot')
    .option('--json', 'print one JSON object')
    .addOption(debugOption())
    .addHelpText(
      'after',
      `
Examples:
  galore simulate --model 60m --preset wan --trainers 2 --up 20mbit --down 100mbit --seconds-per-sequence 0.6
  galore simulate run.yaml --trainers 10,100,1000 --gateways 0,10 --flops 2e13 --svg scale.svg
  galore simulate --model 7b --preset wan --batch 4 --seq 2048 --scenario world.yaml --steps 20 --json
  galore simulate --compare wan.json`,
    )
    .action(async (file: string | undefined, flags: SimulateFlags) =>
      finish(await simulate(context, file, flags, overrides)),
    );
}

async function simulate(
  context: CliContext,
  file: string | undefined,
  flags: SimulateFlags,
  overrides: readonly Override[],
): Promise<number> {
  letYoungGenerationGrow();
  const display = new Display(context.stdout, context.stderr, context.environment.mayRedraw && !flags.json);
  const measured = flags.compare === undefined ? null : readMeasured(context, flags.compare);
  if (measured !== null && file !== undefined) {
    throw new ConfigError('--compare names the run by itself; give no run file with it');
  }
  const [first] = pointsOf(context, flags, measured);
  const summaries: SimulationSummary[] = [];
  let steps: readonly StepResult[] = [];
  let parameters = 0;
  const limits = new Set<string>();
  let shown: RunConfig | null = null;
  for (const scenario of pointsOf(context, flags, measured)) {
    const { count } = scenario.trainers;
    const config = configOf(context, file, flags, measured, overrides, count);
    const { model, shape } = await shapeOfRun(config);
    const { workload, result, plan } = simulateRun(scenario, config, model, shape, flags, (step) => {
      if (step % 10 === 0) display.status(`${count} trainers: step ${step} of ${flags.steps}`);
    });
    summaries.push(
      summarise(result, {
        trainers: count,
        gateways: scenario.gateways.count,
        tokensPerSequence: config.seq_len,
        trainer: plan.total,
        coordinatorStagingBytes: (scenario.gateways.count || count) * plan.contribution + plan.update,
      }),
    );
    for (const limit of limitsOf(config, scenario, workload)) limits.add(limit);
    steps = result.steps;
    parameters = workload.parameters;
    shown = config;
  }
  display.clear();
  const run = { parameters, preset: shown?.preset ?? null, method: shown!.method.name, seed: flags.seed };
  const title = `${formatCount(parameters)} parameters, ${shown?.preset ?? shown!.method.name}`;
  if (flags.svg !== undefined) writePlot(context, flags.svg, summaryChart(summaries, steps, title));
  const comparison = measured === null ? null : compare(summaries[0]!, measured, await fastStep());
  if (flags.json) {
    const all = {
      run,
      scenario: first,
      points: summaries,
      limits: [...limits],
      ...(comparison === null ? {} : { comparison }),
    };
    context.stdout.write(`${JSON.stringify(all)}\n`);
  } else {
    const lines = [
      `run:       ${title}, sequences of ${shown!.seq_len} tokens, ${stepSequences(shown!)} a step`,
      ...(summaries.length === 1 ? summaryLines(summaries[0]!) : ['', ...sweepLines(summaries)]),
      ...(limits.size === 0 ? [] : ['', ...Array.from(limits, (limit) => `limit:     ${limit}`)]),
      ...(comparison === null ? [] : ['', ...comparisonLines(comparison)]),
    ];
    context.stdout.write(`${lines.join('\n')}\n`);
  }
  return summaries.every(({ stuck }) => stuck === null) ? EXIT_CODES.OK : EXIT_CODES.CANNOT_CONTINUE;

  /** The same over links that are as fast as the machine. */
  async function fastStep(): Promise<number> {
    const fast = { ...flags, up: 1e11, down: 1e11 };
    const [scenario] = pointsOf(context, fast, measured);
    const config = configOf(context, file, fast, measured, overrides, scenario!.trainers.count);
    const { model, shape } = await shapeOfRun(config);
    const { result } = simulateRun(scenario!, config, model, shape, fast, () => {});
    const options = { trainers: 0, gateways: 0, tokensPerSequence: 1, trainer: { up: 0, down: 0 } };
    return summarise(result, { ...options, coordinatorStagingBytes: 0 }).secondsPerStep;
  }
}

/** One run in virtual time. */
function simulateRun(
  scenario: Scenario,
  config: RunConfig,
  model: ModelConfig,
  shape: RunShape,
  flags: Pick<SimulateFlags, 'steps' | 'seed' | 'pieces' | 'join'>,
  onStep: (step: number) => void,
) {
  const { count } = scenario.trainers;
  const plan = planOfOne(config, shape, count);
  const { weights, optimizer, bases } = plan.trainerMemory;
  const workload = workloadOf(config, shape, count, flags.pieces);
  const result = simulatePerformance({
    scenario,
    workload,
    plan: planOf(config, shape, 0),
    steps: flags.steps,
    seed: flags.seed,
    flops: flopsOf(config, model, shape, scenario),
    isJoining: flags.join === true,
    stateBytes: weights + optimizer + bases,
    onStep: ({ step }) => onStep(step),
  });
  return { workload, result, plan };
}

/** What one trainer sends and keeps. A few of them are enough to know: messages of thousands cannot be made. */
function planOfOne(config: RunConfig, shape: RunShape, trainers: number): TrafficPlan {
  const few = Math.min(trainers, 16);
  const share = Math.max(1, Math.round(config.batch_size / trainers));
  return trafficPlan({ ...config, batch_size: share * few }, shape, few);
}

function flopsOf(
  { seq_len: length, local_steps: { count } }: RunConfig,
  model: ModelConfig,
  { slots }: RunShape,
  scenario: Scenario,
): { fixed: number; perSequence: number } {
  if (scenario.trainers.kinds.every(({ flops }) => flops === undefined)) return { fixed: 0, perSequence: 0 };
  if (!('tieWordEmbeddings' in model)) {
    throw new ConfigError(
      'operations are counted for models of the Llama family alone; give --seconds-per-sequence',
    );
  }
  const fixed = stepFlops(model, slots, 0, length);
  return { fixed: fixed * count, perSequence: stepFlops(model, slots, 1, length) - fixed };
}

/** Every number of trainers with every number of gateways. */
function pointsOf(context: CliContext, flags: SimulateFlags, measured: Measured | null): Scenario[] {
  const file = flags.scenario ?? 'the options';
  const text = flags.scenario === undefined ? null : readText(context, flags.scenario);
  const all = flags.trainers ?? (measured === null ? [undefined] : [measured.trainers]);
  const gateways = flags.gateways ?? [undefined];
  const settings = new Map<string, unknown>(measured === null ? [] : settingsOf(measured));
  const set = (path: string, value: unknown): void => {
    if (value !== undefined) settings.set(path, value);
  };
  const bits = (value: number | undefined): string | undefined =>
    value === undefined ? undefined : `${value}bit`;
  set('trainers.kinds.up', bits(flags.up));
  set('trainers.kinds.down', bits(flags.down));
  set('trainers.kinds.latency_ms', flags.latency);
  set('trainers.kinds.seconds_per_sequence', flags.secondsPerSequence);
  set('trainers.kinds.flops', flags.flops);
  set('trainers.kinds.apply_seconds', flags.apply);
  for (const way of ['up', 'down']) set(`coordinator.${way}`, bits(flags.coordinatorRate));
  for (const way of ['up', 'down', 'leader_up', 'leader_down'])
    set(`gateways.${way}`, bits(flags.gatewayRate));
  return gateways.flatMap((behind) =>
    all.map((count) => {
      set('trainers.count', count);
      set('gateways.count', behind);
      return parseScenario(text, file, settings);
    }),
  );
}

/** @throws ConfigError for parts that do not fit together */
function configOf(
  context: CliContext,
  file: string | undefined,
  flags: SimulateFlags,
  measured: Measured | null,
  overrides: readonly Override[],
  trainers: number,
): RunConfig {
  const batch = flags.batch ?? measured?.batch;
  const options = { workingDir: context.workingDir, homeDir: context.environment.homeDir };
  if (file === undefined) {
    const document = {
      ...{ name: 'simulated', preset: flags.preset ?? measured?.preset ?? 'wan', steps: CONFIGURED_STEPS },
      ...{ seq_len: flags.seq ?? measured?.seq ?? 256, batch_size: batch ?? DEFAULT_BATCH },
      model: {
        size: flags.model ?? measured?.model ?? '60m',
        vocab_size: flags.vocab ?? measured?.vocab ?? 32_000,
      },
      data: { path: 'none' },
      tokenizer: { type: 'byte' },
      coordinator: { step_deadline_ms: 0 },
    };
    const one = parseRunConfig(JSON.stringify(document), 'the options', { ...options, overrides });
    return { ...one, batch_size: one.batch_size * trainers };
  }
  const given: Override[] = [...overrides];
  const lay = (path: string, value: unknown, flag: string): void => {
    if (value !== undefined) given.push(override(path, value, flag));
  };
  lay('preset', flags.preset, `--preset ${flags.preset}`);
  lay('seq_len', flags.seq, `--seq ${flags.seq}`);
  if (flags.model !== undefined) {
    const model = { size: flags.model, ...(flags.vocab === undefined ? {} : { vocab_size: flags.vocab }) };
    lay('model', model, `--model ${flags.model}`);
  } else lay('model.vocab_size', flags.vocab, `--vocab ${flags.vocab}`);
  lay('batch_size', batch, `--batch ${batch}`);
  const config = loadRunConfig(file, { ...options, overrides: given });
  // What is checked is the share of one trainer; limitsOf tells of what a real run would refuse.
  return batch === undefined ? config : { ...config, batch_size: batch * trainers };
}

/** What a run of today would refuse, in words. */
function limitsOf(config: RunConfig, { trainers, gateways }: Scenario, { commitBytes }: Workload): string[] {
  const { limits, max_trainers: mostTrainers } = config.coordinator;
  const most = maxSequencesPerAssignment(config.seq_len + 1);
  const sequences = stepSequences(config);
  const behind = gateways.count === 0 ? trainers.count : Math.ceil(trainers.count / gateways.count);
  const connected = Math.max(behind, gateways.count);
  return [
    ...(sequences > most
      ? [`${sequences} sequences a step: a run file allows ${most} of ${config.seq_len} tokens`]
      : []),
    ...(connected > Math.min(limits.connections, mostTrainers)
      ? [
          `${connected} trainers at one place: raise coordinator.max_trainers (${mostTrainers}) and coordinator.limits.connections (${limits.connections})`,
        ]
      : []),
    ...(commitBytes > MAX_FRAME_BYTES
      ? [
          `${formatBytes(commitBytes)} to name the members of a step and their sequences: a message has ${formatBytes(MAX_FRAME_BYTES)}`,
        ]
      : []),
  ];
}

interface Comparison {
  readonly measuredSecondsPerStep: number;
  readonly predictedSecondsPerStep: number;
  /** Predicted by measured. */
  readonly ratio: number;
  readonly measuredUnshapedSecondsPerStep: number;
  readonly predictedUnshapedSecondsPerStep: number;
  readonly measuredBytesUp: number;
  readonly predictedBytesUp: number;
}

function compare(summary: SimulationSummary, measured: Measured, fastSeconds: number): Comparison {
  return {
    measuredSecondsPerStep: measured.secondsPerStep,
    predictedSecondsPerStep: summary.secondsPerStep,
    ratio: summary.secondsPerStep / measured.secondsPerStep,
    measuredUnshapedSecondsPerStep: measured.unshapedSecondsPerStep,
    predictedUnshapedSecondsPerStep: fastSeconds,
    measuredBytesUp: measured.bytesUpPerStep,
    predictedBytesUp: summary.trainer.up,
  };
}

function comparisonLines(comparison: Comparison): string[] {
  const { measuredSecondsPerStep: real, predictedSecondsPerStep: predicted, ratio } = comparison;
  const { measuredUnshapedSecondsPerStep: fast, predictedUnshapedSecondsPerStep: fastPredicted } = comparison;
  return [
    `compared:  predicted ${predicted.toFixed(3)} s a step, measured ${real.toFixed(3)} s: ratio ${ratio.toFixed(3)}`,
    `fast:      predicted ${fastPredicted.toFixed(3)} s a step, measured ${fast.toFixed(3)} s: ratio ${(fastPredicted / fast).toFixed(3)}`,
  ];
}

function readMeasured(context: CliContext, file: string): Measured {
  return parseMeasured(readText(context, file), file);
}

function readText(context: CliContext, file: string): string {
  try {
    return readSmallTextSync(resolve(context.workingDir, file), MAX_SCENARIO_BYTES);
  } catch (error) {
    if (error instanceof DataError) throw error;
    const isMissing = (error as NodeJS.ErrnoException).code === 'ENOENT';
    throw new ConfigError(`cannot read ${file}: ${isMissing ? 'no such file' : (error as Error).message}`);
  }
}

function writePlot(context: CliContext, file: string, text: string): void {
  try {
    writeFileSync(resolve(context.workingDir, file), text);
  } catch (error) {
    throw new ConfigError(`cannot write ${file}: ${(error as Error).message}`);
  }
}

/** `10,100` as numbers. */
function counts(minimum: number): (text: string) => readonly number[] {
  const one = wholeNumber(minimum, MAX_TRAINERS);
  return (text) => {
    if (text.split(',').length > 32) throw new InvalidArgumentError('It must be at most 32 numbers.');
    return text.split(',').map(one);
  };
}
