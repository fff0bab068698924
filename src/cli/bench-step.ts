/** `galore bench step`: the speed of a whole training step on this machine. */
import { Option, type Command } from 'commander';
import { parseOverride, type Override } from '../config/overrides.ts';
import { METHODS, OPTIMIZERS } from '../config/schema.ts';
import type { StepMeasurement } from '../trainer/measure-step.ts';
import type { CliContext } from './context.ts';
import { Display } from './display.ts';
import { EXIT_CODES } from './exit-codes.ts';
import { formatBytes, formatCount } from './format.ts';
import {
  addMeasureOptions,
  addModelOptions,
  benchRun,
  measuredModel,
  type BenchRunFlags,
  type MeasureFlags,
} from './bench-run.ts';
import { debugOption, wholeNumber } from './options.ts';
import { progressLine } from './progress.ts';

interface BenchStepFlags extends BenchRunFlags, MeasureFlags {
  readonly rank?: number;
  readonly steps: number;
  readonly json?: true;
}

/** Adds the command; `finish` takes its exit code. */
export function registerBenchStepCommand(
  group: Command,
  context: CliContext,
  finish: (code: number) => void,
): void {
  const overrides: Override[] = [];
  const command = group
    .command('step')
    .summary('time whole training steps')
    .description(
      'Times training steps of a model with random weights, in one process and without network: forward,\n' +
        'backward, projection, optimizer, lift and new weights. The bases are fixed: a refresh is not measured.',
    );
  addModelOptions(command, { batch: 2, seq: 256 })
    .addOption(
      new Option('--method <name>', 'method.name of the configuration').choices(METHODS).default('galore'),
    )
    .addOption(new Option('--optimizer <name>', 'optimizer.name; default: by method').choices(OPTIMIZERS));
  addMeasureOptions(command)
    .option('--steps <n>', 'steps that are timed, after 2 that are not', wholeNumber(1, 100_000), 7)
    .option(
      '--set <field=value>',
      'set any other field of a run file, such as method.param_groups; may be repeated',
      (text: string) => void overrides.push(parseOverride(text)),
    )
    .option('--json', 'print one JSON object')
    .addOption(debugOption())
    .addHelpText(
      'after',
      `
matmulGflops counts, with N = batch x seq: 6 N m n for each weight matrix but the embedding,
12 N seq hidden for the attention of each layer, 4 m n r for the projection and lift of each
projected matrix; divided by the seconds of the median step. peakGflops is the fastest large
matrix product in the same process and precision. docs/benchmarks.md has more.

Examples:
  galore bench step
  galore bench step --model 60m --batch 2 --seq 256 --rank 128 --precision bf16 --json
  galore bench step --method power --rank 64 \
    --set 'method.param_groups=[{match: [embed_tokens, lm_head], policy: power, rank: 128}]'`,
    )
    .action(async (flags: BenchStepFlags) => finish(await benchStep(context, { ...flags, overrides })));
}

async function benchStep(context: CliContext, flags: BenchStepFlags): Promise<number> {
  const display = new Display(context.stdout, context.stderr, context.environment.mayRedraw && !flags.json);
  try {
    const run = benchRun(flags);
    const { rank } = run;
    const [device] = await context.services.ensureEngine(flags.device);
    const result = await context.services.measureStep({
      ...measuredModel(flags, run, device, context.cores),
      steps: flags.steps,
      onProgress: (text, share) => display.status(progressLine({ type: 'progress', text, share })),
    });
    display.clear();
    if (flags.json) display.line(JSON.stringify(asJson(flags, rank, result)));
    else for (const line of asLines(flags, rank, result)) display.line(line);
    return EXIT_CODES.OK;
  } finally {
    display.clear();
  }
}

function asJson(flags: BenchStepFlags, rank: number | null, { device, ...numbers }: StepMeasurement): object {
  const { model, vocab, batch, seq, method, precision, recompute = false, lossChunk, steps } = flags;
  const { description, threads, isPrecisionNative } = device;
  return {
    ...{ model, vocab, batch, seq, method, rank, precision },
    ...{ recompute, lossChunk, threads, steps, device: description, isPrecisionNative },
    ...numbers,
  };
}

function asLines(flags: BenchStepFlags, rank: number | null, result: StepMeasurement): string[] {
  const method = rank === null ? flags.method : `${flags.method} of rank ${rank}`;
  const { secondsPerStep, shortestSeconds, longestSeconds } = result;
  return [
    `device:    ${result.device.description}`,
    `model:     ${flags.model}, ${formatCount(result.parameters)} parameters, ${method}`,
    `batch:     ${flags.batch} sequences of ${flags.seq} tokens`,
    `speed:     ${formatCount(result.tokensPerSecond)} tokens/s, ${secondsPerStep.toFixed(3)} s a step ` +
      `(${shortestSeconds.toFixed(3)} to ${longestSeconds.toFixed(3)} in ${flags.steps} steps)`,
    `products:  ${result.matmulGflops.toFixed(0)} GFLOP/s, ${(100 * result.fractionOfPeak).toFixed(0)} % ` +
      `of the ${result.peakGflops.toFixed(0)} GFLOP/s measured at best`,
    `memory:    ${formatBytes(result.rssBytes)} at most; weights ${formatBytes(result.weightBytes)}, ` +
      `optimizer state and bases ${formatBytes(result.optimizerBytes)}`,
  ];
}
