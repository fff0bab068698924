import test from 'ava';
import { matrix, multiply, transpose, zip, type Matrix } from '../../../src/galore/matrix.ts';
import { biasCorrection } from '../../../src/galore/optimizer/bias-correction.ts';
import {
  referenceLift,
  referenceProject,
  referenceTransport,
  referenceUpdate,
} from '../../../src/galore/optimizer/reference.ts';
import { ruleState } from '../../../src/galore/optimizer/rule-state.ts';
import type { Hyperparameters, RuleState } from '../../../src/galore/optimizer/rule.ts';
import { ruleFor } from '../../../src/galore/optimizer/rules.ts';
import { leadingBasis, orthonormalise } from '../../../src/galore/projection/factorise.ts';
import type { ProjectedSlot, Side } from '../../../src/galore/slot.ts';
import { OTHER_RULES } from '../apply-update.ts';
import {
  matrixWithSpectrum,
  maxDifference,
  orthonormalityError,
  projectedSlot,
  randomMatrix,
  squaredNorm,
} from '../matrices.ts';
import { assertNoLeak, matrixOf, tensorOf, tf, type Tensor, type Tensor2D } from '../tensors.ts';

const HYPER: Hyperparameters = {
  ...OTHER_RULES,
  step: 1,
  learningRate: 0.01,
  betas: [0.908, 0.99],
  eps: 1e-8,
  weightDecay: 0.1,
  semantics: 'torch',
  scale: 1,
};
const SHAPES = [
  [7, 12, 'left', 3],
  [12, 7, 'right', 3],
  [12, 7, 'left', 3],
  [6, 6, 'left', 6],
] as const;

function slotOf(m: number, n: number, side: Side, rank: number): ProjectedSlot {
  return { ...projectedSlot(m, n, side, rank), policy: 'dense', rule: 'ldadam' };
}

/** A slot's step as numbers. */
interface Plain {
  readonly weight: Matrix;
  readonly m: Matrix;
  readonly v: Matrix;
  readonly error: Matrix;
  readonly basis: Matrix;
}

/** Runs the rule over the gradients from zero state; the numbers after each step. */
function run(slot: ProjectedSlot, weights: Matrix, gradients: readonly Matrix[], hyper = HYPER): Plain[] {
  const results: Plain[] = [];
  tf.tidy(() => {
    let weight: Tensor = tensorOf(weights);
    let state: RuleState = Object.fromEntries(
      ruleState(slot).map(({ kind, shape }) => [kind, tf.zeros([...shape])]),
    );
    let basis: Tensor2D | null = null;
    gradients.forEach((gradient, i) => {
      const payload = tensorOf(gradient);
      const input = { slot, weight, payload, state, basis, hyper: { ...hyper, step: i + 1 } };
      const next = ruleFor('ldadam').step(input);
      ({ weight, state } = next);
      basis = next.basis!;
      const { m, v, error } = state as Record<'m' | 'v' | 'error', Tensor>;
      results.push({
        weight: matrixOf(weight),
        m: matrixOf(m),
        v: matrixOf(v),
        error: matrixOf(error),
        basis: matrixOf(basis),
      });
    });
  });
  return results;
}

