import test from 'ava';
import { matrix, type Matrix } from '../../src/galore/matrix.ts';
import { checkBasis, FACTOR_TOLERANCE } from '../../src/galore/projection/check.ts';
import { plainFactoriser } from '../../src/galore/projection/factorise.ts';
import { refreshPlan, sketchPlan } from '../../src/galore/projection/sketch.ts';
import { derive } from '../../src/random.ts';
import { symmetricEigen } from '../../src/trainer/engine/decompositions.ts';
import { factorise } from '../../src/trainer/factorising.ts';
import { nativeFactoriser } from '../../src/trainer/native-factorise.ts';
import { looseFactor, singleBasis, singleFactor } from '../../src/trainer/native-singles.ts';
import { matrixWithSpectrum, orthonormalityError, projectedSlot, randomMatrix } from '../galore/matrices.ts';
import { tf } from '../galore/tensors.ts';

const KEY = derive(3, 'probe');
const singles = ({ values }: Matrix): Float32Array => Float32Array.from(values);

/** `[rows, 16]` whose singular values fall from 1 to `last`. */
function falling(rows: number, last: number): Float32Array {
  const spectrum = Array.from({ length: 16 }, (_, j) => last ** (j / 15));
  return singles(matrixWithSpectrum(rows, 16, spectrum, 'falling'));
}

/** |P'X|^2, squared Frobenius norm. */
function energy(p: Float32Array, x: Float32Array, rows: number): number {
  return tf.tidy(() => {
    const [a, b] = [tf.tensor2d(p, [rows, p.length / rows]), tf.tensor2d(x, [rows, x.length / rows])];
    return a.matMul(b, true).square().sum().dataSync()[0]!;
  });
}

test('eigenvalues ascend and their vectors are the columns', (t) => {
  // [[2, 1], [1, 2]]: (1, -1) / sqrt(2) belongs to 1, (1, 1) / sqrt(2) to 3
  const x = tf.tensor2d([2, 1, 1, 2], [2, 2]);
  const before = tf.memory().numTensors;
  const [values, vectors] = symmetricEigen(x);
  const [least, most] = values.dataSync();
  t.true(Math.abs(least! - 1) < 1e-6 && Math.abs(most! - 3) < 1e-6);
  const [a, b, c, d] = vectors.dataSync() as unknown as [number, number, number, number];
  t.true(Math.abs(a + c) < 1e-6 && Math.abs(b - d) < 1e-6 && Math.abs(b * b - 0.5) < 1e-6);
  tf.dispose([values, vectors]);
  t.is(tf.memory().numTensors, before);
  x.dispose();
});

for (const last of [1e-1, 1e-2, 2e-3]) {
  test(`a basis by products in f32 is the leading one, singular values down to ${last}`, (t) => {
    const x = falling(60, last);
    const before = tf.memory().numTensors;
    const basis = singleBasis(x, 60, 16, 12)!;
    t.is(tf.memory().numTensors, before);
    t.true(orthonormalityError(matrix(60, 12, basis)) < 1e-6);
    const { left } = plainFactoriser.singularVectors(x, 60, 16, 12, false)!;
    const best = energy(left, x, 60);
    t.true(Math.abs(energy(basis, x, 60) / best - 1) < 1e-6);
    // In the order of the singular values and with the canonical signs: column by column those of f64.
    for (let j = 0; j < 12; j++) {
      let agreement = 0;
      for (let i = 0; i < 60; i++) agreement += basis[i * 12 + j]! * left[i * 12 + j]!;
      t.true(agreement > 1 - 1e-3, `column ${j}: ${agreement}`);
    }
    t.deepEqual(singleBasis(x, 60, 16, 12), basis);
    t.deepEqual(nativeFactoriser.basis(x, 60, 16, 12), basis);
  });
}

const deficient = singles(matrixWithSpectrum(60, 16, [3, 2, 1], 'three'));
for (const [what, x, rows, cols, rank] of [
  ['has too few directions', deficient, 60, 16, 12],
  ['has singular values that f32 cannot square', falling(60, 1e-6), 60, 16, 16],
  ['is wide', singles(randomMatrix(16, 60, 'wide')), 16, 60, 12],
  ['has fewer columns than the rank', falling(60, 0.1), 60, 16, 20],
  ['is tiny', falling(60, 0.1).map((value) => value * 2 ** -60), 60, 16, 12],
  ['is huge', falling(60, 0.1).map((value) => value * 2 ** 80), 60, 16, 12],
] as const) {
  test(`the basis of a sum that ${what} is made in f64`, (t) => {
    t.is(singleBasis(x, rows, cols, rank), null);
    const basis = nativeFactoriser.basis(x, rows, cols, rank)!;
    t.deepEqual(basis, nativeFactoriser.singularVectors(x, rows, cols, rank, false)!.left);
    t.true(orthonormalityError(matrix(rows, rank, basis)) < 1e-6);
  });
}

