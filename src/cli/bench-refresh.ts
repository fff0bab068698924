/** `galore bench refresh`: what a refresh costs on this machine, and how good its basis is. */
import { Option, type Command } from 'commander';
import { resolve } from 'node:path';
import { ConfigError } from '../errors.ts';
import { printable } from '../log.ts';
import type { RefreshBench, RunRefreshBench } from '../trainer/bench-refresh.ts';
import type { CheckpointGradientsRequest } from '../trainer/checkpoint-gradients.ts';
import type { RefreshMeasurement } from '../trainer/measure-refresh.ts';
import type { CliContext } from './context.ts';
import { Display } from './display.ts';
import { EXIT_CODES } from './exit-codes.ts';
import { findModelFolder } from './model-folder.ts';
import { debugOption, wholeNumber } from './options.ts';
import { progressLine } from './progress.ts';

interface BenchRefreshFlags {
  readonly rows: number;
  readonly cols: number;
  readonly rank: number;
  readonly oversample: number;
  readonly powerIterations: number;
  readonly repeats: number;
  readonly checkpoint?: string;
  readonly data?: string;
  readonly layer: number;
  readonly threads?: number;
  readonly json?: true;
}

const runRefreshBench: RunRefreshBench = async (bench) =>
  (await import('../trainer/bench-refresh.ts')).benchRefresh(bench);

/** Adds the command to the group `bench`; `finish` takes its exit code. */
export function registerBenchRefreshCommand(
  group: Command,
  context: CliContext,
  finish: (code: number) => void,
  run: RunRefreshBench = runRefreshBench,
): void {
  group
    .command('refresh')
    .summary('time the refresh of a subspace against a full SVD')
    .description(
      'Times making a new basis for one matrix, in one process and without network: sketches and factorisations,\n' +
        "without an old basis (cold) and with one (warm), against TensorFlow's full singular value decomposition.",
    )
    .option('--rows <n>', 'rows of the gradient', wholeNumber(1, 65_536), 1024)
    .option('--cols <n>', 'columns of the gradient', wholeNumber(1, 65_536), 2736)
    .option('--rank <n>', 'rank of the subspace', wholeNumber(1, 65_536), 256)
    .option('--oversample <n>', 'columns of the sketch beyond the rank', wholeNumber(0, 65_536), 8)
    .option('--power-iterations <n>', 'as refresh.power_iterations', wholeNumber(0, 3), 1)
    .option('--repeats <n>', 'timed runs of each, of which the median counts', wholeNumber(1, 1000), 5)
    .addOption(
      new Option(
        '--checkpoint <dir>',
        'take gradients of this model: a run, a checkpoint, a Hugging Face folder',
      ).conflicts(['rows', 'cols']),
    )
    .option('--data <path>', 'text for --checkpoint; default: the text of the run')
    .option('--layer <n>', 'layer of --checkpoint whose matrices are measured', wholeNumber(0, 65_536), 0)
    .option('--threads <n>', 'CPU threads; default: all cores', wholeNumber(1, 1024))
    .option('--json', 'print one JSON object')
    .addOption(debugOption())
    .addHelpText(
      'after',
      `
captured is the energy of the gradient inside the basis over that inside the best basis of the rank. A warm
start has two rounds for each power iteration, a cold one has one more. The made-up gradient has a
spectrum that falls like j^-0.75, about as those of language models in training do. GaLore's own refresh is
PyTorch's linalg.svd, which takes about twice as long as TensorFlow's: node dist/bench/peers/compare-refresh.js
(in the source tree) takes turns with it.

Examples:
  galore bench refresh
  galore bench refresh --rows 512 --cols 1376 --rank 128 --json
  galore bench refresh --checkpoint runs/sotu --rank 64`,
    )
    .action(async (flags: BenchRefreshFlags) => finish(await benchRefresh(context, flags, run)));
}

async function benchRefresh(
  context: CliContext,
  flags: BenchRefreshFlags,
  run: RunRefreshBench,
): Promise<number> {
  const display = new Display(context.stdout, context.stderr, context.environment.mayRedraw && !flags.json);
  try {
    const { rank, oversample, powerIterations, repeats } = flags;
    const shared = {
      threads: flags.threads ?? context.cores,
      question: { rank, oversample, powerIterations, repeats },
    };
    if (flags.checkpoint === undefined && flags.data !== undefined) {
      throw new ConfigError('--data is the text for --checkpoint DIR, which was not given');
    }
    const bench: RefreshBench =
      flags.checkpoint === undefined
        ? { ...shared, kind: 'synthetic', rows: flags.rows, cols: flags.cols }
        : {
            ...shared,
            kind: 'checkpoint',
            request: await checkpointRequest(context, flags, flags.checkpoint, display),
          };
    const [device] = await context.services.ensureEngine();
    const measurements = await run({ ...bench, device });
    display.clear();
    if (flags.json) {
      const { threads } = bench;
      display.line(JSON.stringify({ threads, oversample, powerIterations, repeats, measurements }));
    } else {
      for (const line of measurements.flatMap(report)) display.line(line);
    }
    return EXIT_CODES.OK;
  } finally {
    display.clear();
  }
}

async function checkpointRequest(
  context: CliContext,
  flags: BenchRefreshFlags,
  dir: string,
  display: Display,
): Promise<Omit<CheckpointGradientsRequest, 'threads'>> {
  const onNotice = (text: string): void => display.error(`${printable(text)}\n`);
  const folder = await findModelFolder(context, dir, onNotice);
  if (flags.data === undefined && folder.config === null) {
    throw new ConfigError(`${dir} belongs to no run, so there is no text to take: give --data PATH`);
  }
  return {
    folder,
    dataPath: flags.data === undefined ? null : resolve(context.workingDir, flags.data),
    layer: flags.layer,
    cacheDir: context.environment.cacheDir,
    onProgress: (text, share) => display.status(progressLine({ type: 'progress', text, share })),
  };
}

/** One matrix as a table for people. */
function report(measurement: RefreshMeasurement): readonly string[] {
  const { name, rows, cols, rank, svdMs, bestShare, cold, warm, exact } = measurement;
  const ways = [
    ['cold', cold],
    ['warm', warm],
    ['exact', exact],
  ] as const;
  const percent = (share: number): string => `${(100 * share).toFixed(2)} %`;
  return [
    `${name}  ${rows} x ${cols}, rank ${rank}: the best basis has ${percent(bestShare)} of the energy, ` +
      `the one before ${percent(measurement.earlierCapturedShare)} of that`,
    `  full SVD ${svdMs.toFixed(1).padStart(8)} ms  (TensorFlow's Svd; PyTorch's takes about twice as long)`,
    ...ways.flatMap(([way, result]) =>
      result === null
        ? []
        : [
            `  ${way.padEnd(8)} ${result.ms.toFixed(1).padStart(8)} ms  ${result.ratio.toFixed(1)} times as fast  ` +
              `captured ${percent(result.capturedShare)}`,
          ],
    ),
  ];
}
