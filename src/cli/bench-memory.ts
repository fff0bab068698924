/** `galore bench memory`: what each method takes of memory, as allocated. */
import { InvalidArgumentError, Option, type Command } from 'commander';
import type { RunMemoryBench } from '../trainer/bench-memory.ts';
import type { KeptBytes, MemoryMeasurement } from '../trainer/measure-memory.ts';
import {
  addMeasureOptions,
  addModelOptions,
  benchRun,
  measuredModel,
  type BenchRunFlags,
  type MeasureFlags,
} from './bench-run.ts';
import type { CliContext } from './context.ts';
import { Display } from './display.ts';
import { EXIT_CODES } from './exit-codes.ts';
import { formatCount } from './format.ts';
import { debugOption } from './options.ts';
import { progressLine } from './progress.ts';

interface BenchMemoryFlags extends MeasureFlags {
  readonly method?: readonly MethodRow[];
  readonly json?: true;
}

const EVERYTHING = ['attn', 'mlp', 'embed_tokens', 'lm_head'];

/** Rows of the table by name: a method, and what differs from its defaults. */
const ROWS = {
  full: { method: 'full' },
  'full-8bit': { method: 'full', optimizer: 'adamw-8bit' },
  adafactor: { method: 'full', optimizer: 'adafactor' },
  sgd: { method: 'full', optimizer: 'sgd' },
  galore: { method: 'galore' },
  'galore-8bit': { method: 'galore', optimizer: 'adamw-8bit' },
  'galore-8bit-all': { method: 'galore', optimizer: 'adamw-8bit', targetModules: EVERYTHING },
  'galore-adafactor': { method: 'galore', optimizer: 'adafactor' },
  'q-galore': { method: 'q-galore' },
  'q-galore-all': { method: 'q-galore', targetModules: EVERYTHING },
  adarankgrad: { method: 'adarankgrad' },
  golore: { method: 'golore' },
  flora: { method: 'flora' },
  sumo: { method: 'sumo' },
  'two-sided': { method: 'two-sided' },
  fira: { method: 'fira' },
  apollo: { method: 'apollo' },
  'apollo-mini': { method: 'apollo-mini' },
  ldadam: { method: 'ldadam' },
  power: { method: 'power' },
  'power-all': { method: 'power', targetModules: EVERYTHING },
} as const satisfies Readonly<Record<string, Pick<BenchRunFlags, 'method' | 'optimizer' | 'targetModules'>>>;

type MethodRow = keyof typeof ROWS;
const ROW_NAMES = Object.keys(ROWS) as MethodRow[];

/** Left out unless asked for: their memory is that of galore. */
const LIKE_GALORE: readonly MethodRow[] = ['adarankgrad', 'golore'];

interface MeasuredRow {
  readonly name: MethodRow;
  readonly rank: number | null;
  readonly measurement: MemoryMeasurement;
}

const runMemoryBench: RunMemoryBench = async (request) =>
  (await import('../trainer/bench-memory.ts')).benchMemory(request);

/** Adds the command; `finish` takes its exit code. */
export function registerBenchMemoryCommand(
  group: Command,
  context: CliContext,
  finish: (code: number) => void,
  run: RunMemoryBench = runMemoryBench,
): void {
  const command = group
    .command('memory')
    .summary('measure the memory of each method')
    .description(
      'Runs two training steps of a model with random weights for each method, in a process of its own and\n' +
        'without network, and counts the bytes of weights, optimizer state and bases, and the most at once.',
    );
  addModelOptions(command, { batch: 1, seq: 16 }).addOption(
    new Option('--method <name>', 'a row of the table; may be repeated; default: all that differ')
      .choices(ROW_NAMES)
      .argParser(collectRows),
  );
  addMeasureOptions(command)
    .option('--json', 'print one JSON object')
    .addOption(debugOption())
    .addHelpText(
      'after',
      `
-8bit: optimizer.name adamw-8bit. -all: embeddings and head projected as well.
peak/layer: each gradient is used up as soon as it is known; peak/held: all are kept until the end of
backward. docs/benchmarks.md says what is counted.

Examples:
  galore bench memory
  galore bench memory --model 130m --method full --method galore --json`,
    )
    .action(async (flags: BenchMemoryFlags) => finish(await benchMemory(context, flags, run)));
}

function collectRows(text: string, before: readonly MethodRow[] = []): readonly MethodRow[] {
  const row = ROW_NAMES.find((name) => name === text);
  if (row === undefined) throw new InvalidArgumentError(`Allowed choices are ${ROW_NAMES.join(', ')}.`);
  return [...before, row];
}

