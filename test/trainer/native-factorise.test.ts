import test from 'ava';
import { matrix, type Matrix } from '../../src/galore/matrix.ts';
import { plainFactoriser } from '../../src/galore/projection/factorise.ts';
import { bestFactoriser } from '../../src/trainer/factorising.ts';
import { nativeFactoriser } from '../../src/trainer/native-factorise.ts';
import {
  matrixWithSpectrum,
  orthonormalityError,
  orthonormalMatrix,
  randomMatrix,
} from '../galore/matrices.ts';
import { tf } from '../galore/tensors.ts';

const singles = ({ values }: Matrix): Float32Array => Float32Array.from(values);

function largest(a: Float32Array, b: Float32Array): number {
  return a.reduce((worst, x, i) => Math.max(worst, Math.abs(x - b[i]!)), 0);
}

/** Largest entry of |x - QQ'x|: what the columns of Q do not span. */
function outside(q: Float32Array, x: Matrix, cols: number): number {
  const [a, b] = [tf.tensor2d(q, [x.rows, cols]), tf.tensor2d(singles(x), [x.rows, x.cols])];
  return tf.tidy(
    () =>
      b
        .sub(a.matMul(a.matMul(b, true)))
        .abs()
        .max()
        .dataSync()[0]!,
  );
}

test('with the engine loaded its kernels are the best factoriser', (t) => {
  t.is(tf.getBackend(), 'tensorflow');
  t.is(bestFactoriser(), nativeFactoriser);
});

for (const [rows, cols, rank] of [
  [60, 20, 12],
  [20, 60, 12],
  [24, 24, 24],
  [40, 12, 20], // more than there are: completed
] as const) {
  test(`${rows} x ${cols}, rank ${rank}: what the plain factoriser finds, to the last bits of f32`, (t) => {
    const spectrum = Array.from({ length: Math.min(rows, cols) }, (_, j) => 2 * 0.7 ** j);
    const x = singles(matrixWithSpectrum(rows, cols, spectrum, 'native', rows));
    const isPair = rank <= Math.min(rows, cols);
    const plain = plainFactoriser.singularVectors(x, rows, cols, rank, isPair)!;
    const native = nativeFactoriser.singularVectors(x, rows, cols, rank, isPair)!;
    native.singularValues.forEach((s, j) => t.true(Math.abs(s - plain.singularValues[j]!) < 1e-6));
    t.true(orthonormalityError(matrix(rows, rank, native.left)) < 1e-6);
    if (native.right === null || plain.right === null) return;
    t.true(orthonormalityError(matrix(cols, rank, native.right)) < 1e-6);
    t.true(largest(native.left, plain.left) < 2e-4); // the smallest singular values are 3e-4 of the largest apart
    t.true(largest(native.right, plain.right) < 2e-4);
  });
}

test('the columns of a factor span those of the sum, for good and for bad conditioning', (t) => {
  for (const decay of [1, 0.7, 0.6, 0.5, 0.3]) {
    // the last ratio of singular values: 1, 3e-2, 6e-3, 1e-3, 6e-6
    const spectrum = Array.from({ length: 11 }, (_, j) => decay ** j);
    const x = matrixWithSpectrum(50, 11, spectrum, 'conditioning');
    const q = nativeFactoriser.orthonormalise(singles(x), 50, 11);
    t.true(orthonormalityError(matrix(50, 11, q)) < 1e-6, `${decay}`);
    t.true(outside(q, x, 11) < 1e-6, `${decay}`);
  }
});

test('dependent and zero columns are replaced, the same way every time', (t) => {
  const x = matrixWithSpectrum(40, 16, [3, 2, 1], 'rank three');
  for (let i = 0; i < 40; i++) x.values[i * 16 + 5] = 0;
  const input = singles(x);
  for (const columns of [16, 40]) {
    const padded = matrix(40, columns); // 40 x 40: nothing is left over for the completion
    for (let i = 0; i < 40; i++) padded.values.set(x.values.subarray(i * 16, (i + 1) * 16), i * columns);
    const q = nativeFactoriser.orthonormalise(singles(padded), 40, columns);
    t.true(orthonormalityError(matrix(40, columns, q)) < 1e-6);
    t.true(outside(q, x, columns) < 2e-6);
    t.deepEqual(nativeFactoriser.orthonormalise(singles(padded), 40, columns), q);
  }
  const { left, right, singularValues } = nativeFactoriser.singularVectors(input, 40, 16, 10, true)!;
  t.true(orthonormalityError(matrix(40, 10, left)) < 1e-6);
  t.true(orthonormalityError(matrix(16, 10, right!)) < 1e-6);
  t.true(singularValues[2]! > 0.5 && singularValues[3]! < 1e-5);
});

