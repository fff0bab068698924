/** Kernels that fail on their input, which is not an error where there is another way. */

/** TensorFlow's Cholesky on a matrix that is not positive definite throws, or gives NaN on a GPU. */
class KernelFailure extends Error {}

/** The numbers themselves. @throws an error that `orNull` takes for a failed kernel, if one is not finite */
export function finite(values: Float32Array): Float32Array {
  for (let i = 0; i < values.length; i++) {
    if (!Number.isFinite(values[i])) throw new KernelFailure('the engine gave numbers that are not finite');
  }
  return values;
}

/** Null where a kernel failed: the callers have another way then. */
export function orNull<T>(compute: () => T | null): T | null {
  try {
    return compute();
  } catch (error) {
    const isKernels =
      error instanceof KernelFailure ||
      (error instanceof Error && error.message.startsWith('Invalid TF_Status'));
    if (isKernels) return null;
    throw error;
  }
}
