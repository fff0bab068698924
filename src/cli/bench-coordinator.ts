/** `galore bench coordinator`: what a step, or waiting, costs the coordinator. */
import { Option, type Command } from 'commander';
import { CODECS, type RunConfig } from '../config/schema.ts';
import { deferred } from '../deferred.ts';
import { OperatingError } from '../errors.ts';
import { benchLoad, type BenchLoad } from './bench-load.ts';
import type { CliContext } from './context.ts';
import { EXIT_CODES } from './exit-codes.ts';
import { formatBytes, formatCount } from './format.ts';
import { onInterrupt } from './interrupts.ts';
import {
  measureIdle,
  measureSteps,
  WARM_UP_STEPS,
  type CoordinatorMeasurement,
  type IdleMeasurement,
} from './measure-coordinator.ts';
import { debugOption, wholeNumber } from './options.ts';

interface BenchCoordinatorFlags {
  readonly trainers: number;
  readonly payloadBytes: number;
  readonly codec: RunConfig['wire']['codec'];
  readonly steps: number;
  readonly idle?: true;
  readonly seconds: number;
  readonly json?: true;
}

/** The server takes 256 connections; one is the scout's. */
const MAX_TRAINERS = 255;

/** Adds the command to the group `bench`; `finish` takes its exit code. */
export function registerBenchCoordinatorCommand(
  group: Command,
  context: CliContext,
  finish: (code: number) => void,
): void {
  group
    .command('coordinator')
    .summary('time the coordinator with trainers that compute nothing')
    .description(
      'Starts a coordinator in a process of its own, with journal, checks and digests as in any run, on 127.0.0.1\n' +
        'and in a temporary folder, and trainers in this process that speak the protocol and send the same random\n' +
        `contribution in every step. The first ${WARM_UP_STEPS} steps do not count.`,
    )
    .option('--trainers <n>', 'trainers that are connected', wholeNumber(1, MAX_TRAINERS), 8)
    .option(
      '--payload-bytes <n>',
      'bytes of a contribution, about: a model is made to have it',
      wholeNumber(50_000, 1e9),
      15_000_000,
    )
    .addOption(new Option('--codec <name>', 'of contributions and updates').choices(CODECS).default('int8'))
    .option('--steps <n>', 'timed steps; 0: as --idle', wholeNumber(0, 100_000), 10)
    .option('--idle', 'measure what the coordinator takes while the trainers wait')
    .option('--seconds <n>', 'with --idle: for how long', wholeNumber(1, 86_400), 10)
    .option('--json', 'print one JSON object')
    .addOption(debugOption())
    .addHelpText(
      'after',
      `
Examples:
  galore bench coordinator
  galore bench coordinator --trainers 8 --payload-bytes 15000000 --codec int8 --steps 10 --json
  galore bench coordinator --trainers 64 --idle`,
    )
    .action(async (flags: BenchCoordinatorFlags) => finish(await benchCoordinator(context, flags)));
}

async function benchCoordinator(context: CliContext, flags: BenchCoordinatorFlags): Promise<number> {
  const { trainers, payloadBytes, codec, json } = flags;
  const steps = flags.idle ? 0 : flags.steps;
  // None begins while one more is waited for.
  const startTrainers = trainers + (steps === 0 ? 1 : 0);
  const load = benchLoad({ payloadBytes, codec, startTrainers });
  const interrupted = deferred<never>();
  interrupted.promise.catch(() => {});
  using _ = onInterrupt(context.signals, {
    first: () => interrupted.reject(new Interruption('interrupted')),
    again: () => context.exitNow(EXIT_CODES.INTERRUPTED),
  });
  const bench = { load, trainers, interrupted: interrupted.promise };
  const print = (lines: readonly string[]): void => void context.stdout.write(`${lines.join('\n')}\n`);
  try {
    if (steps === 0) {
      const idle = await measureIdle(bench, flags.seconds);
      print(json ? [JSON.stringify(idleJson(trainers, idle))] : idleLines(trainers, idle));
    } else {
      const measured = await measureSteps(bench, steps);
      print(json ? [JSON.stringify(stepsJson(flags, load, measured))] : stepsLines(flags, load, measured));
    }
    return EXIT_CODES.OK;
  } catch (error) {
    if (error instanceof Interruption) return EXIT_CODES.INTERRUPTED;
    throw error;
  }
}

class Interruption extends OperatingError {}

function stepsJson(
  { trainers, codec, steps }: BenchCoordinatorFlags,
  load: BenchLoad,
  measured: CoordinatorMeasurement,
) {
  const { payloadBytes, parameters, sizes } = load;
  return {
    ...{ trainers, payloadBytes, codec, steps, parameters, slots: sizes.length },
    ...measured,
    cpuSecondsPerStep: measured.cpuSeconds / steps,
  };
}

function idleJson(trainers: number, idle: IdleMeasurement) {
  return { trainers, ...idle, coreShare: idle.cpuSeconds / idle.seconds };
}

function stepsLines(
  { trainers, codec, steps }: BenchCoordinatorFlags,
  { payloadBytes, parameters, sizes }: BenchLoad,
  measured: CoordinatorMeasurement,
): string[] {
  const { secondsPerStep, shortestSeconds, longestSeconds, cpuSeconds, clientCpuSeconds } = measured;
  return [
    `load:        ${trainers} trainers, contributions of ${payloadBytes} bytes in ${codec} (${formatCount(parameters)} parameters, ${sizes.length} tensors)`,
    `step:        ${secondsPerStep.toFixed(3)} s (${shortestSeconds.toFixed(3)} to ${longestSeconds.toFixed(3)} s, ${steps} steps)`,
    `processor:   ${(cpuSeconds / steps).toFixed(3)} s a step of the coordinator, ${(clientCpuSeconds / steps).toFixed(3)} s of all trainers`,
    `memory:      ${formatBytes(measured.coordinatorRssBytes)} resident at the highest`,
  ];
}

function idleLines(
  trainers: number,
  { seconds, cpuSeconds, coordinatorRssBytes }: IdleMeasurement,
): string[] {
  return [
    `load:        ${trainers} trainers that wait`,
    `processor:   ${((100 * cpuSeconds) / seconds).toFixed(2)} % of a core over ${seconds.toFixed(1)} s`,
    `memory:      ${formatBytes(coordinatorRssBytes)} resident at the highest`,
  ];
}
