import test from 'ava';
import { TensorShapeError } from '../../src/errors.ts';
import { matrix, multiply, transpose, zip, type Matrix } from '../../src/galore/matrix.ts';
import { biasCorrection, stepSizes } from '../../src/galore/optimizer/bias-correction.ts';
import {
  referenceLift,
  referenceProject,
  referenceTransport,
  referenceUpdate,
} from '../../src/galore/optimizer/reference.ts';
import { leadingBasis } from '../../src/galore/projection/factorise.ts';
import { lift, project } from '../../src/galore/projection/project-lift.ts';
import { sketch } from '../../src/galore/projection/sketch-gradient.ts';
import { transportMoments, type Moments, type MomentsRule } from '../../src/galore/projection/transport.ts';
import type { Side, Slot } from '../../src/galore/slot.ts';
import type { Hyperparameters } from '../../src/galore/optimizer/rule.ts';
import { applyUpdate, OTHER_RULES } from './apply-update.ts';
import { assertClose } from './golden.ts';
import {
  formulaGradient,
  formulaWeights,
  maxDifference,
  orthonormalMatrix,
  projectedSlot,
  randomMatrix,
} from './matrices.ts';
import { assertNoLeak, matrixOf, tensorOf, tf, type Tensor, type Tensor2D } from './tensors.ts';

const HYPER: Hyperparameters = {
  ...OTHER_RULES,
  step: 3,
  learningRate: 0.01,
  betas: [0.9, 0.99],
  eps: 1e-8,
  weightDecay: 0.1,
  semantics: 'torch',
  scale: 0.25,
};
const SEMANTICS = ['torch', 'galore_torch'] as const;

// Golden trajectories of algorithms 10.1: G_t[i][j] = sin(1 + 3i + 7j + 2t) + 0.5 cos(ij + 0.3t),
// W_0[i][j] = 0.1 (i - j), lr .01, betas .9 .999, eps 1e-6 on the uncorrected root.
interface Trajectory {
  readonly title: string;
  readonly rows: number;
  readonly cols: number;
  readonly side: Side;
  readonly rank: number;
  readonly gap: number;
  readonly rule: MomentsRule;
  readonly steps: number;
  readonly scale: number;
  readonly weightDecay: number;
  readonly want: readonly number[];
}

const BASE = {
  rows: 3,
  cols: 5,
  side: 'left',
  rank: 2,
  gap: 100,
  rule: 'keep',
  steps: 3,
  scale: 0.25,
} as const;

const TRAJECTORIES: readonly Trajectory[] = [
  {
    ...BASE,
    title: '(a) left, one refresh',
    weightDecay: 0,
    want: [
      -0.003852466, -0.102740856, -0.202640976, -0.303164646, -0.397040631, 0.096395487, 0.005464169,
      -0.09312972, -0.196216195, -0.296074273, 0.192404433, 0.101471692, 0.00279276, -0.100463329,
      -0.193174582,
    ],
  },
  {
    ...BASE,
    title: '(b) right, one refresh',
    rows: 5,
    cols: 3,
    side: 'right',
    weightDecay: 0,
    want: [
      -0.006941807, -0.100148486, -0.203212612, 0.097992053, 0.00412905, -0.099193672, 0.193075157,
      0.102554244, -0.002080552, 0.296299296, 0.206461594, 0.101008357, 0.392681739, 0.301849126, 0.197447543,
    ],
  },
  {
    ...BASE,
    title: '(c) left, moments transported every second step',
    gap: 2,
    rule: 'ldadam',
    steps: 5,
    weightDecay: 0,
    want: [
      -0.003446456, -0.107193869, -0.207070541, -0.302941743, -0.400926396, 0.099321107, 0.004854018,
      -0.093315126, -0.195350485, -0.297787969, 0.191500949, 0.103642934, 0.003515329, -0.104131188,
      -0.189911444,
    ],
  },
  {
    ...BASE,
    title: '(d) left, moments reset every second step',
    gap: 2,
    rule: 'reset',
    steps: 5,
    weightDecay: 0,
    want: [
      -0.006441016, -0.104809563, -0.204032397, -0.300276026, -0.400483005, 0.097622338, 0.002789708,
      -0.093702572, -0.196244806, -0.29726454, 0.197674643, 0.10527994, 0.002280754, -0.104439051,
      -0.190941525,
    ],
  },
  {
    ...BASE,
    title: '(f) left, full rank with decay',
    rank: 3,
    scale: 1,
    weightDecay: 0.1,
    want: [
      -0.031307033, -0.129481301, -0.22686864, -0.300019902, -0.40509768, 0.073648763, 0.008015485,
      -0.084666699, -0.175731686, -0.296669346, 0.182697532, 0.121682688, 0.025619208, -0.111556988,
      -0.156694723,
    ],
  },
];

