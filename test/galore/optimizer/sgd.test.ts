import test from 'ava';
import { TensorShapeError } from '../../../src/errors.ts';
import { multiply, transpose } from '../../../src/galore/matrix.ts';
import { sgdRule } from '../../../src/galore/optimizer/sgd.ts';
import { tensorsOf } from '../../../src/galore/optimizer/rule.ts';
import type { MomentsRule } from '../../../src/galore/projection/transport.ts';
import type { ProjectedSlot, Slot } from '../../../src/galore/slot.ts';
import { assertClose } from '../golden.ts';
import { orthonormalMatrix, projectedSlot, randomMatrix } from '../matrices.ts';
import { HYPER, runRule } from '../run-rule.ts';
import { assertNoLeak, matrixOf, tensorOf, tf, type Tensor } from '../tensors.ts';

const GRADIENTS = [1, 2, 3, 4].map((k) => randomMatrix(6, 6, 'g', k).values);

test('with square bases and scale 1 it is plain SGD, decay, momentum and nesterov included', (t) => {
  const hyper = { learningRate: 0.1, weightDecay: 0.3, nesterov: true, scale: 1 };
  for (const rule of ['sgd', 'sgd-momentum'] as const) {
    const run = (slot: Slot, basis?: ArrayLike<number>) =>
      runRule({
        slot,
        weights: randomMatrix(6, 6, 'w').values,
        gradients: GRADIENTS,
        hyper: () => hyper,
        basis: (step) => (step === 1 ? basis : undefined),
      });
    const plain = run({ name: 'w', shape: [6, 6], index: 0, policy: 'dense', rule });
    const u = orthonormalMatrix(6, 6, 'u').values;
    const both = [...u, ...orthonormalMatrix(6, 6, 'v').values];
    const projected = { ...projectedSlot(6, 6, 'left', 6), rule };
    for (const [how, slot, basis] of [
      ['left', projected, u],
      ['right', { ...projected, side: 'right' }, u],
      ['two-sided', { ...projected, policy: 'two-sided' }, both],
    ] as const) {
      run(slot, basis).weights.forEach((got, i) =>
        assertClose(t, got, plain.weights[i]!, { atol: 5e-6, rtol: 0 }, `${rule} ${how} step ${i}`),
      );
    }
  }
});

test('decay and momentum of a projected slot by hand', (t) => {
  // W = (3, 5)', basis (1, 0)', G = (1, 7)': R = 1, g = R + wd P'W = 1 + 0.5 * 3 = 2.5.
  // Step 1: M = 2.5, W1 = 3 - 0.1 * 0.25 * 2.5 = 2.9375. Step 2: g = 1 + 1.46875, M = 0.9 * 2.5 + g = 4.71875,
  // W1 = 2.9375 - 0.025 * 4.71875 = 2.81953125. The second row is outside the subspace and stays.
  const slot = { ...projectedSlot(2, 1, 'left', 1), rule: 'sgd-momentum' as const };
  const { weights, state } = runRule({
    slot,
    weights: [3, 5],
    gradients: [
      [1, 7],
      [1, 7],
    ],
    hyper: () => ({ learningRate: 0.1, weightDecay: 0.5 }),
    basis: (step) => (step === 1 ? [1, 0] : undefined),
  });
  assertClose(t, weights[0]!, [2.9375, 5], { atol: 1e-6, rtol: 0 }, 'step 1');
  assertClose(t, weights[1]!, [2.81953125, 5], { atol: 1e-6, rtol: 0 }, 'step 2');
  assertClose(t, state['m']!, [4.71875], { atol: 1e-6, rtol: 0 }, 'momentum');
});

test('a refresh moves the momentum as the rule says, and plain SGD has nothing to move', (t) => {
  const slot: ProjectedSlot = { ...projectedSlot(8, 5, 'left', 3), rule: 'sgd-momentum' };
  const m = randomMatrix(3, 5, 'm');
  const [oldBasis, newBasis] = [orthonormalMatrix(8, 3, 'old'), orthonormalMatrix(8, 4, 'new')];
  const turned = multiply(multiply(transpose(newBasis), oldBasis), m);
  tf.tidy(() => {
    const change = { oldBasis: tensorOf(oldBasis), newBasis: tensorOf(newBasis), side: 'left' as const };
    const carry = (moments: MomentsRule, rank: 3 | 4 = 4, completedSteps: number = 5) =>
      matrixOf(
        sgdRule.carry({
          slot,
          state: { m: tensorOf(m) },
          change: rank === 4 ? change : { ...change, newBasis: change.oldBasis },
          moments,
          completedSteps,
          betas: HYPER.betas,
        })['m'] as Tensor,
      );
    for (const rule of ['rotate', 'transport', 'adarank'] as const) {
      assertClose(t, carry(rule).values, turned.values, { atol: 1e-6, rtol: 0 }, rule);
      t.true(carry(rule, 4, 0).values.every((x) => x === 0));
    }
    t.deepEqual([carry('reset').rows, carry('reset').cols], [4, 5]);
    t.true(carry('reset').values.every((x) => x === 0));
    assertClose(t, carry('keep', 3).values, m.values, { atol: 1e-7, rtol: 0 }, 'keep');
    t.throws(() => carry('keep'), { instanceOf: TensorShapeError });
    const input = {
      slot,
      state: {},
      change,
      moments: 'keep' as const,
      completedSteps: 5,
      betas: HYPER.betas,
    };
    t.deepEqual(sgdRule.carry(input), {});
  });
});

test('steps and refreshes leave no tensors behind but their results', (t) => {
  const slot: ProjectedSlot = { ...projectedSlot(8, 5, 'left', 3), rule: 'sgd-momentum' };
  const [weight, payload] = [tf.ones([8, 5]), tf.ones([3, 5])];
  const basis = tensorOf(orthonormalMatrix(8, 3, 'leak'));
  const change = { oldBasis: basis, newBasis: basis, side: 'left' as const };
  for (const weightDecay of [0, 0.1]) {
    for (const state of [{}, { m: payload }]) {
      const results = tensorsOf(state).length;
      const hyper = { ...HYPER, weightDecay, nesterov: true };
      const step = () => sgdRule.step({ slot, weight, payload, state, basis: basis, hyper });
      assertNoLeak(
        t,
        () => {
          const next = step();
          return [next.weight, ...tensorsOf(next.state)];
        },
        1 + results,
      );
      for (const moments of ['keep', 'reset', 'transport'] as const) {
        const input = { slot, state, change, moments, completedSteps: 5, betas: HYPER.betas };
        assertNoLeak(t, () => tensorsOf(sgdRule.carry(input)), results);
      }
    }
  }
});
