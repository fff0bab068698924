/**
 * The steps of a power slot that touch all of its m x n numbers, in one pass over memory each, where the engine has
 * kernels for them. What they compute is what feedback/gradient.ts and optimizer/power.ts compute with tensor
 * operations, which stay the reference. Buffers are bytes of the int8 codec and are never written over.
 */
import * as tf from '@tensorflow/tfjs-core';
import { NotFiniteError } from '../errors.ts';
import type { RandomKey } from '../random.ts';

/** Kernels an engine may register; arrays of bytes are among the attributes. */
export const POWER_KERNELS = {
  sketch: 'GalorePowerSketch',
  settle: 'GalorePowerSettle',
  update: 'GalorePowerUpdate',
} as const;

/** What a payload and its partner lift to: left right' in a tall step, left right in the others. */
export interface LiftFactors {
  /** Y or P: `[m, r]`. */
  readonly left: tf.Tensor2D;
  /** W `[n, r]` or R `[r, n]`. */
  readonly right: tf.Tensor2D;
  readonly isTall: boolean;
}

/** An error E = error + share G that was not made yet. */
export interface OpenError {
  /** int8, `[m, n]`. */
  readonly error: Uint8Array;
  /** `[m, n]`, maybe a factor of product.ts. */
  readonly gradient: tf.Tensor;
  readonly share: number;
}

/** The numbers of `powerUpdate`. */
export interface PowerUpdateOptions {
  readonly beta1: number;
  /** 1 - beta1^t. */
  readonly correction: number;
  readonly eps: number;
  /** Learning rate times scale. */
  readonly rate: number;
  /** Multiply the weight before and after the change. */
  readonly decay: readonly [number, number];
  /** Greatest root mean square of the direction. */
  readonly clip: number;
}

/** Attributes of the kernels beside `OpenError`'s and the options. */
export interface SketchAttributes {
  readonly error: Uint8Array;
  readonly share: number;
  readonly isTall: boolean;
}

export interface SettleAttributes extends SketchAttributes {
  readonly next: Uint8Array;
  readonly key: RandomKey;
}

export interface UpdateAttributes extends PowerUpdateOptions {
  readonly moment: Uint8Array;
  readonly next: Uint8Array;
  readonly isTall: boolean;
  readonly key: RandomKey;
}

/** Whether this engine has the kernels. */
export function hasPowerKernels(): boolean {
  return tf.getKernel(POWER_KERNELS.sketch, tf.getBackend()) !== undefined;
}

/** EW `[m, r]` with `factor` W `[n, r]` if `isTall`, else P'E `[r, n]` with P `[m, r]`. A new tensor. */
export function sketchError(
  { error, gradient, share }: OpenError,
  factor: tf.Tensor2D,
  isTall: boolean,
): tf.Tensor2D {
  const attributes: SketchAttributes = { error, share, isTall };
  return run(POWER_KERNELS.sketch, { gradient, factor }, attributes) as tf.Tensor2D;
}

/**
 * The bytes of E minus what was sent of it.
 * @throws NotFiniteError
 */
export function settleError(
  { error, gradient, share }: OpenError,
  { left, right, isTall }: LiftFactors,
  key: RandomKey,
): Uint8Array {
  const next = new Uint8Array(error.length);
  const attributes: SettleAttributes = { error, share, isTall, next, key };
  mustBeFinite(run(POWER_KERNELS.settle, { gradient, left, right }, attributes) as tf.Tensor, 'gradient');
  return next;
}

/**
 * With G the lifted payload: M <- b1 M + (1 - b1) G, U = M / c1 / (row column' + eps), clipped; the new weight W - rate U
 * (with decay) and the bytes of M.
 * @param roots square roots of V's two factors, `[m]` and `[n]`
 * @throws NotFiniteError
 */
export function powerUpdate(
  weight: tf.Tensor,
  moment: Uint8Array,
  { left, right, isTall }: LiftFactors,
  roots: { readonly row: tf.Tensor; readonly column: tf.Tensor },
  options: PowerUpdateOptions,
  key: RandomKey,
): { readonly weight: tf.Tensor; readonly moment: Uint8Array } {
  const next = new Uint8Array(moment.length);
  const attributes: UpdateAttributes = { ...options, moment, next, isTall, key };
  const inputs = { weight, left, right, rowRoots: roots.row, columnRoots: roots.column };
  const [changed, largest] = run(POWER_KERNELS.update, inputs, attributes) as [tf.Tensor, tf.Tensor];
  mustBeFinite(largest, 'update');
  return { weight: changed, moment: next };
}

function run(
  kernel: string,
  inputs: Readonly<Record<string, tf.Tensor>>,
  attributes: object,
): tf.Tensor | tf.Tensor[] {
  return tf.engine().runKernel(kernel, inputs, attributes as tf.NamedAttrMap);
}

/** Disposes the tensor, which holds the largest of all magnitudes. */
function mustBeFinite(largest: tf.Tensor, what: string): void {
  const [value] = largest.dataSync();
  largest.dispose();
  if (Number.isFinite(value)) return;
  throw new NotFiniteError(
    `a number of the ${what} is ${value}: the training has diverged; start it anew with a smaller optimizer.lr`,
  );
}
