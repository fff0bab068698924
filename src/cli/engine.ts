/** `galore engine`: installs the tensor engine and tries it. Also what other commands call before they need it. */
import { availableParallelism } from 'node:os';
import type { Command } from 'commander';
import { readEnvironment } from '../config/environment.ts';
import type { DeviceWish } from '../device-name.ts';
import { checkEngine, type EngineReport } from '../trainer/engine/check.ts';
import * as install from '../trainer/engine/install.ts';
import { progressPrinter } from '../trainer/engine/progress.ts';
import { readyDevices, type ReadyDevice } from '../trainer/engine/ready-device.ts';
import { deviceOption } from './options.ts';

interface InstallFlags {
  readonly gpu?: boolean;
  readonly json?: boolean;
}

interface CheckFlags extends InstallFlags {
  readonly device: DeviceWish;
}

const onProgress = progressPrinter(process.stderr, 'engine: ');

/**
 * A device for each of `count` trainers, with its engine: installed if it is not there, saying so; takes milliseconds
 * if it is. @throws EngineError
 */
export function ensureEngine(wish: DeviceWish = 'auto', count = 1): Promise<readonly ReadyDevice[]> {
  const { cacheDir, visibleGpus } = readEnvironment();
  const onNotice = (message: string): void => onProgress({ message });
  return readyDevices({ wish, count, cacheDir, visibleGpus, onProgress, onNotice });
}

export function registerEngineCommand(program: Command): void {
  const engine = program.command('engine').description('install and check the tensor engine of trainers');
  engine
    .command('install')
    .description(
      'install TensorFlow for this user, check every file, and repair what is damaged; the builds for CPU and GPU\n' +
        'lie side by side',
    )
    .option('--gpu', 'the CUDA build, with NVIDIA’s libraries (2.5 GB to download, 7.2 GB of disk meanwhile)')
    .option('--json', 'print the outcome as JSON')
    .addHelpText('after', '\nExamples:\n  $ galore engine install\n  $ galore engine install --gpu')
    .action(installCommand);
  engine
    .command('check')
    .description('load the engine and print device, versions, abilities and speed')
    .addOption(deviceOption())
    .option('--gpu', 'short for --device gpu:0')
    .option('--json', 'print the outcome as JSON')
    .addHelpText(
      'after',
      '\nExamples:\n  $ galore engine check\n  $ galore engine check --device gpu:1 --json',
    )
    .action(checkCommand);
}

async function installCommand(flags: InstallFlags): Promise<void> {
  const installed = await install.ensureEngine({
    cacheDir: readEnvironment().cacheDir,
    variant: flags.gpu ? 'gpu' : 'cpu',
    thoroughness: 'full',
    onProgress,
  });
  if (flags.json) console.log(JSON.stringify(installed));
  else if (!installed.isChanged) {
    console.log(
      `TensorFlow ${installed.tensorflowVersion} (${installed.variant}) is installed and undamaged`,
    );
  }
}

async function checkCommand(flags: CheckFlags): Promise<void> {
  const [device] = await ensureEngine(flags.gpu ? 'gpu:0' : flags.device);
  if (!device) throw new Error('no device was chosen');
  const report = await checkEngine(device, availableParallelism());
  console.log(flags.json ? JSON.stringify(report) : reportText(report));
}

/** The report for people. */
export function reportText(report: EngineReport): string {
  const { tensorflow, tfjs, node } = report.versions;
  const lack = report.kind === 'gpu' ? 'tensor cores (compute capability 8.0)' : 'a processor with AMX';
  const speeds = report.speeds.map(({ precision, gflops, isNative }) => {
    const means = precision === 'bf16' && report.bf16 ? ` (${report.bf16})` : '';
    const note = isNative ? means : ` (computed in f32: bf16 needs ${lack})`;
    return `${`${precision}:`.padEnd(10)}${gflops.toFixed(0)} GFLOP/s${note}`;
  });
  const { gpu } = report;
  const card = gpu
    ? [
        `gpu:      gpu:${gpu.number}, ${(gpu.memoryBytes / 2 ** 30).toFixed(0)} GiB, ` +
          `compute capability ${gpu.computeCapability}, driver ${gpu.driverVersion}`,
      ]
    : [];
  return [
    `device:   ${report.kind.toUpperCase()} ${report.device}, ${report.threads} threads`,
    ...card,
    `cpu has:  ${report.cpuFlags.join(' ') || 'none of the instructions that matter here'}`,
    `engine:   TensorFlow ${tensorflow} (${report.flavour} build), tfjs ${tfjs}, Node ${node}`,
    ...speeds,
  ].join('\n');
}
