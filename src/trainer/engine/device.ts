/** Says in words and in fields what a loaded engine computes on. */
import type tensorflow from '@tensorflow/tfjs-node-gpu';
import { isAtLeast } from './choose-device.ts';
import type { Gpu } from './gpus.ts';
import { thisHost } from './platform.ts';

/** f32 throughout, or matrix products in bf16 (on a GPU: in TF32, which rounds less). */
export type Precision = 'f32' | 'bf16';

export interface Device {
  readonly kind: 'cpu' | 'gpu';
  /** The processor's or the GPU's name. */
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
  { precision, threads, gpu }: { precision: Precision; threads: number; gpu: Gpu | null },
): Device {
  const host = thisHost();
  const kind = isOnGpu(tf) ? 'gpu' : 'cpu';
  const name = kind === 'gpu' ? (gpu?.name ?? 'NVIDIA GPU') : host.cpuModel;
  const bf16 = kind === 'gpu' ? tensorCores(gpu) : bf16Instructions(host.cpuFlags);
  const isPrecisionNative = precision === 'f32' || bf16 !== undefined;
  const lack = kind === 'gpu' ? 'a GPU with tensor cores for TF32' : 'a processor with AMX';
  const words = precision === 'f32' ? 'f32' : bf16 ? `bf16 (${bf16})` : `f32 (bf16 needs ${lack})`;
  const count = `${threads} ${threads === 1 ? 'thread' : 'threads'}`;
  const place = kind === 'gpu' && gpu ? ` (gpu:${gpu.number})` : '';
  const description = `${kind.toUpperCase()} ${name}${place}, ${count}, ${words}`;
  return { kind, name, threads, precision, isPrecisionNative, description };
}

/** Whether the loaded library computes on a GPU. */
export function isOnGpu(tf: typeof tensorflow): boolean {
  return (tf.backend() as unknown as { readonly isUsingGpuDevice?: boolean }).isUsingGpuDevice === true;
}

/**
 * What a GPU multiplies matrices of f32 with when bf16 is asked for, if it can. TF32 has the range of f32 and 10 bits
 * of fraction, three more than bf16; GPUs have it from compute capability 8.0 (Ampere) on.
 */
export function tensorCores(gpu: Gpu | null): string | undefined {
  return gpu === null || isAtLeast(gpu.computeCapability, '8.0') ? 'TF32 tensor cores' : undefined;
}

/**
 * The instructions oneDNN multiplies matrices of f32 in bf16 with, if the processor has them. AVX512-BF16 alone
 * is not enough: asked for bf16, oneDNN 3.7 takes its f32 kernel there (seen in its log and in the speed).
 */
export function bf16Instructions(cpuFlags: ReadonlySet<string>): string | undefined {
  return cpuFlags.has('amx_bf16') ? 'AMX' : undefined;
}
