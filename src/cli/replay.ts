/** `galore replay`: computes the weights of a run again from a checkpoint and its journal, and compares. */
import type { Command } from 'commander';
import { join, resolve } from 'node:path';
import { loadRunConfig } from '../config/load.ts';
import { openReplay } from '../coordinator/replay-source.ts';
import { readRunDirectory } from '../coordinator/store/run-directory.ts';
import type { DeviceWish } from '../device-name.ts';
import { printable } from '../log.ts';
import type { CliContext } from './context.ts';
import { Display } from './display.ts';
import { EXIT_CODES } from './exit-codes.ts';
import { table } from './format.ts';
import { threadsOf } from './local-trainers.ts';
import { debugOption, deviceOption, wholeNumber } from './options.ts';
import { replay, type ReplayResult, type ReplayRow } from './replay-run.ts';
import { RUN_FILE } from './run-file.ts';

interface ReplayFlags {
  readonly from?: number;
  readonly to?: number;
  readonly threads?: number;
  readonly device: DeviceWish;
  readonly json?: true;
}

/** Adds the command; `finish` takes its exit code. */
export function registerReplayCommand(
  program: Command,
  context: CliContext,
  finish: (code: number) => void,
): void {
  program
    .command('replay')
    .argument('<dir>', 'run directory, such as runs/sotu')
    .summary('compute the weights of a run again from its journal, and compare')
    .description(
      'Takes a checkpoint of the run, applies the records of the journal as a trainer does, and compares the\n' +
        'whole state with every checkpoint on the way, and the weights with the hashes that trainers told.\n' +
        'Reads only: a run that is going on is not disturbed.',
    )
    .option('--from <step>', 'the checkpoint to begin with; default: the oldest', wholeNumber(0))
    .option('--to <step>', 'the last step; default: the last of the journal', wholeNumber(0))
    .option('--threads <n>', 'CPU threads; default: as the run (trainer.threads)', wholeNumber(1, 1024))
    .addOption(deviceOption())
    .option('--json', 'print one JSON object on one line: steps, from, to, records, weightsSha256, equal, …')
    .addOption(debugOption())
    .addHelpText(
      'after',
      `
Examples:
  galore replay runs/sotu
  galore replay runs/sotu --from 40 --to 60 --json

Exits with 0 if all is equal and with 3 if anything differs or is damaged.`,
    )
    .action(async (dir: string, flags: ReplayFlags) => finish(await replayRun(context, dir, flags)));
}

async function replayRun(context: CliContext, dir: string, flags: ReplayFlags): Promise<number> {
  const display = new Display(context.stdout, context.stderr, context.environment.mayRedraw && !flags.json);
  const onNotice = (text: string): void => display.error(`${printable(text)}\n`);
  try {
    const run = await readRunDirectory(resolve(context.workingDir, dir));
    const { workingDir, environment } = context;
    const config = loadRunConfig(join(run.path, RUN_FILE), { workingDir, homeDir: environment.homeDir });
    const wish = { fromStep: flags.from ?? null, toStep: flags.to ?? null };
    await using source = await openReplay(run, config, wish);
    source.notices.forEach(onNotice);
    const [device] = await context.services.ensureEngine(flags.device);
    const ofRun = threadsOf(config, context.cores);
    const threads = flags.threads ?? ofRun;
    if (threads !== ofRun) {
      onNotice(`computed with --threads ${threads}, the run with ${ofRun}: the last bits may differ`);
    }
    const { precision } = config.trainer;
    const { welcome } = source;
    using follower = await context.services.follow({ welcome, path: dir, precision, threads, device });
    const result = await replay(source, follower, run.checkpointsDir, (step) =>
      display.status(`step ${step} of ${source.plan.toStep}`),
    );
    display.clear();
    display.line(flags.json ? JSON.stringify({ ...result, threads, precision }) : formatReplay(result));
    return result.equal ? EXIT_CODES.OK : EXIT_CODES.CANNOT_CONTINUE;
  } finally {
    display.clear();
  }
}

/** The table and the verdict. */
export function formatReplay({ from, to, records, weightsSha256, equal, rows }: ReplayResult): string {
  const cells = rows.map((row) => [
    String(row.step),
    String(row.records),
    row.weightsSha256?.slice(0, 16) ?? '-',
    row.comparedWith ?? '-',
    verdictOn(row),
  ]);
  const faults = rows.flatMap(({ step, reason }) => (reason === null ? [] : [`step ${step}: ${reason}`]));
  return [
    ...table([['step', 'records', 'weights', 'compared with', ''], ...cells]),
    ...faults.map(printable),
    ...(equal
      ? []
      : ['Another processor, engine, device or thread count changes the last bits, nothing more.']),
    '',
    `weights sha256: ${weightsSha256} (step ${to})`,
    `steps ${from} to ${to}, ${records} records: ${equal ? 'equal' : 'NOT EQUAL'}`,
  ].join('\n');
}

function verdictOn({ isEqual, statedSha256 }: ReplayRow): string {
  if (isEqual === null) return '-';
  if (isEqual) return 'equal';
  return statedSha256 === null ? 'damaged' : 'differs';
}
