import test from 'ava';
import { TensorShapeError } from '../../../src/errors.ts';
import { matrix, multiply, transpose, zip, type Matrix } from '../../../src/galore/matrix.ts';
import { stepSizes } from '../../../src/galore/optimizer/bias-correction.ts';
import { limitGrowth } from '../../../src/galore/optimizer/norm-limiter.ts';
import { referenceLift, referenceProject } from '../../../src/galore/optimizer/reference.ts';
import { ruleState, type RuleName } from '../../../src/galore/optimizer/rule-state.ts';
import type { Hyperparameters, RuleState } from '../../../src/galore/optimizer/rule.ts';
import { ruleFor } from '../../../src/galore/optimizer/rules.ts';
import { leadingBasis } from '../../../src/galore/projection/factorise.ts';
import { basisShape, type ProjectedSlot, type Side } from '../../../src/galore/slot.ts';
import { OTHER_RULES } from '../apply-update.ts';
import { assertClose } from '../golden.ts';
import {
  formulaGradient,
  formulaWeights,
  maxDifference,
  orthonormalMatrix,
  projectedSlot,
  randomMatrix,
  squaredNorm,
} from '../matrices.ts';
import { assertNoLeak, matrixOf, tensorOf, tf, type Tensor, type Tensor2D } from '../tensors.ts';

const RULES = ['fira', 'apollo', 'apollo-mini'] as const;
type Rule = (typeof RULES)[number];

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

function slotOf(rule: RuleName, m: number, n: number, side: Side, rank: number): ProjectedSlot {
  return { ...projectedSlot(m, n, side, rank), policy: 'dense', rule };
}

function zeroState(slot: ProjectedSlot): RuleState {
  return Object.fromEntries(ruleState(slot).map(({ kind, shape }) => [kind, tf.zeros([...shape])]));
}

interface PlainState {
  readonly weight: Matrix;
  readonly m: Matrix;
  readonly v: Matrix;
  readonly norm: number;
}

/** One step of any of the three in f64, as the papers and reference codes write them, whole matrices all the way. */
function plainStep(
  rule: Rule,
  slot: ProjectedSlot,
  state: PlainState,
  gradient: Matrix,
  basis: Matrix,
  hyper: Hyperparameters,
): PlainState {
  const { betas, learningRate, scale, limiter, weightDecay } = hyper;
  const { stepSize, eps } = stepSizes(learningRate, betas, hyper.eps, hyper.step, hyper.semantics);
  const low = referenceProject(gradient, basis, slot.side);
  const m = zip((old, r) => betas[0] * old + (1 - betas[0]) * r, state.m, low);
  const v = zip((old, r) => betas[1] * old + (1 - betas[1]) * r * r, state.v, low);
  const normalised = zip((mi, vi) => mi / (Math.sqrt(vi) + eps), m, v);
  const perRow = low.rows >= low.cols;
  const scaleAt = (i: number, j: number): number => {
    const isOf = (row: number, col: number) => rule === 'apollo-mini' || (perRow ? row === i : col === j);
    return channelNorm(normalised, isOf) / (channelNorm(low, isOf) + 1e-8);
  };
  const back = rule === 'fira' ? referenceLift(low, basis, slot.side) : null;
  const long = matrix(gradient.rows, gradient.cols);
  for (let i = 0; i < long.rows; i++) {
    for (let j = 0; j < long.cols; j++) {
      const at = i * long.cols + j;
      long.values[at] = scaleAt(i, j) * (gradient.values[at]! - scale * (back?.values[at] ?? 0));
    }
  }
  const length = Math.sqrt(squaredNorm(long));
  const l = state.norm === 0 ? 1 : Math.max(length / (state.norm + 1e-8), limiter) / limiter;
  const change =
    rule === 'fira'
      ? zip((n, s) => stepSize * (scale * n + s / l), referenceLift(normalised, basis, slot.side), long)
      : zip((s) => (stepSize * Math.sqrt(scale) * s) / l, long);
  const kept = 1 - learningRate * weightDecay;
  const weight =
    hyper.semantics === 'torch'
      ? zip((w, d) => w * kept - d, state.weight, change)
      : zip((w, d) => (w - d) * kept, state.weight, change);
  return { weight, m, v, norm: length / l };
}