function exactBasis(gradient: Matrix, side: Side, rank: number): Matrix {
  const a = side === 'left' ? gradient : transpose(gradient);
  return matrix(a.rows, rank, leadingBasis(a.values, a.rows, a.cols, rank)!.basis);
}

function hyperOf({ scale, weightDecay }: Trajectory, step: number): Hyperparameters {
  return {
    ...OTHER_RULES,
    step,
    learningRate: 0.01,
    betas: [0.9, 0.999],
    eps: 1e-6,
    weightDecay,
    semantics: 'galore_torch',
    scale,
  };
}

test('the gradient formula is that of the golden trajectories', (t) => {
  const { values } = formulaGradient(3, 5, 0);
  assertClose(t, values.subarray(0, 3), [1.341470985, 1.489358247, 1.15028784], { atol: 1e-9, rtol: 0 }, 'G');
});

for (const trajectory of TRAJECTORIES) {
  const { title, rows, cols, side, rank, gap, rule, steps, want } = trajectory;
  const low: [number, number] = side === 'left' ? [rank, cols] : [rows, rank];

  test(`trajectory ${title}: the f64 reference`, (t) => {
    let state = { weight: formulaWeights(rows, cols), m: matrix(...low), v: matrix(...low) };
    let basis: Matrix | null = null;
    for (let i = 0; i < steps; i++) {
      const gradient = formulaGradient(rows, cols, i);
      if (i % gap === 0) {
        const newBasis = exactBasis(gradient, side, rank);
        const change = { oldBasis: basis ?? newBasis, newBasis, side };
        state = { ...state, ...referenceTransport(state, change, rule, i, [0.9, 0.999]) };
        basis = newBasis;
      }
      const projection = { basis: basis!, side };
      state = referenceUpdate(
        state,
        referenceProject(gradient, basis!, side),
        projection,
        hyperOf(trajectory, i + 1),
      );
    }
    // The basis is rounded to f32.
    assertClose(t, state.weight.values, want, { atol: 1e-8, rtol: 1e-7 }, title);
  });

  test(`trajectory ${title}: tensors`, (t) => {
    tf.tidy(() => {
      const slot = projectedSlot(rows, cols, side, rank);
      let weight: Tensor = tensorOf(formulaWeights(rows, cols));
      let moments: Moments = { m: tf.zeros(low), v: tf.zeros(low) };
      let basis: Tensor2D | null = null;
      for (let i = 0; i < steps; i++) {
        const gradient = formulaGradient(rows, cols, i);
        if (i % gap === 0) {
          const newBasis: Tensor2D = tensorOf(exactBasis(gradient, side, rank));
          const change = { oldBasis: basis ?? newBasis, newBasis, side };
          moments = transportMoments(moments, change, rule, i, [0.9, 0.999]);
          basis = newBasis;
        }
        const r = project(tensorOf(gradient), basis!, side);
        const next = applyUpdate(weight, slot, r, moments, basis, hyperOf(trajectory, i + 1));
        weight = next.weight;
        moments = next;
      }
      assertClose(t, weight.dataSync(), want, { atol: 2e-6, rtol: 0 }, title);
    });
  });
}