async function benchMemory(
  context: CliContext,
  flags: BenchMemoryFlags,
  run: RunMemoryBench,
): Promise<number> {
  const display = new Display(context.stdout, context.stderr, context.environment.mayRedraw && !flags.json);
  try {
    const names = flags.method ?? ROW_NAMES.filter((name) => !LIKE_GALORE.includes(name));
    const { model, vocab, seq, rank: wanted } = flags;
    const runs = names.map((name) => {
      const choice = ROWS[name] as Pick<BenchRunFlags, 'method' | 'optimizer' | 'targetModules'>;
      // APOLLO-Mini's rank is 1, whatever the others have.
      const rank = wanted === undefined || name === 'apollo-mini' ? {} : { rank: wanted };
      return { name, bench: benchRun({ model, vocab, seq, ...choice, ...rank }) };
    });
    const [device] = await context.services.ensureEngine(flags.device);
    const rows: MeasuredRow[] = [];
    for (const [index, { name, bench }] of runs.entries()) {
      display.status(
        progressLine({ type: 'progress', text: `measuring ${name}`, share: index / runs.length }),
      );
      const measurement = await run(measuredModel(flags, bench, device, context.cores));
      rows.push({ name, rank: bench.rank, measurement });
    }
    display.clear();
    if (flags.json) display.line(JSON.stringify(asJson(flags, rows)));
    else for (const line of asLines(flags, rows)) display.line(line);
    return EXIT_CODES.OK;
  } finally {
    display.clear();
  }
}

/** What a method saves of what AdamW in f32 keeps, its two moments, as a share; bases count. */
function saving({ parameters, stateBytes, basisBytes }: KeptBytes): number {
  return 1 - (stateBytes + basisBytes) / (2 * 4 * parameters);
}

/** How far state and bases of the linear layers are from the paper's formula, as a share. */
function deviation({ stateBytes, basisBytes, formulaBytes }: MemoryMeasurement['linear']): number | null {
  return formulaBytes === null ? null : (stateBytes + basisBytes) / formulaBytes - 1;
}

function asJson(flags: BenchMemoryFlags, rows: readonly MeasuredRow[]): object {
  const { model, vocab, batch, seq, precision, recompute = false, lossChunk } = flags;
  const methods = rows.map(({ name, rank, measurement }) => {
    const { parameters, weightBytes, stateBytes, basisBytes, gradientBytes, peak, linear } = measurement;
    return {
      ...{ name, rank, parameters, weightBytes, stateBytes, basisBytes, gradientBytes },
      saving: saving(measurement),
      peakPerLayer: peak['per-layer'],
      peakAfterBackward: peak['after-backward'],
      linear: { ...linear, saving: saving(linear), deviation: deviation(linear) },
    };
  });
  const device = rows[0]?.measurement.device.description;
  return { model, vocab, batch, seq, precision, recompute, lossChunk, device, methods };
}

const COLUMNS = [
  ...['method', 'rank', 'weights', 'state', 'bases', 'gradient', 'peak/layer', 'peak/held', 'resident'],
  ...['saves', 'linear saves', 'of formula'],
];

function asLines(flags: BenchMemoryFlags, rows: readonly MeasuredRow[]): string[] {
  const megabytes = (bytes: number): string => (bytes / 1e6).toFixed(1);
  const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;
  const cells = rows.map(({ name, rank, measurement }) => {
    const { weightBytes, stateBytes, basisBytes, gradientBytes, peak, linear } = measurement;
    const { 'per-layer': layer, 'after-backward': held } = peak;
    const share = deviation(linear);
    return [
      ...[name, rank === null ? '-' : String(rank)],
      ...[weightBytes, stateBytes, basisBytes, gradientBytes].map(megabytes),
      ...[layer.tensorBytes, held.tensorBytes, layer.rssBytes].map(megabytes),
      ...[percent(saving(measurement)), percent(saving(linear))],
      share === null ? '-' : percent(1 + share),
    ];
  });
  const [first] = rows;
  if (first === undefined) return [];
  const { parameters, linear, device } = first.measurement;
  return [
    `device:  ${device.description}`,
    `model:   ${flags.model}, ${formatCount(parameters)} parameters, ${formatCount(linear.parameters)} of them in linear layers`,
    `batch:   ${flags.batch} sequences of ${flags.seq} tokens`,
    '',
    ...table([COLUMNS, ...cells]),
    '',
    'MB = 10^6 bytes. saves: of the state of AdamW in f32, bases counted. of formula: state and bases of the',
    "linear layers as a share of the paper's mr + 2nr numbers of f32 for each matrix.",
  ];
}

/** Columns as wide as they must be, the first to the left and the rest to the right. */
function table(rows: readonly (readonly string[])[]): string[] {
  const widths = COLUMNS.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  return rows.map((row) =>
    row
      .map((cell, column) => (column === 0 ? cell.padEnd(widths[0]!) : cell.padStart(widths[column]!)))
      .join('  '),
  );
}
