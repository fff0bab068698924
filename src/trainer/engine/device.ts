/** Says in words and in fields what a loaded engine computes on. */
import type tensorflow from '@tensorflow/tfjs-node-gpu';
import type { PRECISIONS } from '../../config/schema.ts';
import { thisHost } from './platform.ts';

/** f32 throughout, or matrix products in bf16. */
export type Precision = (typeof PRECISIONS)[number];

export interface Device {
  readonly kind: 'cpu' | 'gpu';
  /** The processor's name; of a GPU the driver is to be asked (`galore engine check` does). */
  readonly name: string;
  readonly threads: number;
  readonly precision: Precision;
  /** False if bf16 was asked for on a processor that cannot: it then computes in f32. */
  readonly isPrecisionNative: boolean;
  /** One line for people. */
  readonly description: string;
}

export function describeDevice(
  tf: typeof tensorflow,
  { precision, threads }: { readonly precision: Precision; readonly threads: number },
): Device {
  const backend = tf.backend() as unknown as { readonly isUsingGpuDevice?: boolean };
  const host = thisHost();
  const kind = backend.isUsingGpuDevice === true ? 'gpu' : 'cpu';
  const name = kind === 'gpu' ? 'NVIDIA GPU' : host.cpuModel;
  const bf16 = kind === 'gpu' ? 'TF32 tensor cores' : bf16Instructions(host.cpuFlags);
  const isPrecisionNative = precision === 'f32' || bf16 !== undefined;
  const words =
    precision === 'f32'
      ? 'f32'
      : bf16
        ? `bf16 (${bf16})`
        : 'f32 (bf16 needs a processor with AVX512-BF16 or AMX)';
  const count = `${threads} ${threads === 1 ? 'thread' : 'threads'}`;
  const description = `${kind.toUpperCase()} ${name}, ${count}, ${words}`;
  return { kind, name, threads, precision, isPrecisionNative, description };
}

/** What to tell a person who asked for a precision that this processor does not have; null: it has it. */
export function precisionWarning(
  device: Pick<Device, 'name' | 'precision' | 'isPrecisionNative'>,
): string | null {
  if (device.isPrecisionNative) return null;
  return `precision ${device.precision} brings nothing here, products are in f32: ${device.name} has neither AVX512-BF16 nor AMX`;
}

/** The instructions oneDNN multiplies matrices of bf16 with, if the processor has them. */
export function bf16Instructions(cpuFlags: ReadonlySet<string>): string | undefined {
  if (cpuFlags.has('amx_bf16')) return 'AMX';
  return cpuFlags.has('avx512_bf16') ? 'AVX512-BF16' : undefined;
}
