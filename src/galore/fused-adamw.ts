/**
 * One Adam step in a single pass over memory, where the engine has a kernel for it. What it computes is
 * what optimizer/adamw.ts computes with tensor operations, which stays the reference; a dozen passes
 * over a matrix of 16 million numbers cost four times as much.
 */
import * as tf from '@tensorflow/tfjs-core';
import type { Moments } from './optimizer/adamw.ts';

/** Kernel an engine may register: inputs weight, m, v, gradient; outputs the new weight, m, v. */
export const ADAMW_KERNEL = 'GaloreAdamw';

/** Adam's direction is `stepSize * M / (sqrt(V) + eps)`: see optimizer/bias-correction.ts. */
export interface FusedAdamwOptions {
  readonly betas: readonly [number, number];
  readonly stepSize: number;
  readonly eps: number;
}

export interface FusedAdamwResult extends Moments {
  readonly weight: tf.Tensor;
}

/** Whether this engine has the kernel. */
export function hasFusedAdamw(): boolean {
  return tf.getKernel(ADAMW_KERNEL, tf.getBackend()) !== undefined;
}

/**
 * weight - direction and the new moments. The weight and moments given may be written over: the caller
 * disposes them and reads them no more. Clones of them, and the gradient, stay as they are.
 */
export function fusedAdamw(
  weight: tf.Tensor,
  gradient: tf.Tensor,
  moments: Moments,
  { betas, stepSize, eps }: FusedAdamwOptions,
): FusedAdamwResult {
  const [next, m, v] = tf
    .engine()
    .runKernel(
      ADAMW_KERNEL,
      { weight, m: moments.m, v: moments.v, gradient },
      { beta1: betas[0], beta2: betas[1], stepSize, eps },
    ) as tf.Tensor[];
  return { weight: next!, m: m!, v: v! };
}

/** Adam's direction times `scale`, for a gradient in the subspace, which is lifted before it is subtracted. */
export function fusedDirection(
  gradient: tf.Tensor,
  moments: Moments,
  options: FusedAdamwOptions,
  scale: number,
): Moments & { readonly direction: tf.Tensor } {
  const zeros = tf.zerosLike(moments.m);
  const { weight, m, v } = fusedAdamw(zeros, gradient, moments, {
    ...options,
    stepSize: -options.stepSize * scale,
  });
  zeros.dispose();
  return { direction: weight, m, v };
}
