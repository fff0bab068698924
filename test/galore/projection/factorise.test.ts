import test from 'ava';
import fc from 'fast-check';
import { TensorShapeError } from '../../../src/errors.ts';
import { matrix, multiply, transpose } from '../../../src/galore/matrix.ts';
import { leadingBasis, orthonormalise } from '../../../src/galore/projection/factorise.ts';
import {
  matrixWithSpectrum,
  maxDifference,
  orthonormalityError,
  orthonormalMatrix,
  randomMatrix,
} from '../matrices.ts';

const sizes = fc.tuple(fc.integer({ min: 1, max: 24 }), fc.integer({ min: 1, max: 24 }), fc.nat(1000));

test('orthonormalise gives orthonormal columns that span those of its input', (t) => {
  fc.assert(
    fc.property(sizes, ([a, b, seed]) => {
      const x = randomMatrix(Math.max(a, b), Math.min(a, b), seed);
      const q = matrix(x.rows, x.cols, orthonormalise(x.values, x.rows, x.cols));
      const back = multiply(q, multiply(transpose(q), x));
      return orthonormalityError(q) < 1e-13 && maxDifference(back, x) < 1e-12;
    }),
  );
  t.pass();
});

test('orthonormalise completes dependent and zero columns, the same way every time', (t) => {
  const x = randomMatrix(9, 5, 'dependent');
  for (let i = 0; i < 9; i++) {
    x.values[i * 5 + 2] = x.values[i * 5]! - 2 * x.values[i * 5 + 1]!; // column 2 depends on 0 and 1
    x.values[i * 5 + 3] = 0;
  }
  const q = orthonormalise(x.values, 9, 5);
  t.true(orthonormalityError(matrix(9, 5, q)) < 1e-14);
  t.deepEqual(orthonormalise(x.values, 9, 5), q);
  t.true(orthonormalityError(matrix(9, 5, orthonormalise(new Float64Array(45), 9, 5))) < 1e-14);
});

test('orthonormalise stays accurate for columns that are almost parallel', (t) => {
  const x = randomMatrix(40, 12, 'parallel');
  const ill = matrix(
    40,
    12,
    x.values.map((value, i) => value * 1e-9 + x.values[i - (i % 12)]!),
  );
  t.true(orthonormalityError(matrix(40, 12, orthonormalise(ill.values, 40, 12))) < 1e-13);
});

test('leadingBasis finds singular values and vectors of a matrix built from them, tall or wide', (t) => {
  const spectrum = [8, 5, 3, 2, 1, 0.25];
  for (const [rows, cols] of [
    [20, 6],
    [6, 20],
    [20, 30],
    [30, 20],
    [6, 6],
  ] as const) {
    const x = matrixWithSpectrum(rows, cols, spectrum, rows, cols);
    const u = orthonormalMatrix(rows, 6, 'u', rows, cols);
    const { basis, singularValues } = leadingBasis(x.values, rows, cols, 4)!;
    spectrum.slice(0, 4).forEach((value, j) => t.true(Math.abs(singularValues[j]! - value) < 1e-13, `${j}`));
    const overlap = multiply(transpose(matrix(rows, 4, basis)), u); // +-1 on the diagonal, else 0
    for (let i = 0; i < 4; i++) {
      for (let j = 0; j < 6; j++) {
        const entry = Math.abs(overlap.values[i * 6 + j]!);
        t.true(Math.abs(entry - (i === j ? 1 : 0)) < 1e-6, `${rows} x ${cols}: ${i}, ${j}: ${entry}`);
      }
    }
  }
});

test('singular values that differ by twelve orders of magnitude are found', (t) => {
  const spectrum = [1, 1e-3, 1e-6, 1e-9, 1e-12];
  const x = matrixWithSpectrum(12, 9, spectrum, 'graded');
  const { singularValues } = leadingBasis(x.values, 12, 9, 5)!;
  // The matrix itself was rounded: absolute errors of about 1e-16.
  spectrum.forEach((value, j) => t.true(Math.abs(singularValues[j]! - value) < 1e-15));
});

test('the largest entry of each basis column, the first of equal ones, is positive', (t) => {
  fc.assert(
    fc.property(sizes, fc.nat(24), ([rows, cols, seed], cut) => {
      const rank = Math.max(1, Math.min(rows, cols, cut));
      const { basis } = leadingBasis(randomMatrix(rows, cols, seed).values, rows, cols, rank)!;
      return Array.from({ length: rank }, (_, j) => {
        const column = Array.from({ length: rows }, (_row, i) => basis[i * rank + j]!);
        const largest = Math.max(...column.map(Math.abs));
        return column.find((value) => Math.abs(value) === largest)! > 0;
      }).every(Boolean);
    }),
  );
  // Two entries of equal size: (1, -1) / sqrt 2 up to sign.
  t.deepEqual(
    leadingBasis(Float64Array.of(-1, 1), 2, 1, 1)!.basis,
    Float32Array.of(Math.SQRT1_2, -Math.SQRT1_2),
  );
});

test('a basis of a matrix of lower rank is completed to orthonormal columns', (t) => {
  for (const [rows, cols] of [
    [14, 8],
    [8, 14],
  ] as const) {
    const x = matrixWithSpectrum(rows, cols, [3, 1], 'rank 2', rows);
    const { basis, singularValues } = leadingBasis(x.values, rows, cols, 6)!;
    t.true(orthonormalityError(matrix(rows, 6, basis)) < 1e-6);
    t.true(singularValues.slice(2).every((value) => value < 1e-14));
    const p = matrix(
      rows,
      2,
      matrix(rows, 6, basis).values.filter((_, i) => i % 6 < 2),
    );
    t.true(maxDifference(multiply(p, multiply(transpose(p), x)), x) < 1e-6);
  }
  const one = leadingBasis(Float64Array.of(0, 0, 5, 0, 0, 0), 3, 2, 3)!; // one entry, rank above the columns
  t.true(orthonormalityError(matrix(3, 3, one.basis)) < 1e-7);
  t.is(one.basis[3], 1); // row 1, column 0
});

test('a zero matrix has no leading basis', (t) => {
  t.is(leadingBasis(new Float64Array(12), 4, 3, 2), null);
  t.is(leadingBasis(Float64Array.of(-0, 0), 1, 2, 1), null);
});

test('a matrix that is not finite is refused', (t) => {
  for (const bad of [NaN, Infinity, -Infinity]) {
    t.throws(() => leadingBasis(Float64Array.of(1, bad, 0, 2), 2, 2, 1), { message: /element 1 of 4/ });
  }
});

test('more columns than rows cannot be asked for', (t) => {
  t.throws(() => orthonormalise(new Float64Array(6), 2, 3), { instanceOf: TensorShapeError });
  t.throws(() => leadingBasis(new Float64Array(6), 2, 3, 3), { instanceOf: TensorShapeError });
});

test('input is left as it was and f32 input gives what f64 input gives', (t) => {
  const x = Float32Array.from(randomMatrix(10, 4, 'f32').values);
  const copy = x.slice();
  t.deepEqual(leadingBasis(x, 10, 4, 3), leadingBasis(Float64Array.from(x), 10, 4, 3));
  t.deepEqual(orthonormalise(x, 10, 4), orthonormalise(Float64Array.from(x), 10, 4));
  t.deepEqual(x, copy);
});
