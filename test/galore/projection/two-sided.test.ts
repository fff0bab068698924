import test from 'ava';
import { matrix, multiply, transpose, type Matrix } from '../../../src/galore/matrix.ts';
import { plainFactoriser } from '../../../src/galore/projection/factorise.ts';
import { refreshPlan, sketchPlan } from '../../../src/galore/projection/sketch.ts';
import { leadingBasisPair, stackPair, type BasisPair } from '../../../src/galore/projection/two-sided.ts';
import { matrixWithSpectrum, orthonormalityError, orthonormalMatrix, projectedSlot } from '../matrices.ts';

/** U'GV */
function coreOf({ left, right }: BasisPair, g: Matrix, rank: number): Matrix {
  return multiply(transpose(matrix(g.rows, rank, left)), multiply(g, matrix(g.cols, rank, right)));
}

for (const [rows, cols] of [
  [30, 44],
  [44, 30],
] as const) {
  test(`the pair of a ${rows} x ${cols} gradient is orthonormal and its core is positive and diagonal`, (t) => {
    const spectrum = [8, 5, 3, 2, 1, 0.5];
    const g = matrixWithSpectrum(rows, cols, spectrum, 'pair');
    const factor = orthonormalMatrix(cols, 12, 'factor');
    const seen = multiply(g, factor);
    const request = { rows, cols, rank: 4, factor: Float32Array.from(factor.values) };
    const pair = leadingBasisPair({ ...request, sum: Float32Array.from(seen.values) }, plainFactoriser)!;
    t.true(orthonormalityError(matrix(rows, 4, pair.left)) < 1e-6);
    t.true(orthonormalityError(matrix(cols, 4, pair.right)) < 1e-6);
    const core = coreOf(pair, g, 4);
    for (let i = 0; i < 4; i++) {
      for (let j = 0; j < 4; j++) {
        const entry = core.values[i * 4 + j]!;
        if (i === j) t.true(entry > 0.1);
        else t.true(Math.abs(entry) < 1e-5, `[${i}, ${j}]: ${entry}`);
      }
    }
  });
}

// 2 x 2, G = (0 -3; 2 0): u_1 = e_1 with singular value 3, v_1 = -e_2; u_2 = e_2 with 2, v_2 = e_1.
test('the signs follow those of U, and exact needs no factor', (t) => {
  const sum = Float32Array.of(0, -3, 2, 0);
  const pair = leadingBasisPair({ sum, factor: null, rows: 2, cols: 2, rank: 2 }, plainFactoriser)!;
  t.deepEqual(
    pair.left.map((x) => Math.round(x) + 0),
    Float32Array.of(1, 0, 0, 1),
  );
  t.deepEqual(
    pair.right.map((x) => Math.round(x) + 0),
    Float32Array.of(0, 1, -1, 0),
  );
});

test('a gradient of lower rank has its pair completed to orthonormal columns', (t) => {
  const g = matrixWithSpectrum(12, 9, [3, 1], 'low');
  const sum = Float32Array.from(g.values);
  const { left, right } = leadingBasisPair(
    { sum, factor: null, rows: 12, cols: 9, rank: 5 },
    plainFactoriser,
  )!;
  t.true(orthonormalityError(matrix(12, 5, left)) < 1e-6);
  t.true(orthonormalityError(matrix(9, 5, right)) < 1e-6);
});

test('a zero sum has no pair', (t) => {
  const request = { sum: new Float32Array(6), factor: null, rows: 2, cols: 3, rank: 1 };
  t.is(leadingBasisPair(request, plainFactoriser), null);
});

test('a pair stands in one matrix, U above V', (t) => {
  const pair = { left: Float32Array.of(1, 2, 3, 4), right: Float32Array.of(5, 6) }; // [2, 2] and [1, 2]
  t.deepEqual(stackPair(pair), Float32Array.of(1, 2, 3, 4, 5, 6));
});

test('the rounds are those of side left: the last sum is G times a factor', (t) => {
  const plan = refreshPlan({ type: 'sketch', oversample: 2, power_iterations: 1 });
  t.like(sketchPlan(projectedSlot(9, 7, 'left', 3), 3, plan), { sketchShape: [9, 5], factorShape: [7, 5] });
});
