/** Small dense matrices in f64, row-major: for plain versions of what tensors do, and for tests. Not fast. */
import { TensorShapeError } from '../errors.ts';

export interface Matrix {
  readonly rows: number;
  readonly cols: number;
  readonly values: Float64Array;
}

/** A matrix of the given numbers, or of zeros. */
export function matrix(rows: number, cols: number, values?: ArrayLike<number>): Matrix {
  if (values !== undefined && values.length !== rows * cols) {
    throw new TensorShapeError(`${values.length} numbers do not fill ${rows} x ${cols}`);
  }
  return {
    rows,
    cols,
    values: values === undefined ? new Float64Array(rows * cols) : new Float64Array(values),
  };
}

/** Applies `f` to the elements of up to three matrices of one shape, place by place. */
export function zip(
  f: (x: number, y: number, z: number) => number,
  first: Matrix,
  second: Matrix = first,
  third: Matrix = first,
): Matrix {
  for (const { rows, cols } of [second, third]) {
    if (rows !== first.rows || cols !== first.cols) {
      throw new TensorShapeError(`${rows} x ${cols} is not ${first.rows} x ${first.cols}`);
    }
  }
  const [y, z] = [second.values, third.values];
  return {
    rows: first.rows,
    cols: first.cols,
    values: first.values.map((x, i) => f(x, y[i]!, z[i]!)),
  };
}

/** A' */
export function transpose(a: Matrix): Matrix {
  const result = matrix(a.cols, a.rows);
  for (let i = 0; i < a.rows; i++) {
    for (let j = 0; j < a.cols; j++) result.values[j * a.rows + i] = a.values[i * a.cols + j]!;
  }
  return result;
}

/** AB */
export function multiply(a: Matrix, b: Matrix): Matrix {
  if (a.cols !== b.rows) {
    throw new TensorShapeError(`${a.rows} x ${a.cols} does not multiply ${b.rows} x ${b.cols}`);
  }
  const result = matrix(a.rows, b.cols);
  for (let i = 0; i < a.rows; i++) {
    for (let k = 0; k < a.cols; k++) {
      const factor = a.values[i * a.cols + k]!;
      for (let j = 0; j < b.cols; j++) {
        const at = i * b.cols + j;
        result.values[at] = result.values[at]! + factor * b.values[k * b.cols + j]!;
      }
    }
  }
  return result;
}
