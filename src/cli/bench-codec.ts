/** `galore bench codec`: how fast each codec of the wire is on one core, how many bytes it takes and how far off it is. */
import { cpuUsage } from 'node:process';
import { CODEC_NAMES } from '../galore/codec/codec.ts';
import { measureCodec, type CodecMeasurement } from '../galore/codec/measure-codec.ts';
import type { Command } from 'commander';
import type { CliContext } from './context.ts';
import { Display } from './display.ts';
import { EXIT_CODES } from './exit-codes.ts';
import { debugOption, wholeNumber } from './options.ts';

interface BenchCodecFlags {
  readonly numbers: number;
  readonly repeats: number;
  readonly json?: true;
}

/** Adds the command to the group `bench`; `finish` takes its exit code. */
export function registerBenchCodecCommand(
  group: Command,
  context: CliContext,
  finish: (code: number) => void,
): void {
  group
    .command('codec')
    .summary('time the codecs of the wire')
    .description(
      'Encodes, decodes and sums Gaussian numbers with each codec, on one core and without network.\n' +
        'Rates are bytes of f32 by processor time, the best of the repeats.',
    )
    .option('--numbers <n>', 'numbers of the tensor', wholeNumber(1, 2 ** 28), 4_194_304)
    .option('--repeats <n>', 'timed runs of each, of which the shortest counts', wholeNumber(1, 1000), 15)
    .option('--json', 'print one JSON object')
    .addOption(debugOption())
    .addHelpText(
      'after',
      `
sum: two encoded tensors are summed and the sum is encoded, as the coordinator does it; bytes of f32 of the two.
error: |decoded - x| / |x| of the whole tensor.

Examples:
  galore bench codec
  galore bench codec --numbers 1000000 --json`,
    )
    .action((flags: BenchCodecFlags) => finish(benchCodec(context, flags)));
}

function benchCodec(context: CliContext, { numbers, repeats, json }: BenchCodecFlags): number {
  const display = new Display(context.stdout, context.stderr, false);
  const codecs = CODEC_NAMES.map((name) => measureCodec(name, { count: numbers, repeats, cpuSeconds }));
  if (json) display.line(JSON.stringify({ numbers, repeats, codecs }));
  else for (const line of asLines(numbers, codecs)) display.line(line);
  return EXIT_CODES.OK;
}

function cpuSeconds(): number {
  const { user, system } = cpuUsage();
  return (user + system) / 1e6;
}

function asLines(numbers: number, codecs: readonly CodecMeasurement[]): string[] {
  const rows = codecs.map((each) => [
    ...[each.codec, each.bytesPerNumber.toFixed(3)],
    ...[each.encodeGbPerSecond, each.decodeGbPerSecond, each.sumGbPerSecond].map((rate) => rate.toFixed(2)),
    `${(100 * each.relativeError).toFixed(2)} %`,
  ]);
  const head = ['codec', 'bytes a number', 'encode GB/s', 'decode GB/s', 'sum GB/s', 'error'];
  return [
    `${numbers} Gaussian numbers on one core, GB of f32 a second of processor time`,
    '',
    ...[head, ...rows].map((cells) =>
      cells
        .map((cell, i) => (i === 0 ? cell.padEnd(6) : cell.padStart(Math.max(head[i]!.length, 8) + 2)))
        .join(''),
    ),
  ];
}