test('zero sums have no vectors and any orthonormal factor; scale does not matter', (t) => {
  t.is(nativeFactoriser.singularVectors(new Float32Array(12), 4, 3, 2, false), null);
  const q = nativeFactoriser.orthonormalise(new Float32Array(12), 4, 3);
  t.true(orthonormalityError(matrix(4, 3, q)) < 1e-6);
  const x = singles(randomMatrix(9, 6, 'scale'));
  const { left, singularValues } = nativeFactoriser.singularVectors(x, 9, 6, 3, false)!;
  for (const scale of [2 ** -100, 2 ** 80]) {
    const other = nativeFactoriser.singularVectors(
      x.map((value) => value * scale),
      9,
      6,
      3,
      false,
    )!;
    t.deepEqual(other.left, left);
    t.deepEqual(
      other.singularValues,
      singularValues.map((s) => s * scale),
    );
  }
});

test('sums that are not finite and ranks that cannot be are refused', (t) => {
  const bad = Float32Array.of(1, 2, NaN, 4);
  t.throws(() => nativeFactoriser.singularVectors(bad, 2, 2, 1, false), { message: /element 2 of 4 is NaN/ });
  t.throws(() => nativeFactoriser.orthonormalise(bad, 2, 2), { instanceOf: RangeError });
  const x = Float32Array.of(1, 2, 3, 4, 5, 6);
  t.throws(() => nativeFactoriser.orthonormalise(x, 2, 3), { code: 'ERR_GALORE_SHAPE' });
  t.throws(() => nativeFactoriser.singularVectors(x, 2, 3, 3, false), { code: 'ERR_GALORE_SHAPE' });
  t.throws(() => nativeFactoriser.singularVectors(x, 3, 2, 3, true), { code: 'ERR_GALORE_SHAPE' });
});

test('signs are canonical and products are those of f64', (t) => {
  const q = singles(orthonormalMatrix(30, 10, 'q'));
  const { left } = nativeFactoriser.singularVectors(
    singles(randomMatrix(30, 10, 'signs')),
    30,
    10,
    10,
    false,
  )!;
  for (let j = 0; j < 10; j++) {
    const column = Array.from({ length: 30 }, (_, i) => left[i * 10 + j]!);
    t.true(column.reduce((a, b) => (Math.abs(b) > Math.abs(a) ? b : a)) > 0);
  }
  const b = singles(orthonormalMatrix(10, 4, 'b'));
  t.true(largest(nativeFactoriser.product(q, b, 30, 10, 4), plainFactoriser.product(q, b, 30, 10, 4)) < 1e-7);
});

// The handles are not tensors of tfjs, which would be counted: the binding's calls are.
test.serial('every handle made on the engine is deleted', (t) => {
  type Call = (...args: unknown[]) => unknown;
  const backend = tf.backend() as unknown as { binding: Record<string, Call> };
  const { binding } = backend;
  t.teardown(() => (backend.binding = binding));
  const alive = new Set<unknown>();
  let made = 0;
  const born = (id: unknown): void => void (alive.add(id), made++);
  const counting: Record<string, Call> = {
    createTensor: (...args) => {
      const id = binding['createTensor']!(...args);
      born(id);
      return id;
    },
    executeOp: (...args) => {
      const outputs = binding['executeOp']!(...args) as { id: unknown }[];
      for (const { id } of outputs) born(id);
      return outputs;
    },
    deleteTensor: (id) => {
      alive.delete(id);
      return binding['deleteTensor']!(id);
    },
  };
  backend.binding = new Proxy({}, { get: (_, name: string) => counting[name] ?? binding[name] });
  const x = singles(randomMatrix(20, 8, 'leak'));
  nativeFactoriser.orthonormalise(x, 20, 8);
  nativeFactoriser.singularVectors(x, 20, 8, 4, true);
  nativeFactoriser.orthonormalise(new Float32Array(160).fill(1), 20, 8); // Cholesky fails on the way
  t.true(made > 20);
  t.is(alive.size, 0);
});