test('both semantics: tensors compute what the f64 reference computes, projected and dense', (t) => {
  for (const semantics of SEMANTICS) {
    for (const [m, n, side] of [
      [7, 12, 'left'],
      [12, 7, 'left'],
      [7, 12, 'right'],
      [12, 7, 'right'],
      [7, 7, null],
    ] as const) {
      const hyper = { ...HYPER, semantics };
      const slot: Slot =
        side === null
          ? { name: 'head', shape: [m, n], index: 0, policy: 'dense', rule: 'adamw' }
          : projectedSlot(m, n, side, 3);
      const basis = side === null ? null : orthonormalMatrix(side === 'left' ? m : n, 3, 'basis');
      const [rows, cols] = side === null ? [m, n] : side === 'left' ? [3, n] : [m, 3];
      const weight = randomMatrix(m, n, 'w');
      const low = randomMatrix(rows, cols, 'low');
      const first = zip((x) => 0.1 * x, randomMatrix(rows, cols, 'm'));
      const second = zip((x) => x * x, randomMatrix(rows, cols, 'v'));
      const want = referenceUpdate(
        { weight, m: first, v: second },
        low,
        basis === null || side === null ? null : { basis, side },
        hyper,
      );
      tf.tidy(() => {
        const got = applyUpdate(
          tensorOf(weight),
          slot,
          tensorOf(low),
          { m: tensorOf(first), v: tensorOf(second) },
          basis === null ? null : tensorOf(basis),
          hyper,
        );
        for (const key of ['weight', 'm', 'v'] as const) {
          const difference = maxDifference(matrixOf(got[key]), want[key]);
          t.true(difference < 1e-6, `${semantics} ${m} x ${n} ${side}: ${key} differs by ${difference}`);
        }
      });
    }
  }
});

test('the first step of Adam moves every number by the learning rate, whatever the gradient', (t) => {
  // M / c1 = g and sqrt(V / c2) = |g|, so d = lr g / (|g| + eps).
  const zeros = matrix(1, 3);
  for (const semantics of SEMANTICS) {
    const hyper = { ...HYPER, semantics, step: 1, weightDecay: 0, eps: 1e-12 };
    const state = { weight: zeros, m: zeros, v: zeros };
    const { weight } = referenceUpdate(state, matrix(1, 3, [5, -0.1, 1e-3]), null, hyper);
    assertClose(t, weight.values, [-0.01, 0.01, -0.01], { atol: 1e-9, rtol: 0 }, semantics);
  }
});

test('eps counts uncorrected in galore_torch and corrected in torch', (t) => {
  // t = 1, b2 = .99: sqrt(c2) = 0.1. g = 1, eps = 1: torch lr / (1 + 1); galore_torch lr .1/.1 * .1 / (.1 + 1).
  const one = matrix(1, 1, [1]);
  const zero = matrix(1, 1);
  const hyper = { ...HYPER, step: 1, weightDecay: 0, eps: 1 };
  const step = (semantics: 'torch' | 'galore_torch') =>
    -referenceUpdate({ weight: zero, m: zero, v: zero }, one, null, { ...hyper, semantics }).weight
      .values[0]!;
  t.true(Math.abs(step('torch') - 0.005) < 1e-12);
  t.true(Math.abs(step('galore_torch') - 0.01 / 11) < 1e-12);
});

test('decay comes before the update in torch and after it in galore_torch', (t) => {
  // w = 1, lr .01, wd 10: decay takes a tenth. d = lr: torch .9 - .01; galore_torch (1 - .01) .9.
  const one = matrix(1, 1, [1]);
  const zero = matrix(1, 1);
  const hyper = { ...HYPER, step: 1, weightDecay: 10, eps: 1e-15 };
  const weightOf = (semantics: 'torch' | 'galore_torch') =>
    referenceUpdate({ weight: one, m: zero, v: zero }, one, null, { ...hyper, semantics }).weight.values[0]!;
  t.true(Math.abs(weightOf('torch') - 0.89) < 1e-9);
  t.true(Math.abs(weightOf('galore_torch') - 0.891) < 1e-9);
});

test('the bias correction is 1 - beta^t', (t) => {
  t.is(biasCorrection(0.9, 0), 0);
  t.is(biasCorrection(0.9, 1), 1 - 0.9);
  for (const step of [2, 3, 10, 999, 100_000]) {
    t.true(Math.abs(biasCorrection(0.999, step) - (1 - 0.999 ** step)) < 1e-14, `${step}`);
  }
  t.throws(() => stepSizes(0.01, [0.9, 0.99], 1e-8, 0, 'torch'), { instanceOf: RangeError });
});

