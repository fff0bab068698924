/**
 * Matrix products that the engine may compute in a lower precision than f32, if it was asked to. Code
 * that needs f32 whatever the setting (refreshes, the lift of an update, which must come out the same on
 * every trainer) calls `tf.matMul` itself. Without an engine that knows these kernels it is the same.
 */
import * as tf from '@tensorflow/tfjs-core';

/** Kernels an engine may register to compute products its own way. */
export const PRODUCT_KERNEL = 'GaloreProduct';
export const FACTOR_KERNEL = 'GaloreFactor';
export const NUMBERS_KERNEL = 'GaloreNumbers';

/** ab, a'b, ab' or a'b' of the last two dimensions, summed in f32; f32 whatever the factors are kept in. */
export function product<T extends tf.Tensor>(a: T, b: T, transposeA = false, transposeB = false): T {
  if (!isKnown(PRODUCT_KERNEL)) return tf.matMul(a, b, transposeA, transposeB);
  return tf.engine().runKernel(PRODUCT_KERNEL, { a, b }, { transposeA, transposeB, isFactor: false }) as T;
}

/** The same as a factor, for a result that goes into other products: nothing is lost, it was rounded already. */
export function productFactor<T extends tf.Tensor>(a: T, b: T, transposeA = false, transposeB = false): T {
  if (!isKnown(PRODUCT_KERNEL)) return tf.matMul(a, b, transposeA, transposeB);
  return tf.engine().runKernel(PRODUCT_KERNEL, { a, b }, { transposeA, transposeB, isFactor: true }) as T;
}

/**
 * The tensor as `product` wants it, so that several products need not each convert it. A new tensor of the
 * same shape that the caller disposes; good for `product`, `numbersOf`, `tf.clone` and nothing else.
 */
export function factorOf<T extends tf.Tensor>(x: T): T {
  if (!isKnown(FACTOR_KERNEL)) return tf.clone(x);
  return tf.engine().runKernel(FACTOR_KERNEL, { x }) as T;
}

/** A factor, or any other f32 tensor, as a tensor that every operation takes: a new one that the caller disposes. */
export function numbersOf<T extends tf.Tensor>(factor: T): T {
  if (!isKnown(NUMBERS_KERNEL)) return tf.clone(factor);
  return tf.engine().runKernel(NUMBERS_KERNEL, { factor }) as T;
}

function isKnown(kernel: string): boolean {
  return tf.getKernel(kernel, tf.getBackend()) !== undefined;
}