test('one pass is enough for a factor between rounds while the columns are far from dependent', (t) => {
  const x = falling(400, 5e-3);
  const before = tf.memory().numTensors;
  const q = looseFactor(x, 400, 16)!;
  t.is(tf.memory().numTensors, before);
  t.true(orthonormalityError(matrix(400, 16, q)) > 1e-6, 'looser than a basis');
  t.is(checkBasis(q, 400, 16, KEY, FACTOR_TOLERANCE), null);
  t.deepEqual(nativeFactoriser.factor(x, 400, 16), q);
  // Q spans the columns of X: nothing of X is outside.
  const strict = nativeFactoriser.orthonormalise(q, 400, 16);
  const whole = energy(plainFactoriser.orthonormalise(x, 400, 16), x, 400);
  t.true(Math.abs(energy(strict, x, 400) / whole - 1) < 1e-6);
});

test('a factor is kept only if no direction at all is far from orthonormal', (t) => {
  let kept = 0;
  for (let seed = 0; seed < 300; seed++) {
    const last = 10 ** (-3 - seed / 200);
    const spectrum = Array.from({ length: 16 }, (_, j) => last ** (j / 15));
    const q = looseFactor(singles(matrixWithSpectrum(32, 16, spectrum, `sweep ${seed}`)), 32, 16);
    if (q === null) continue;
    kept++;
    const worst = tf.tidy(() => {
      const columns = tf.tensor2d(q, [32, 16]);
      const [values] = symmetricEigen(tf.sub(tf.matMul(columns, columns, true), tf.eye(16)));
      return values.abs().max().dataSync()[0]!;
    });
    t.true(worst < FACTOR_TOLERANCE, `seed ${seed}: ${worst}`);
  }
  t.true(kept > 20 && kept < 280, `${kept} of 300 were kept`);
});

for (const [what, x] of [
  ['nearly dependent', falling(400, 1e-5)],
  ['dependent', singles(matrixWithSpectrum(400, 16, [3, 2, 1], 'three'))],
  ['equal', new Float32Array(400 * 16).fill(1)],
  ['zero', new Float32Array(400 * 16)],
] as const) {
  test(`columns that are ${what} get an orthonormal factor by the slower way`, (t) => {
    t.is(looseFactor(x, 400, 16), null);
    t.is(singleFactor(x, 400, 16), null);
    const q = nativeFactoriser.factor(x, 400, 16);
    t.deepEqual(q, nativeFactoriser.orthonormalise(x, 400, 16));
    t.true(orthonormalityError(matrix(400, 16, q)) < 1e-6);
  });
}

test('sums that are not finite and shapes that cannot be are refused by the quick ways too', (t) => {
  for (const value of [NaN, Infinity]) {
    const bad = falling(60, 0.1);
    bad[5] = value;
    t.throws(() => nativeFactoriser.factor(bad, 60, 16), { message: /element 5 of 960 is/ });
    t.throws(() => nativeFactoriser.basis(bad, 60, 16, 12), { message: /element 5 of 960 is/ });
  }
  t.throws(() => nativeFactoriser.factor(falling(60, 0.1), 16, 60), { code: 'ERR_GALORE_SHAPE' });
  t.throws(() => nativeFactoriser.basis(falling(60, 0.1), 16, 60, 17), { code: 'ERR_GALORE_SHAPE' });
  t.is(nativeFactoriser.basis(new Float32Array(60 * 16), 60, 16, 12), null);
});

test('only a factor that nothing but the next product uses is loose', (t) => {
  const x = falling(400, 5e-3);
  const oneSided = projectedSlot(40, 400, 'left', 12);
  const plan = refreshPlan({ type: 'sketch', oversample: 4, power_iterations: 1 });
  const adaptive = refreshPlan({ type: 'sketch', oversample: 4, power_iterations: 1, held_out_columns: 8 });
  t.deepEqual(sketchPlan(oneSided, 2, plan).sketchShape, [400, 16]);
  t.deepEqual(factorise(oneSided, 2, plan, x), looseFactor(x, 400, 16));
  for (const strict of [
    factorise({ ...oneSided, policy: 'two-sided' }, 2, plan, x)!,
    factorise(oneSided, 2, adaptive, x)!,
  ]) {
    t.deepEqual(strict, nativeFactoriser.orthonormalise(x, 400, 16));
    t.true(orthonormalityError(matrix(400, 16, strict)) < 1e-6);
  }
});