test('with a square orthogonal basis the lifted projection is the gradient: r = m is no projection at all', (t) => {
  for (const side of ['left', 'right'] as const) {
    const gradient = randomMatrix(8, 8, 'square');
    const basis = orthonormalMatrix(8, 8, 'square');
    const back = referenceLift(referenceProject(gradient, basis, side), basis, side);
    t.true(maxDifference(back, gradient) < 1e-13);
    tf.tidy(() => {
      const [g, p] = [tensorOf(gradient), tensorOf(basis)];
      t.true(maxDifference(matrixOf(lift(project(g, p, side), p, side)), gradient) < 1e-5);
    });
  }
});

test('lifting what was projected is the nearest matrix in the subspace', (t) => {
  // G - PP'G has no part in span(P): projecting it again gives zero.
  for (const side of ['left', 'right'] as const) {
    const gradient = randomMatrix(9, 11, 'nearest');
    const basis = orthonormalMatrix(side === 'left' ? 9 : 11, 4, 'nearest');
    const near = referenceLift(referenceProject(gradient, basis, side), basis, side);
    const rest = zip((g, x) => g - x, gradient, near);
    t.true(referenceProject(rest, basis, side).values.every((x) => Math.abs(x) < 1e-13));
  }
});

test('tensor sketches are the products their plan names', (t) => {
  const gradient = randomMatrix(9, 11, 'sketch');
  tf.tidy(() => {
    const g = tensorOf(gradient);
    const tall = randomMatrix(11, 3, 'factor');
    const short = randomMatrix(9, 3, 'factor');
    const rows = matrixOf(sketch(g, tensorOf(tall), { side: 'rows' }));
    const columns = matrixOf(sketch(g, tensorOf(short), { side: 'columns' }));
    t.true(maxDifference(rows, multiply(gradient, tall)) < 1e-5);
    t.true(maxDifference(columns, multiply(transpose(gradient), short)) < 1e-5);
    t.true(maxDifference(matrixOf(sketch(g, null, { side: 'rows' })), gradient) < 1e-6);
    t.true(maxDifference(matrixOf(sketch(g, null, { side: 'columns' })), transpose(gradient)) < 1e-6);
  });
});

test('project, lift, sketch and update leave no tensors behind but their results', (t) => {
  const slot = projectedSlot(9, 11, 'left', 4);
  const [g, p] = [tensorOf(randomMatrix(9, 11, 'leak')), tensorOf(orthonormalMatrix(9, 4, 'leak'))];
  const low = project(g, p, 'left');
  const moments = { m: low, v: tf.square(low) };
  assertNoLeak(t, () => project(g, p, 'left'), 1);
  assertNoLeak(t, () => lift(low, p, 'left'), 1);
  assertNoLeak(t, () => sketch(g, null, { side: 'rows' }), 1);
  assertNoLeak(t, () => sketch(g, p, { side: 'columns' }), 1);
  for (const weightDecay of [0, 0.1]) {
    for (const semantics of SEMANTICS) {
      const hyper = { ...HYPER, weightDecay, semantics };
      assertNoLeak(t, () => ({ ...applyUpdate(g, slot, low, moments, p, hyper) }), 3);
      const dense: Slot = { name: 'head', shape: [9, 11], index: 0, policy: 'dense', rule: 'adamw' };
      assertNoLeak(t, () => ({ ...applyUpdate(g, dense, g, { m: g, v: g }, null, hyper) }), 3);
    }
  }
  tf.dispose([g, p, low, moments.v]);
});

test('a projected slot without a basis is refused', (t) => {
  const slot = projectedSlot(9, 11, 'left', 4);
  tf.tidy(() => {
    const [w, low] = [tf.zeros([9, 11]), tf.zeros([4, 11])];
    const error = t.throws(() => applyUpdate(w, slot, low, { m: low, v: low }, null, HYPER));
    t.true(error instanceof TensorShapeError);
  });
});
