/** Factors of power slots: orthonormal whatever they are made of, and the same bits from JavaScript and the addon. */
import test from 'ava';
import { TensorShapeError } from '../../../src/errors.ts';
import { matrix, multiply, transpose, type Matrix } from '../../../src/galore/matrix.ts';
import {
  formsOf,
  GRAM_KERNEL,
  gramOf,
  plainGram,
  plainTimes,
  timesSquare,
} from '../../../src/galore/projection/fixed-sums.ts';
import { orthonormalFactor } from '../../../src/galore/projection/orthonormal-factor.ts';
import { maxDifference, matrixWithSpectrum, orthonormalityError, randomMatrix } from '../matrices.ts';
import { tf } from '../tensors.ts';

const { installFixedSums } = await import('../../../src/trainer/engine/power-kernels.ts');

const ROWS = 90;
const COLS = 12;

function factorOf(x: Matrix): Matrix {
  return matrix(x.rows, x.cols, orthonormalFactor(Float32Array.from(x.values), x.rows, x.cols)!);
}

/** Rank-deficient in three ways: equal columns, a column of zeros, a column that is the sum of two. */
function deficient(): Matrix {
  const x = randomMatrix(ROWS, COLS, 'deficient');
  for (let i = 0; i < ROWS; i++) {
    const row = x.values.subarray(i * COLS, (i + 1) * COLS);
    row[3] = row[1]!;
    row[5] = 0;
    row[7] = row[6]! + row[2]!;
  }
  return x;
}

const PRODUCTS: Readonly<Record<string, Matrix>> = {
  random: randomMatrix(ROWS, COLS, 'x'),
  'badly conditioned': matrixWithSpectrum(
    ROWS,
    COLS,
    Array.from({ length: COLS }, (_, j) => 10 ** (-j / 2)),
  ),
  'as wide as high': randomMatrix(COLS, COLS, 'square'),
  'of tiny numbers': matrix(
    ROWS,
    COLS,
    randomMatrix(ROWS, COLS, 'tiny').values.map((x) => x * 1e-30),
  ),
  'of huge numbers': matrix(
    ROWS,
    COLS,
    randomMatrix(ROWS, COLS, 'huge').values.map((x) => x * 1e30),
  ),
  'of columns of very different lengths': matrix(
    ROWS,
    COLS,
    randomMatrix(ROWS, COLS, 'lengths').values.map((x, i) => x * 10 ** ((i % COLS) - 6)),
  ),
};

for (const [name, x] of Object.entries(PRODUCTS)) {
  test.serial(`a product ${name} gives orthonormal columns that span its own`, (t) => {
    const q = factorOf(x);
    t.true(orthonormalityError(q) < 1e-6, `${orthonormalityError(q)}`);
    const lengths = Array.from({ length: COLS }, (_, j) =>
      Math.hypot(...Array.from({ length: x.rows }, (_, i) => x.values[i * COLS + j]!)),
    );
    const scaled = matrix(
      x.rows,
      COLS,
      x.values.map((value, i) => Math.fround(value) / lengths[i % COLS]!),
    );
    t.true(maxDifference(multiply(q, multiply(transpose(q), scaled)), scaled) < 1e-6);
  });
}

test.serial('dependent columns and columns of zeros are replaced, the same way every time', (t) => {
  const x = deficient();
  const q = factorOf(x);
  t.true(orthonormalityError(q) < 1e-6);
  t.deepEqual(factorOf(x).values, q.values);
  const lost = maxDifference(multiply(q, multiply(transpose(q), x)), x);
  t.true(lost < 1e-5, `what x spans is still spanned: ${lost}`);
});

test.serial('a product of zeros has no factor; one of a single column of a few numbers has', (t) => {
  t.is(orthonormalFactor(new Float32Array(40), 10, 4), null);
  const unit = new Float32Array(40);
  unit[4] = 3;
  t.true(orthonormalityError(matrix(10, 4, orthonormalFactor(unit, 10, 4)!)) < 1e-6);
  t.throws(() => orthonormalFactor(new Float32Array(12), 3, 4), { instanceOf: TensorShapeError });
});

test.serial('an engine without the sums has them in JavaScript', (t) => {
  t.true(tf.getKernel(GRAM_KERNEL, 'tensorflow') === undefined); // so were the tests above
  installFixedSums(tf);
  t.false(tf.getKernel(GRAM_KERNEL, 'tensorflow') === undefined);
});

for (const [rows, cols] of [
  [1, 1],
  [7, 5],
  [300, 64],
  [131, 45],
  [900, 40], // more than one thread
] as const) {
  test.serial(`the addon sums ${rows} x ${cols} to the bits of JavaScript`, (t) => {
    const x = Float32Array.from(randomMatrix(rows, cols, 'bits').values);
    const gram = new Float64Array(cols * cols);
    plainGram({ x, rows, cols, gram });
    t.deepEqual(gramOf(x, rows, cols), gram);
    // Numbers that use all 53 bits, and a triangle of them, of which the addon leaves products out.
    const full = gram.map((value) => value / 3);
    const upper = full.map((value, i) => (i % cols >= Math.floor(i / cols) ? value : 0));
    for (const t2 of [full, upper]) {
      const [product, forms] = [new Float32Array(rows * cols), new Float32Array(rows)];
      plainTimes({ x, rows, cols, t: t2, isForm: false, out: product });
      plainTimes({ x, rows, cols, t: t2, isForm: true, out: forms });
      t.deepEqual(timesSquare(x, rows, cols, t2), product);
      t.deepEqual(formsOf(x, rows, cols, t2), forms);
    }
  });
}

test.serial('the addon rounds each product: one and its opposite leave nothing', (t) => {
  // fma(x, -1/3, x/3) would be what rounding x/3 left out.
  const x = Float32Array.from({ length: 64 }, (_, i) => Math.sqrt(2 + Math.floor(i / 2)));
  const third = 1 / 3;
  t.deepEqual(timesSquare(x, 32, 2, Float64Array.of(third, third, -third, -third)), new Float32Array(64));
});