function channelNorm(x: Matrix, isOf: (row: number, col: number) => boolean): number {
  let sum = 0;
  x.values.forEach((value, at) => {
    if (isOf(Math.floor(at / x.cols), at % x.cols)) sum += value * value;
  });
  return Math.sqrt(sum);
}

// Golden vector (e) of algorithms 10.1: as (a) there, with Fira's residual and its limiter of 1.01.
test('Fira: three steps of the formula gradient end at the published weights', (t) => {
  const want = [
    -0.014520487, -0.112362913, -0.215019673, -0.309270308, -0.403489627, 0.08883269, 0.002001839,
    -0.085829735, -0.187281122, -0.303905171, 0.182648914, 0.107981537, 0.00722403, -0.110468758,
    -0.170148614,
  ];
  tf.tidy(() => {
    const slot = slotOf('fira', 3, 5, 'left', 2);
    const basis = tf.tensor2d(leadingBasis(formulaGradient(3, 5, 0).values, 3, 5, 2)!.basis, [3, 2]);
    const hyper = {
      ...HYPER,
      betas: [0.9, 0.999],
      eps: 1e-6,
      weightDecay: 0,
      semantics: 'galore_torch',
    } as const;
    let weight: Tensor = tensorOf(formulaWeights(3, 5));
    let state = zeroState(slot);
    for (let i = 0; i < 3; i++) {
      const payload = tensorOf(formulaGradient(3, 5, i));
      const numbers = { ...hyper, step: i + 1 };
      ({ weight, state } = ruleFor('fira').step({ slot, weight, payload, state, basis, hyper: numbers }));
    }
    assertClose(t, weight.dataSync(), want, { atol: 2e-6, rtol: 0 }, '(e)');
  });
});

