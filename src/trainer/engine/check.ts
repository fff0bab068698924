/** Tries the installed engine: loads it, multiplies matrices in each precision, and reports what it found. */
import { fileURLToPath } from 'node:url';
import { EngineError } from '../../errors.ts';
import { bf16Instructions, tensorCores, type Precision } from './device.ts';
import type { Gpu } from './gpus.ts';
import type { Measurement } from './measure.ts';
import { thisHost } from './platform.ts';
import { runProgram } from './program.ts';
import { variantFor, type ReadyDevice } from './ready-device.ts';
import type { EngineVariant } from './release.ts';

const PRECISIONS: readonly Precision[] = ['f32', 'bf16'];

/** The processor's instructions that matter to the speed of the engine, as Linux names them. */
const NOTED_CPU_FLAGS = ['avx2', 'avx512f', 'avx512_bf16', 'amx_tile', 'amx_bf16'];

export interface EngineReport {
  readonly kind: 'cpu' | 'gpu';
  /** The processor or the graphics card. */
  readonly device: string;
  /** Which build of TensorFlow computed. */
  readonly flavour: EngineVariant;
  readonly threads: number;
  readonly versions: Measurement['versions'];
  /** Of the GPU in use: its name, memory, compute capability, driver. */
  readonly gpu: Gpu | null;
  /** Of NOTED_CPU_FLAGS those this processor has. */
  readonly cpuFlags: readonly string[];
  /** What bf16 is computed with; null where f32 takes its place. */
  readonly bf16: string | null;
  readonly speeds: readonly {
    readonly precision: Precision;
    readonly gflops: number;
    /** False where the device lacks what the precision needs and f32 is used instead. */
    readonly isNative: boolean;
  }[];
}

/**
 * Measures the engine on a device with the given number of threads.
 * @throws EngineError if it cannot be loaded, computes wrongly, or does not run on the device.
 */
export async function checkEngine(device: ReadyDevice, threads: number): Promise<EngineReport> {
  const measurements: Measurement[] = [];
  for (const precision of PRECISIONS) measurements.push(await measureIn(precision, threads, device));
  const [first] = measurements;
  if (!first) throw new EngineError('nothing was measured');
  const { kind, name } = first.device;
  const { cpuFlags } = thisHost();
  return {
    kind,
    device: name,
    flavour: variantFor(device.name),
    threads,
    versions: first.versions,
    gpu: device.gpu,
    cpuFlags: NOTED_CPU_FLAGS.filter((flag) => cpuFlags.has(flag)),
    bf16: (kind === 'gpu' ? tensorCores(device.gpu) : bf16Instructions(cpuFlags)) ?? null,
    speeds: measurements.map(({ device: measured, gflops }) => ({
      precision: measured.precision,
      gflops,
      isNative: measured.isPrecisionNative,
    })),
  };
}

async function measureIn(precision: Precision, threads: number, device: ReadyDevice): Promise<Measurement> {
  const program = fileURLToPath(new URL('./measure.js', import.meta.url));
  const args = [program, precision, String(threads), JSON.stringify(device)];
  const output = await runProgram(process.execPath, args);
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
