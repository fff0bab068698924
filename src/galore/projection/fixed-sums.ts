/**
 * Sums of products of f32 numbers in f64, each in the order of its index, one addition after the other, so that every
 * machine gets the same bits whatever computes them: the functions here or the engine's addon
 * (trainer/engine/orthonormal-kernels.cc), which has them forty times as fast. Matrices are row-major.
 */
import * as tf from '@tensorflow/tfjs-core';

/** Kernels an engine may register; they take arrays as attributes and write into `gram` or `out`. */
export const GRAM_KERNEL = 'GaloreGram';
export const TIMES_KERNEL = 'GaloreTimes';

export interface GramArguments {
  readonly x: Float32Array;
  readonly rows: number;
  readonly cols: number;
  readonly gram: Float64Array;
}

export interface TimesArguments {
  readonly x: Float32Array;
  readonly rows: number;
  readonly cols: number;
  readonly t: Float64Array;
  /** Of XT only the products of its rows and those of X. */
  readonly isForm: boolean;
  readonly out: Float32Array;
}

/** X'X of `x` `[rows, cols]`: `[cols, cols]`. */
export function gramOf(x: Float32Array, rows: number, cols: number): Float64Array {
  const given = { x, rows, cols, gram: new Float64Array(cols * cols) };
  if (!runIfKnown(GRAM_KERNEL, given)) plainGram(given);
  return given.gram;
}

/** XT of `x` `[rows, cols]` and `t` `[cols, cols]`, rounded once to f32. */
export function timesSquare(x: Float32Array, rows: number, cols: number, t: Float64Array): Float32Array {
  return times({ x, rows, cols, t, isForm: false, out: new Float32Array(rows * cols) });
}

/** x'Tx of each row x of `x` `[rows, cols]`, rounded once to f32: `[rows]`. */
export function formsOf(x: Float32Array, rows: number, cols: number, t: Float64Array): Float32Array {
  return times({ x, rows, cols, t, isForm: true, out: new Float32Array(rows) });
}

export function plainGram({ x, rows, cols, gram }: GramArguments): void {
  for (let start = 0; start < rows * cols; start += cols) {
    for (let i = 0; i < cols; i++) {
      const factor = x[start + i]!;
      for (let j = 0; j <= i; j++) gram[i * cols + j] = gram[i * cols + j]! + factor * x[start + j]!;
    }
  }
  for (let i = 0; i < cols; i++) for (let j = 0; j < i; j++) gram[j * cols + i] = gram[i * cols + j]!;
}

export function plainTimes({ x, rows, cols, t, isForm, out }: TimesArguments): void {
  const product = new Float64Array(cols);
  // Zeros at the beginning of a row of T, as a triangle has, add nothing.
  const firsts = Array.from({ length: cols }, (_, k) => {
    const first = t.subarray(k * cols, (k + 1) * cols).findIndex((value) => value !== 0);
    return first < 0 ? cols : first;
  });
  for (let row = 0; row < rows; row++) {
    const start = row * cols;
    product.fill(0);
    for (let k = 0; k < cols; k++) {
      const factor = x[start + k]!;
      for (let j = firsts[k]!; j < cols; j++) product[j] = product[j]! + factor * t[k * cols + j]!;
    }
    if (!isForm) {
      out.set(product, start);
      continue;
    }
    let sum = 0;
    for (let j = 0; j < cols; j++) sum += product[j]! * x[start + j]!;
    out[row] = sum;
  }
}

function times(given: TimesArguments): Float32Array {
  if (!runIfKnown(TIMES_KERNEL, given)) plainTimes(given);
  return given.out;
}

function runIfKnown(kernel: string, given: GramArguments | TimesArguments): boolean {
  if (tf.getKernel(kernel, tf.getBackend()) === undefined) return false;
  tf.engine().runKernel(kernel, {}, given as unknown as tf.NamedAttrMap);
  return true;
}