for (const rule of RULES) {
  test(`${rule}: tensors compute what whole f64 matrices compute, for every side and semantics`, (t) => {
    for (const semantics of ['torch', 'galore_torch'] as const) {
      for (const [m, n, side, rank] of [
        [7, 12, 'left', 3],
        [12, 7, 'left', 3],
        [12, 7, 'right', 3],
        [7, 12, 'right', 3],
        [8, 8, 'left', 8],
        [8, 8, 'right', 8],
      ] as const) {
        const slot = slotOf(rule, m, n, side, rank);
        // Not orthonormal, as APOLLO's projections are not.
        const basis = zip((x) => x / Math.sqrt(rank), randomMatrix(...basisShape(slot), 'gaussian'));
        let plain: PlainState = {
          weight: randomMatrix(m, n, 'w'),
          ...(side === 'left'
            ? { m: matrix(rank, n), v: matrix(rank, n) }
            : { m: matrix(m, rank), v: matrix(m, rank) }),
          norm: 0,
        };
        tf.tidy(() => {
          let weight: Tensor = tensorOf(plain.weight);
          let state = zeroState(slot);
          for (let step = 1; step <= 3; step++) {
            const gradient = zip((x) => step * x, randomMatrix(m, n, 'g', step)); // grows: the limiter acts
            const hyper = { ...HYPER, semantics, step };
            plain = plainStep(rule, slot, plain, gradient, basis, hyper);
            const payload = tensorOf(gradient);
            ({ weight, state } = ruleFor(rule).step({
              slot,
              weight,
              payload,
              state,
              basis: tensorOf(basis),
              hyper,
            }));
            const what = `${semantics} ${m} x ${n} ${side} step ${step}`;
            t.true(maxDifference(matrixOf(weight), plain.weight) < 2e-6, `${what}: weight`);
            const norm = (state['norm'] as Tensor).dataSync()[0]!;
            t.true(Math.abs(norm - plain.norm) < 2e-5 * plain.norm, `${what}: ${norm} for ${plain.norm}`);
          }
        });
      }
    }
  });

  test(`${rule}: a step and a change of basis leave no tensors behind but their results`, (t) => {
    const slot = slotOf(rule, 9, 11, 'left', 4);
    const [weight, payload] = [tensorOf(randomMatrix(9, 11, 'w')), tensorOf(randomMatrix(9, 11, 'g'))];
    const basis = tensorOf(orthonormalMatrix(9, 4, 'leak'));
    const state = zeroState(slot);
    assertNoLeak(t, () => flat(ruleFor(rule).step({ slot, weight, payload, state, basis, hyper: HYPER })), 4);
    const change = { oldBasis: basis, newBasis: basis, side: slot.side };
    const carried = {
      slot,
      state,
      change,
      moments: 'transport',
      completedSteps: 3,
      betas: HYPER.betas,
    } as const;
    assertNoLeak(t, () => ({ ...(ruleFor(rule).carry(carried) as Record<string, Tensor>) }), 3);
    tf.dispose([weight, payload, basis]);
    tf.dispose(state as Record<string, Tensor>);
  });

  test(`${rule}: a learning rate of 0 changes nothing but the state`, (t) => {
    const { weight, state } = firstStep(rule, randomMatrix(6, 9, 'g'), { ...HYPER, learningRate: 0 });
    t.deepEqual(weight, randomWeights());
    t.true(state['norm']!.values[0]! > 0);
  });

  test(`${rule}: a zero gradient leaves the weights, and the next step counts as the first for the limiter`, (t) => {
    const { weight, state } = firstStep(rule, matrix(6, 9), { ...HYPER, weightDecay: 0 });
    t.deepEqual(weight, randomWeights());
    t.is(state['norm']!.values[0], 0);
  });

  test(`${rule}: a slot without a basis is updated by AdamW; one whose basis is not there yet is refused`, (t) => {
    tf.tidy(() => {
      const [weight, payload, zeros] = [tf.ones([5]), tf.ones([5]), tf.zeros([5])];
      const plain = { name: 'norm', shape: [5], index: 0, policy: 'dense' } as const;
      const input = { weight, payload, state: { m: zeros, v: zeros }, basis: null, hyper: HYPER };
      const got = ruleFor(rule).step({ ...input, slot: { ...plain, rule } });
      const want = ruleFor('adamw').step({ ...input, slot: { ...plain, rule: 'adamw' } });
      t.deepEqual(got.weight.dataSync(), want.weight.dataSync());
      const slot = slotOf(rule, 6, 9, 'left', 2);
      const [w, state] = [tf.ones([6, 9]), zeroState(slot)];
      const error = t.throws(() =>
        ruleFor(rule).step({ slot, weight: w, payload: w, state, basis: null, hyper: HYPER }),
      );
      t.true(error instanceof TensorShapeError);
      t.is(error?.message, 'mlp.weight is projected but has no basis');
    });
  });
}

/** The weight and state after step 1 of a 6 x 9 slot of rank 2. */
function firstStep(
  rule: Rule,
  gradient: Matrix,
  hyper: Hyperparameters,
): { readonly weight: Matrix; readonly state: Record<string, Matrix> } {
  return untidied(() => {
    const slot = slotOf(rule, 6, 9, 'left', 2);
    const [weight, payload] = [tensorOf(randomMatrix(6, 9, 'first')), tensorOf(gradient)];
    const basis: Tensor2D = tensorOf(orthonormalMatrix(6, 2, 'first'));
    const input = { slot, weight, payload, state: zeroState(slot), basis, hyper: { ...hyper, step: 1 } };
    const next = ruleFor(rule).step(input);
    const state = Object.entries(next.state).map(([kind, value]) => [kind, matrixOf(value as Tensor)]);
    return { weight: matrixOf(next.weight), state: Object.fromEntries(state) as Record<string, Matrix> };
  });
}

/** The weights `firstStep` starts from, as f32 holds them. */
function randomWeights(): Matrix {
  return untidied(() => matrixOf(tensorOf(randomMatrix(6, 9, 'first'))));
}

