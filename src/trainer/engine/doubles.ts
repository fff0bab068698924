/**
 * Matrices in f64 on the engine, which tfjs itself does not know: TensorFlow's kernels called by name on raw
 * handles. Numbers go in and come out as f32. Kernels run on all threads of the engine, and in f64 whatever
 * precision the engine computes products in.
 */
import * as tf from '@tensorflow/tfjs-core';
import { TensorShapeError } from '../../errors.ts';

const TF_DOUBLE = 2; // DataType of TensorFlow's types.proto

/** What this file uses of the native binding of tfjs-node. */
interface Binding {
  readonly TF_FLOAT: number;
  readonly TF_ATTR_TYPE: number;
  readonly TF_ATTR_BOOL: number;
  createTensor(shape: readonly number[], dtype: number, values: Float32Array): number;
  deleteTensor(id: number): void;
  tensorDataSync(id: number): Float32Array;
  executeOp(
    name: string,
    attributes: readonly Attribute[],
    inputIds: readonly number[],
    outputs: number,
  ): readonly { readonly id: number }[];
}

interface Attribute {
  readonly name: string;
  readonly type: number;
  readonly value: number | boolean;
}

/** A row-major f64 matrix on the engine; it belongs to the `Doubles` that made it. */
export interface DoubleMatrix {
  readonly rows: number;
  readonly cols: number;
  readonly id: number;
}

/** Whether the engine of this process is TensorFlow, without which there is no `Doubles`. */
export function hasDoubles(): boolean {
  return tf.getBackend() === 'tensorflow';
}

/** Makes f64 matrices, computes with them, and frees them all when it is disposed. */
export class Doubles implements Disposable {
  readonly #binding: Binding;
  readonly #ids: number[] = [];

  constructor() {
    this.#binding = (tf.backend() as unknown as { readonly binding: Binding }).binding;
  }

  /** @throws TensorShapeError if `values` do not fill the matrix */
  matrix(values: Float32Array, rows: number, cols: number): DoubleMatrix {
    if (values.length !== rows * cols) {
      throw new TensorShapeError(`${values.length} numbers do not fill ${rows} x ${cols}`);
    }
    const single = this.#keep(this.#binding.createTensor([rows, cols], this.#binding.TF_FLOAT, values));
    return { rows, cols, id: this.#cast(single, this.#binding.TF_FLOAT, TF_DOUBLE) };
  }

  /** The numbers, row-major, rounded to f32. */
  toFloat32({ id }: Pick<DoubleMatrix, 'id'>): Float32Array {
    return this.#binding.tensorDataSync(this.#cast(id, TF_DOUBLE, this.#binding.TF_FLOAT));
  }

  /** AB, A'B, AB' or A'B' */
  product(a: DoubleMatrix, b: DoubleMatrix, isATransposed = false, isBTransposed = false): DoubleMatrix {
    const attributes = [this.#flag('transpose_a', isATransposed), this.#flag('transpose_b', isBTransposed)];
    return {
      rows: isATransposed ? a.cols : a.rows,
      cols: isBTransposed ? b.rows : b.cols,
      id: this.#run('MatMul', attributes, [a, b]),
    };
  }

  sum(a: DoubleMatrix, b: DoubleMatrix): DoubleMatrix {
    return { rows: a.rows, cols: a.cols, id: this.#run('AddV2', [], [a, b]) };
  }

  /** Lower L with LL' = A. @throws Error of TensorFlow where A is not positive definite (or has NaN) */
  cholesky(a: DoubleMatrix): DoubleMatrix {
    return { ...a, id: this.#run('Cholesky', [], [a]) };
  }

  /** L^-1 B for a lower triangle L. */
  solveLower(lower: DoubleMatrix, b: DoubleMatrix): DoubleMatrix {
    const attributes = [this.#flag('lower', true), this.#flag('adjoint', false)];
    return { ...b, id: this.#run('MatrixTriangularSolve', attributes, [lower, b]) };
  }

  /** Eigenvalues, ASCENDING and rounded to f32, and eigenvectors (the columns) of a symmetric matrix. */
  eigen(a: DoubleMatrix): { readonly values: Float32Array; readonly vectors: DoubleMatrix } {
    const [values, vectors] = this.#runAll('SelfAdjointEigV2', [this.#flag('compute_v', true)], [a], 2);
    return { values: this.toFloat32({ id: values! }), vectors: { ...a, id: vectors! } };
  }

  [Symbol.dispose](): void {
    for (const id of this.#ids.splice(0)) this.#binding.deleteTensor(id);
  }

  #run(name: string, attributes: readonly Attribute[], inputs: readonly DoubleMatrix[]): number {
    return this.#runAll(name, attributes, inputs, 1)[0]!;
  }

  #runAll(
    name: string,
    attributes: readonly Attribute[],
    inputs: readonly DoubleMatrix[],
    outputs: number,
  ): readonly number[] {
    const all = [...attributes, { name: 'T', type: this.#binding.TF_ATTR_TYPE, value: TF_DOUBLE }];
    const ids = inputs.map(({ id }) => id);
    return this.#binding.executeOp(name, all, ids, outputs).map(({ id }) => this.#keep(id));
  }

  #cast(id: number, from: number, to: number): number {
    const type = this.#binding.TF_ATTR_TYPE;
    const attributes = [
      { name: 'SrcT', type, value: from },
      { name: 'DstT', type, value: to },
      this.#flag('Truncate', false),
    ];
    return this.#keep(this.#binding.executeOp('Cast', attributes, [id], 1)[0]!.id);
  }

  #flag(name: string, value: boolean): Attribute {
    return { name, type: this.#binding.TF_ATTR_BOOL, value };
  }

  #keep(id: number): number {
    this.#ids.push(id);
    return id;
  }
}

/** L^-1 for LL' = `gram`, with `share`, the smallest diagonal entry of L over the largest: 1 for orthonormal columns. */
export function choleskyInverse(
  doubles: Doubles,
  gram: DoubleMatrix,
): { readonly inverse: DoubleMatrix; readonly share: number } {
  const lower = doubles.cholesky(gram);
  const entries = doubles.toFloat32(lower);
  const diagonal = Float32Array.from({ length: gram.cols }, (_, j) => entries[j * (gram.cols + 1)]!);
  const share = diagonal.reduce((a, b) => Math.min(a, b)) / diagonal.reduce((a, b) => Math.max(a, b));
  return { inverse: doubles.solveLower(lower, identity(doubles, gram.cols)), share };
}

function identity(doubles: Doubles, size: number): DoubleMatrix {
  const values = new Float32Array(size * size);
  for (let j = 0; j < size; j++) values[j * size + j] = 1;
  return doubles.matrix(values, size, size);
}