/** The same step in f64 with B as a whole matrix; the first basis is given. */
function plainStep(slot: ProjectedSlot, old: Plain, gradient: Matrix, step: number): Plain {
  const { betas } = HYPER;
  const [rho] = betas;
  const gathered = zip((g, e) => g + e, gradient, old.error);
  let { basis } = old;
  const lifted = referenceLift(old.m, basis, slot.side);
  if (step > 1) {
    const c1 = biasCorrection(rho, step - 1);
    const b = zip((x, a) => (rho * x) / c1 + (1 - rho) * a, lifted, gathered);
    const upright = slot.side === 'left' ? b : transpose(b);
    const moved = multiply(upright, multiply(transpose(upright), basis));
    basis = matrix(moved.rows, moved.cols, orthonormalise(moved.values, moved.rows, moved.cols));
  }
  const change = { oldBasis: old.basis, newBasis: basis, side: slot.side };
  const moments = referenceTransport(old, change, 'ldadam', step - 1, betas);
  const low = referenceProject(gathered, basis, slot.side);
  const projection = { basis, side: slot.side };
  const next = referenceUpdate({ weight: old.weight, ...moments }, low, projection, { ...HYPER, step });
  const k = rho / (1 - rho);
  const left = zip((a, x) => a - x, gathered, referenceLift(low, basis, slot.side));
  const forgotten = zip((x, y) => x - y, lifted, referenceLift(moments.m, basis, slot.side));
  return { ...next, basis, error: zip((x, y) => x + k * y, left, forgotten) };
}

/** Gradients that drift, so that the basis has to move. */
function driftingGradients(m: number, n: number, count: number): Matrix[] {
  const [start, drift] = [randomMatrix(m, n, 'start'), randomMatrix(m, n, 'drift')];
  return Array.from({ length: count }, (_, i) => zip((x, y) => x + 0.3 * i * y, start, drift));
}

for (const [m, n, side, rank] of SHAPES) {
  test(`${m} x ${n}, ${side}, rank ${rank}: four steps are what whole f64 matrices give`, (t) => {
    const slot = slotOf(m, n, side, rank);
    const gradients = driftingGradients(m, n, 4);
    const start = randomMatrix(m, n, 'w');
    const got = run(slot, start, gradients);
    const low = side === 'left' ? matrix(rank, n) : matrix(m, rank);
    let plain: Plain = { weight: start, m: low, v: low, error: matrix(m, n), basis: got[0]!.basis };
    gradients.forEach((gradient, i) => {
      plain = plainStep(slot, plain, gradient, i + 1);
      for (const key of ['basis', 'm', 'v', 'error', 'weight'] as const) {
        const difference = maxDifference(got[i]![key], plain[key]);
        t.true(difference < 1e-4, `step ${i + 1}: ${key} differs by ${difference}`);
      }
    });
  });

  test(`${m} x ${n}, ${side}, rank ${rank}: bases are orthonormal, and nothing of the gradient is lost`, (t) => {
    const slot = slotOf(m, n, side, rank);
    const gradients = driftingGradients(m, n, 5);
    const [b1] = HYPER.betas;
    let held = matrix(m, n); // what error and momentum hold: E + P M / (1 - b1)
    for (const [i, { basis, error, m: momentum }] of run(
      slot,
      randomMatrix(m, n, 'w'),
      gradients,
    ).entries()) {
      t.true(orthonormalityError(basis) < 1e-6, `step ${i + 1}`);
      // M = b1 C M_old + (1 - b1) R makes E + b1 / (1 - b1) P M_transported + P R = E + P M / (1 - b1) telescope:
      // E + P M / (1 - b1) = G + E_old + b1 / (1 - b1) P_old M_old.
      const lifted = referenceLift(momentum, basis, side);
      const next = zip((e, x) => e + x / (1 - b1), error, lifted);
      const expected = zip((g, h) => g + h, gradients[i]!, held);
      t.true(maxDifference(next, expected) < 1e-4, `step ${i + 1}: ${maxDifference(next, expected)}`);
      held = zip((e, x) => e + (b1 * x) / (1 - b1), error, lifted);
    }
  });
}

test('the first basis spans the leading singular vectors of the first gradient', (t) => {
  for (const side of ['left', 'right'] as const) {
    const wide = matrixWithSpectrum(24, 40, [9, 8, 7, 6, 0.5, 0.4, 0.3, 0.2, 0.1], 'first');
    const gradient = side === 'left' ? wide : transpose(wide);
    const slot = slotOf(gradient.rows, gradient.cols, side, 4);
    const [{ basis } = { basis: wide }] = run(slot, matrix(gradient.rows, gradient.cols), [gradient]);
    const exact = matrix(24, 4, leadingBasis(wide.values, 24, 40, 4)!.basis);
    const overlap = multiply(transpose(exact), basis);
    t.true(Math.abs(squaredNorm(overlap) - 4) < 1e-4, `${squaredNorm(overlap)} of 4`);
  }
});

