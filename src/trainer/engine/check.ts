/** Tries the installed engine: loads it, multiplies matrices in each precision, and reports what it found. */
import { fileURLToPath } from 'node:url';
import { EngineError } from '../../errors.ts';
import type { Precision } from './device.ts';
import type { Measurement } from './measure.ts';
import { runProgram } from './program.ts';

const PRECISIONS: readonly Precision[] = ['f32', 'bf16'];

export interface EngineReport {
  readonly kind: 'cpu' | 'gpu';
  /** The processor or the graphics card. */
  readonly device: string;
  readonly threads: number;
  readonly versions: Measurement['versions'];
  readonly speeds: readonly {
    readonly precision: Precision;
    readonly gflops: number;
    /** False where the processor lacks what the precision needs and f32 is used instead. */
    readonly isNative: boolean;
  }[];
}

/**
 * Measures the engine with the given number of threads.
 * @throws EngineError if it cannot be loaded, computes wrongly, or should run on a GPU and does not.
 */
export async function checkEngine(options: {
  readonly threads: number;
  readonly mustUseGpu?: boolean;
}): Promise<EngineReport> {
  const measurements: Measurement[] = [];
  for (const precision of PRECISIONS) {
    const measurement = await measureIn(precision, options.threads);
    if (options.mustUseGpu && measurement.device.kind !== 'gpu') {
      throw new EngineError(
        'the engine runs on the CPU: TensorFlow found no NVIDIA GPU it can use; ' +
          'see that `nvidia-smi` lists one, and run `galore engine install --gpu`',
      );
    }
    measurements.push(measurement);
  }
  const [first] = measurements;
  if (!first) throw new EngineError('nothing was measured');
  const { kind } = first.device;
  return {
    kind,
    device: kind === 'gpu' ? await gpuName() : first.device.name,
    threads: options.threads,
    versions: first.versions,
    speeds: measurements.map(({ device, gflops }) => ({
      precision: device.precision,
      gflops,
      isNative: device.isPrecisionNative,
    })),
  };
}

async function measureIn(precision: Precision, threads: number): Promise<Measurement> {
  const program = fileURLToPath(new URL('./measure.js', import.meta.url));
  const output = await runProgram(process.execPath, [program, precision, String(threads)]);
  const line = output.split('\n').find((text) => text.startsWith('{'));
  if (!line) throw new EngineError(`the engine's check said nothing: ${output.trim()}`);
  const measurement = JSON.parse(line) as Measurement;
  if (measurement.largestError !== 0) {
    throw new EngineError(
      `the engine computes wrongly in ${precision}: a product is off by ${measurement.largestError}; ` +
        'run `galore engine install`, which checks every file',
    );
  }
  return measurement;
}

async function gpuName(): Promise<string> {
  const query = ['--query-gpu=name', '--format=csv,noheader'];
  const output = await runProgram('nvidia-smi', query).catch(() => 'NVIDIA GPU');
  return output.trim().split('\n').join(', ');
}