/** Runs `body` in a scope whose tensors are disposed, and returns what it made of them. */
function untidied<T>(body: () => T): T {
  let result: { readonly value: T } | undefined;
  tf.tidy(() => {
    result = { value: body() };
  });
  return result!.value;
}

function flat({ weight, state }: { weight: Tensor; state: RuleState }): Record<string, Tensor> {
  return { ...(state as Record<string, Tensor>), weight };
}

test('the direction of APOLLO is the gradient: per channel it only changes its length, in Mini not even that', (t) => {
  const gradient = randomMatrix(6, 9, 'direction');
  const start = randomWeights();
  const changeOf = (rule: Rule) =>
    zip(
      (w, x) => w - x,
      start,
      firstStep(rule, gradient, { ...HYPER, weightDecay: 0, learningRate: 1 }).weight,
    );
  const ratios = zip((d, g) => d / g, changeOf('apollo'), gradient);
  for (let j = 0; j < 9; j++) {
    for (let i = 1; i < 6; i++) t.true(Math.abs(ratios.values[i * 9 + j]! / ratios.values[j]! - 1) < 1e-3);
  }
  const one = zip((d, g) => d / g, changeOf('apollo-mini'), gradient);
  for (const ratio of one.values) t.true(Math.abs(ratio / one.values[0]! - 1) < 1e-3);
  t.true(Math.abs(ratios.values[1]! / ratios.values[0]! - 1) > 0.01, 'channels differ');
});

test('what Fira adds to GaLore lies outside the subspace when alpha is 1', (t) => {
  // G - PP'G has no part in span(P), and a scale per column keeps it so.
  const { weight } = firstStep('fira', randomMatrix(6, 9, 'g'), { ...HYPER, weightDecay: 0, scale: 1 });
  const galore = untidied(() => {
    const basis = tensorOf(orthonormalMatrix(6, 2, 'first'));
    const payload = tf.matMul(basis, tensorOf(randomMatrix(6, 9, 'g')), true, false);
    const zeros = tf.zeros([2, 9]);
    const slot = { ...projectedSlot(6, 9, 'left', 2), rule: 'adamw' } as const;
    const input = {
      slot,
      payload,
      basis,
      weight: tensorOf(randomMatrix(6, 9, 'first')),
      state: { m: zeros, v: zeros },
    };
    const hyper = { ...HYPER, weightDecay: 0, scale: 1, step: 1 };
    return matrixOf(ruleFor('adamw').step({ ...input, hyper }).weight);
  });
  const added = zip((a, b) => a - b, weight, galore);
  t.true(squaredNorm(added) > 1e-4);
  const inside = multiply(transpose(orthonormalMatrix(6, 2, 'first')), added);
  t.true(inside.values.every((x) => Math.abs(x) < 1e-6));
});

test('the norm of an update grows by the limit at most, and falls freely', (t) => {
  tf.tidy(() => {
    const limited = (norm: number, previous: number) => {
      const { factor, norm: kept } = limitGrowth(tf.tensor1d([norm]), tf.tensor1d([previous]), 1.25);
      return [factor.dataSync()[0]!, kept.dataSync()[0]!];
    };
    t.deepEqual(limited(8, 0), [1, 8]); // the first
    assertClose(t, limited(8, 4), [0.625, 5], { atol: 1e-6, rtol: 0 }, 'l = 2 / 1.25');
    assertClose(t, limited(4.8, 4), [1, 4.8], { atol: 1e-6, rtol: 0 }, 'growth 1.2 is allowed');
    assertClose(t, limited(0.1, 4), [1, 0.1], { atol: 1e-6, rtol: 0 }, 'a fall is');
    t.deepEqual(limited(0, 4), [1, 0]);
    t.deepEqual(limited(1e38, 0), [1, Math.fround(1e38)]); // norm / 1e-8 overflows and is not used
  });
  const [norm, previous] = [tf.tensor1d([2]), tf.tensor1d([1])];
  assertNoLeak(t, () => ({ ...limitGrowth(norm, previous, 1.01) }), 2);
  tf.dispose([norm, previous]);
});
