/** `galore engine`: installs the tensor engine and tries it. Also what other commands call before they need it. */
import { availableParallelism } from 'node:os';
import type { Command } from 'commander';
import { readEnvironment } from '../config/environment.ts';
import { checkEngine, type EngineReport } from '../trainer/engine/check.ts';
import * as install from '../trainer/engine/install.ts';
import { progressPrinter, type OnEngineProgress } from '../trainer/engine/progress.ts';

interface EngineFlags {
  readonly gpu?: boolean;
  readonly json?: boolean;
}

/** Installs the engine if it is not there, saying so; takes milliseconds if it is. @throws EngineError */
export function ensureEngine(
  onProgress: OnEngineProgress = progressPrinter(process.stderr, 'engine: '),
): Promise<install.InstalledEngine> {
  return install.ensureEngine({ cacheDir: readEnvironment().cacheDir, onProgress });
}

export function registerEngineCommand(program: Command): void {
  const engine = program.command('engine').description('install and check the tensor engine of trainers');
  engine
    .command('install')
    .description('install TensorFlow for this user, check every file, and repair what is damaged')
    .option('--gpu', 'the CUDA build, with NVIDIA’s libraries (2.5 GB to download)')
    .option('--json', 'print the outcome as JSON')
    .addHelpText('after', '\nExamples:\n  $ galore engine install\n  $ galore engine install --gpu')
    .action(installCommand);
  engine
    .command('check')
    .description('load the engine and print device, versions and speed')
    .option('--gpu', 'fail unless it runs on a GPU')
    .option('--json', 'print the outcome as JSON')
    .addHelpText('after', '\nExamples:\n  $ galore engine check\n  $ galore engine check --gpu --json')
    .action(checkCommand);
}

async function installCommand(flags: EngineFlags): Promise<void> {
  const installed = await install.ensureEngine({
    cacheDir: readEnvironment().cacheDir,
    variant: flags.gpu ? 'gpu' : 'cpu',
    thoroughness: 'full',
    onProgress: progressPrinter(process.stderr, 'engine: '),
  });
  if (flags.json) console.log(JSON.stringify(installed));
  else if (!installed.isChanged) {
    console.log(
      `TensorFlow ${installed.tensorflowVersion} (${installed.variant}) is installed and undamaged`,
    );
  }
}

async function checkCommand(flags: EngineFlags): Promise<void> {
  await ensureEngine();
  const report = await checkEngine({ threads: availableParallelism(), mustUseGpu: flags.gpu ?? false });
  console.log(flags.json ? JSON.stringify(report) : reportText(report));
}

function reportText(report: EngineReport): string {
  const { tensorflow, tfjs, node } = report.versions;
  const speeds = report.speeds.map(({ precision, gflops, isNative }) => {
    const note = isNative ? '' : ' (computed in f32: bf16 needs a processor with AVX512-BF16 or AMX)';
    return `${`${precision}:`.padEnd(10)}${gflops.toFixed(0)} GFLOP/s${note}`;
  });
  return [
    `device:   ${report.kind.toUpperCase()} ${report.device}, ${report.threads} threads`,
    `versions: TensorFlow ${tensorflow}, tfjs ${tfjs}, Node ${node}`,
    ...speeds,
  ].join('\n');
}
