/** `galore bench aggregate`: what each rule of `coordinator.aggregation` costs the coordinator a step. */
import { cpuUsage } from 'node:process';
import { Option, type Command } from 'commander';
import { CODECS, type RunConfig } from '../config/schema.ts';
import { codecFor } from '../galore/codec/codec.ts';
import { measureAggregate, type AggregateCosts } from '../galore/aggregate/measure-aggregate.ts';
import type { CliContext } from './context.ts';
import { Display } from './display.ts';
import { EXIT_CODES } from './exit-codes.ts';
import { debugOption, wholeNumber } from './options.ts';

interface BenchAggregateFlags {
  readonly trainers: number;
  readonly payloadBytes: number;
  readonly codec: RunConfig['wire']['codec'];
  readonly byzantine?: number;
  readonly repeats: number;
  readonly json?: true;
}

/** Numbers of a tensor: a matrix of some size in its subspace. */
const TENSOR_NUMBERS = 2 ** 20;
const MAX_TRAINERS = 64;

/** Adds the command to the group `bench`; `finish` takes its exit code. */
export function registerBenchAggregateCommand(
  group: Command,
  context: CliContext,
  finish: (code: number) => void,
): void {
  group
    .command('aggregate')
    .summary('time the rules of aggregation')
    .description(
      'Makes one contribution of those of several trainers with each rule of coordinator.aggregation, on one core and\n' +
        'without network. Milliseconds of processor time for a whole step, the shortest of the repeats.',
    )
    .option('--trainers <n>', 'trainers of the step', wholeNumber(3, MAX_TRAINERS), 8)
    .option(
      '--payload-bytes <n>',
      'bytes of the contribution of one trainer, about',
      wholeNumber(1000, 1e9),
      15_000_000,
    )
    .addOption(new Option('--codec <name>', 'of the contributions').choices(CODECS).default('int8'))
    .option(
      '--byzantine <n>',
      'f of the rules that have one; default: the most that Krum stands',
      wholeNumber(0, 31),
    )
    .option('--repeats <n>', 'timed runs of each, of which the shortest counts', wholeNumber(1, 1000), 3)
    .option('--json', 'print one JSON object')
    .addOption(debugOption())
    .addHelpText(
      'after',
      `
decode: every contribution is decoded once and nothing is done with it.
The other lines are with decoding, as often as the rule needs it, and without encoding what comes of it.

Examples:
  galore bench aggregate
  galore bench aggregate --trainers 8 --payload-bytes 15000000 --json`,
    )
    .action((flags: BenchAggregateFlags) => finish(benchAggregate(context, flags)));
}

function benchAggregate(context: CliContext, flags: BenchAggregateFlags): number {
  const { trainers, payloadBytes, codec, repeats, json } = flags;
  const byzantine = flags.byzantine ?? Math.floor((trainers - 3) / 2);
  const bytesPerNumber = codecFor(codec).encodedBytes(TENSOR_NUMBERS) / TENSOR_NUMBERS;
  const numbers = Math.round(payloadBytes / bytesPerNumber);
  const costs = measureAggregate({
    ...{ trainers, numbers, tensorNumbers: TENSOR_NUMBERS, codec, byzantine, repeats },
    seconds: cpuSeconds,
  });
  const display = new Display(context.stdout, context.stderr, false);
  if (json) display.line(JSON.stringify({ trainers, payloadBytes, codec, numbers, byzantine, ...costs }));
  else for (const line of asLines(flags, numbers, byzantine, costs)) display.line(line);
  return EXIT_CODES.OK;
}

function cpuSeconds(): number {
  const { user, system } = cpuUsage();
  return (user + system) / 1e6;
}

function asLines(
  { trainers, payloadBytes, codec }: BenchAggregateFlags,
  numbers: number,
  byzantine: number,
  { decodeMilliseconds, rules }: AggregateCosts,
): string[] {
  const rows = [{ rule: 'decode', milliseconds: decodeMilliseconds }, ...rules];
  return [
    `${trainers} contributions of ${payloadBytes} bytes (${numbers} numbers in ${codec}), f = ${byzantine}, on one core`,
    '',
    ...rows.map(({ rule, milliseconds }) => `${rule.padEnd(18)}${milliseconds.toFixed(1).padStart(9)} ms`),
  ];
}