test('the basis follows a gradient that turns away', (t) => {
  const slot = slotOf(16, 20, 'left', 2);
  const [before, after] = [
    matrixWithSpectrum(16, 20, [3, 2], 'before'),
    matrixWithSpectrum(16, 20, [3, 2], 'after'),
  ];
  const gradients = Array.from({ length: 25 }, (_, i) => (i === 0 ? before : after));
  const { basis } = run(slot, matrix(16, 20), gradients).at(-1)!;
  const kept = squaredNorm(referenceProject(after, basis, 'left')) / squaredNorm(after);
  t.true(kept > 0.99, `the subspace holds ${kept} of the gradient`);
});

test('at full rank nothing is put off', (t) => {
  const gradients = driftingGradients(6, 6, 4);
  for (const { error } of run(slotOf(6, 6, 'left', 6), randomMatrix(6, 6, 'w'), gradients)) {
    t.true(error.values.every((x) => Math.abs(x) < 1e-4));
  }
});

test('of a single row the step is AdamW: its basis is 1 or -1', (t) => {
  const slot = slotOf(1, 8, 'left', 1);
  const gradients = driftingGradients(1, 8, 5);
  let plain = { weight: randomMatrix(1, 8, 'w'), m: matrix(1, 8), v: matrix(1, 8) };
  const got = run(slot, plain.weight, gradients);
  gradients.forEach((gradient, i) => {
    plain = referenceUpdate(plain, gradient, null, { ...HYPER, step: i + 1 });
    t.true(maxDifference(got[i]!.weight, plain.weight) < 1e-6, `step ${i + 1}`);
  });
});

test('zero gradients keep the basis, at first the unit vectors, and the weights', (t) => {
  const slot = slotOf(5, 8, 'left', 2);
  const weight = randomMatrix(5, 8, 'w');
  const zero = matrix(5, 8);
  const hyper = { ...HYPER, weightDecay: 0 };
  for (const after of run(slot, weight, [zero, zero], hyper)) {
    t.deepEqual(Array.from(after.basis.values), [1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    t.true(maxDifference(after.weight, weight) < 1e-6);
  }
  const [, kept] = run(slot, weight, [zero, randomMatrix(5, 8, 'g')], hyper);
  t.true(orthonormalityError(kept!.basis) < 1e-6);
});

test('equal gradients give equal bits', (t) => {
  const slot = slotOf(12, 7, 'right', 3);
  const gradients = driftingGradients(12, 7, 3);
  t.deepEqual(run(slot, randomMatrix(12, 7, 'w'), gradients), run(slot, randomMatrix(12, 7, 'w'), gradients));
});

test('the first and later steps leave no tensors behind but their results', (t) => {
  const slot = slotOf(9, 11, 'left', 4);
  const [weight, payload] = [tensorOf(randomMatrix(9, 11, 'w')), tensorOf(randomMatrix(9, 11, 'g'))];
  const m = tf.zeros([4, 11]);
  const state = { m, v: m, error: payload };
  const basis = tensorOf(matrix(9, 4, orthonormalise(randomMatrix(9, 4, 'leak').values, 9, 4)));
  for (const [old, step] of [
    [null, 1],
    [basis, 2],
  ] as const) {
    assertNoLeak(
      t,
      () => {
        const input = { slot, weight, payload, state, basis: old, hyper: { ...HYPER, step } };
        const next = ruleFor('ldadam').step(input);
        return { ...(next.state as Record<string, Tensor>), weight: next.weight, basis: next.basis! };
      },
      5,
    );
  }
  tf.dispose([weight, payload, m, basis]);
});
