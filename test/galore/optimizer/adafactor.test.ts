import test from 'ava';
import fc from 'fast-check';
import { TensorShapeError } from '../../../src/errors.ts';
import {
  adafactorDirection,
  adafactorRule,
  adafactorSecond,
} from '../../../src/galore/optimizer/adafactor.ts';
import { ruleState } from '../../../src/galore/optimizer/rule-state.ts';
import { tensorsOf, type RuleState } from '../../../src/galore/optimizer/rule.ts';
import type { MomentsRule } from '../../../src/galore/projection/transport.ts';
import type { ProjectedSlot, Side, Slot } from '../../../src/galore/slot.ts';
import { matrix, multiply, transpose, type Matrix } from '../../../src/galore/matrix.ts';
import { assertClose } from '../golden.ts';
import { orthonormalMatrix, projectedSlot, randomMatrix } from '../matrices.ts';
import { firstState } from '../../../src/galore/optimizer/rules.ts';
import { HYPER, runRule, valuesOf } from '../run-rule.ts';
import { assertNoLeak, tensorOf, tf } from '../tensors.ts';

const OPTIONS = HYPER.adafactor;
const MOVING = ['rotate', 'transport', 'adarank'] as const;

function f32(values: ArrayLike<number>): Float32Array {
  return Float32Array.from(values);
}

function mean(values: ArrayLike<number>): number {
  return Array.from(values).reduce((sum, x) => sum + x, 0) / values.length;
}

/** The factors after a refresh of a slot whose factors were `row` and `col`. */
function carried(
  slot: ProjectedSlot,
  row: ArrayLike<number>,
  col: ArrayLike<number>,
  oldBasis: Matrix,
  newBasis: Matrix,
  moments: MomentsRule,
  completedSteps: number = 5,
): { row: ArrayLike<number>; col: ArrayLike<number> } {
  let values: Record<string, ArrayLike<number>> = {};
  tf.tidy(() => {
    const state = { v_row: tf.tensor1d(f32(row)), v_col: tf.tensor1d(f32(col)) };
    const change = { oldBasis: tensorOf(oldBasis), newBasis: tensorOf(newBasis), side: slot.side };
    const input = { slot, state, change, moments, completedSteps, betas: HYPER.betas };
    values = valuesOf(adafactorRule.carry(input));
  });
  return { row: values['v_row']!, col: values['v_col']! };
}

/** Positive factors with the same mean, of R [r, n] or [m, r]. */
function factors(side: Side, rank: number, other: number): { row: Float32Array; col: Float32Array } {
  const projected = f32(randomMatrix(1, rank, 'projected').values.map((x) => 0.1 + x * x));
  const rest = f32(randomMatrix(1, other, 'other').values.map((x) => 0.1 + x * x));
  const scale = mean(projected) / mean(rest);
  const [short, long] = [projected, rest.map((x) => x * scale)];
  return side === 'left' ? { row: short, col: long } : { row: long, col: short };
}

test('the factors of a matrix and its direction by hand', (t) => {
  // t = 1: b = 0. G o G = ((1, 4), (9, 16)): rows 2.5, 12.5, columns 5, 10; mean(row) = 7.5.
  const gradient = Float32Array.of(1, -2, 3, 4);
  const zeros = { row: new Float32Array(2), col: new Float32Array(2) };
  const second = adafactorSecond(gradient, zeros, { step: 1, adafactor: OPTIONS });
  t.deepEqual(second, { row: Float32Array.of(2.5, 12.5), col: Float32Array.of(5, 10) });
  // U_ij = g / sqrt(row_i / 7.5 col_j): 1/sqrt(5/3), -2/sqrt(10/3), 3/sqrt(25/3), 4/sqrt(50/3).
  const u = [1 / Math.sqrt(5 / 3), -2 / Math.sqrt(10 / 3), 3 / Math.sqrt(25 / 3), 4 / Math.sqrt(50 / 3)];
  const rms = Math.sqrt(mean(u.map((x) => x * x))); // 0.9899: not clipped at 1, but at 0.5
  const direction = adafactorDirection(gradient, second, OPTIONS, 0.01);
  assertClose(
    t,
    direction,
    u.map((x) => 0.01 * x),
    { atol: 1e-8, rtol: 0 },
    'direction',
  );
  const clipped = adafactorDirection(gradient, second, { clip_threshold: 0.5 }, 0.01);
  assertClose(
    t,
    clipped,
    u.map((x) => (0.01 * x * 0.5) / rms),
    { atol: 1e-8, rtol: 0 },
    'clipped',
  );
  // t = 4, decay -0.5: b = 1 - 1/2. Half of the old, half of the new.
  const decayed = adafactorSecond(gradient, second, { step: 4, adafactor: { ...OPTIONS, decay_rate: -0.5 } });
  t.deepEqual(decayed, second);
});

test('a vector keeps its whole second moment', (t) => {
  // b = 0 in step 1: V = g^2, U = sign(g) (rms 1). In step 2, b = 1 - 2^-0.8.
  const slot: Slot = { name: 'norm', shape: [3], index: 0, policy: 'dense', rule: 'adafactor' };
  const gradients = [
    [2, -3, 4],
    [1, 1, 1],
  ];
  const { weights, state } = runRule({ slot, weights: [0, 0, 0], gradients, hyper: () => ({}) });
  assertClose(t, weights[0]!, [-0.01, 0.01, -0.01], { atol: 1e-8, rtol: 0 }, 'step 1');
  const fresh = 2 ** -0.8;
  const want = [4, 9, 16].map((v) => (1 - fresh) * v + fresh);
  assertClose(t, state['v']!, want, { atol: 1e-6, rtol: 0 }, 'second moment');
});

test('relative_step takes min(0.01, 1/sqrt(t)) for the rate, scale_parameter the size of the weights', (t) => {
  // One number, V = g^2 in step 1: U = 1. rms(W) = 5; below eps2 = 2 it is 2.
  const slot: Slot = { name: 'norm', shape: [1], index: 0, policy: 'dense', rule: 'adafactor' };
  const moved = (weight: number, steps: number, options: Partial<typeof OPTIONS>): number => {
    const { weights } = runRule({
      slot,
      weights: [weight],
      gradients: Array.from({ length: steps }, () => [3]),
      hyper: () => ({ learningRate: 0.1, adafactor: { ...OPTIONS, ...options } }),
    });
    return (steps === 1 ? weight : weights[steps - 2]![0]!) - weights[steps - 1]![0]!;
  };
  const near = (got: number, want: number) => t.true(Math.abs(got - want) < 2e-6, `${got} is not ${want}`);
  near(moved(5, 1, {}), 0.1);
  near(moved(5, 1, { relative_step: true }), 0.01);
  near(moved(5, 1, { relative_step: true, scale_parameter: true }), 0.05);
  near(moved(1, 1, { scale_parameter: true, eps: [1e-30, 2] }), 0.2);
});

test('the root mean square of a direction is at most the rate times the threshold, whatever the gradient', (t) => {
  fc.assert(
    fc.property(
      fc.nat(1000),
      fc.integer({ min: 1, max: 300 }),
      fc.double({ min: 0.1, max: 3, noNaN: true }),
      (seed, step, clip) => {
        const gradient = f32(randomMatrix(5, 7, 'clip', seed).values.map((x) => x ** 5));
        const old = { row: new Float32Array(5).fill(1e-3), col: new Float32Array(7).fill(1e-3) };
        const second = adafactorSecond(gradient, old, { step, adafactor: OPTIONS });
        const direction = adafactorDirection(gradient, second, { clip_threshold: clip }, 0.01);
        return Math.sqrt(mean(direction.map((x) => x * x))) <= 0.01 * clip * (1 + 1e-5);
      },
    ),
  );
  t.pass();
});

test('a gradient of zero moves nothing, even with an eps that f32 does not know', (t) => {
  for (const eps of [1e-30, 1e-60]) {
    for (const shape of [[4, 3], [3]]) {
      const slot: Slot = { name: 'w', shape, index: 0, policy: 'dense', rule: 'adafactor-momentum' };
      const weights = new Float32Array(shape.reduce((a, b) => a * b)).fill(1);
      const adafactor = { ...OPTIONS, beta1: 0.9, eps: [eps, 1e-3] as const };
      const run = runRule({ slot, weights, gradients: [weights.map(() => 0)], hyper: () => ({ adafactor }) });
      t.deepEqual(run.weights[0], weights);
    }
  }
});

test('an unchanged basis leaves the factors as they are, and one turned within its span keeps their means', (t) => {
  for (const side of ['left', 'right'] as const) {
    const slot = projectedSlot(side === 'left' ? 12 : 9, side === 'left' ? 9 : 12, side, 4);
    const { row, col } = factors(side, 4, 9);
    const basis = orthonormalMatrix(12, 4, 'basis');
    const rotated = multiply(basis, orthonormalMatrix(4, 4, 'rotation'));
    for (const rule of MOVING) {
      const same = carried(slot, row, col, basis, basis, rule);
      assertClose(t, same.row, row, { atol: 0, rtol: 1e-5 }, `${side} ${rule} row`);
      assertClose(t, same.col, col, { atol: 0, rtol: 1e-5 }, `${side} ${rule} column`);
      // A rotation's squared overlaps sum to one in both directions: the sum of the variances stays.
      const turned = carried(slot, row, col, basis, rotated, rule);
      t.true(Math.abs(mean(turned.row) / mean(row) - 1) < 1e-5, `${side} ${rule}`);
      t.true(Math.abs(mean(turned.col) / mean(col) - 1) < 1e-5, `${side} ${rule}`);
    }
  }
});

test('new directions stay between the smallest and the largest of the old, and both factors keep one mean', (t) => {
  fc.assert(
    fc.property(
      fc.nat(1000),
      fc.integer({ min: 1, max: 7 }),
      fc.constantFrom('left', 'right'),
      (seed, rank, side) => {
        const slot = projectedSlot(side === 'left' ? 12 : 9, side === 'left' ? 9 : 12, side as Side, 4);
        const { row, col } = factors(side as Side, 4, 9);
        const oldBasis = orthonormalMatrix(12, 4, 'old', seed);
        const got = carried(slot, row, col, oldBasis, orthonormalMatrix(12, rank, 'new', seed), 'transport');
        const [before, after] = side === 'left' ? [row, got.row] : [col, got.col];
        const [least, most] = [Math.min(...before), Math.max(...before)];
        return (
          after.length === rank &&
          Array.from(after).every((x) => x >= least * (1 - 1e-4) && x <= most * (1 + 1e-4)) &&
          Math.abs(mean(got.row) / mean(got.col) - 1) < 1e-4
        );
      },
    ),
    { numRuns: 40 },
  );
  t.pass();
});

test('what lies outside the old subspace takes the mean of its directions', (t) => {
  // The old basis is the first two unit vectors with variances 1 and 3, the new one the second and the third.
  const unit = (...at: number[]) =>
    transpose(
      matrix(
        at.length,
        4,
        at.flatMap((k) => [0, 1, 2, 3].map((i) => (i === k ? 1 : 0))),
      ),
    );
  const slot = projectedSlot(4, 2, 'left', 2);
  const got = carried(slot, [1, 3], [1, 3], unit(0, 1), unit(1, 2), 'rotate');
  assertClose(t, got.row, [3, 2], { atol: 1e-6, rtol: 0 }, 'row'); // 3 as it was, 2 the mean
  assertClose(t, got.col, [1.25, 3.75], { atol: 1e-6, rtol: 0 }, 'column'); // their mean rises from 2 to 2.5
});

test('both factors of a core turn, each with its own basis', (t) => {
  const slot: ProjectedSlot = { ...projectedSlot(7, 5, 'left', 2), policy: 'two-sided' };
  const stack = (...labels: string[]) =>
    matrix(12, 2, [
      ...orthonormalMatrix(7, 2, labels[0]!).values,
      ...orthonormalMatrix(5, 2, labels[1]!).values,
    ]);
  const [row, col] = [
    [1, 3],
    [0.5, 3.5],
  ];
  const kept = carried(slot, row, col, stack('u', 'v'), stack('u', 'v'), 'transport');
  assertClose(
    t,
    [...Array.from(kept.row), ...Array.from(kept.col)],
    [...row, ...col],
    { atol: 1e-5, rtol: 0 },
    'kept',
  );
  const right = carried(slot, row, col, stack('u', 'v'), stack('u', 'w'), 'transport');
  const growth = mean(right.row) / mean(row);
  assertClose(
    t,
    right.row,
    row.map((x) => x * growth),
    { atol: 1e-5, rtol: 0 },
    'only the mean of the rows moves',
  );
  t.true(Math.abs(mean(right.row) - mean(right.col)) < 1e-5);
});

test('keep keeps the factors and refuses another rank; reset and the time before the first step give zeros', (t) => {
  const slot = projectedSlot(12, 9, 'left', 4);
  const { row, col } = factors('left', 4, 9);
  const [old, grown] = [orthonormalMatrix(12, 4, 'old'), orthonormalMatrix(12, 5, 'new')];
  t.deepEqual(carried(slot, row, col, old, orthonormalMatrix(12, 4, 'new'), 'keep'), { row, col });
  t.throws(() => carried(slot, row, col, old, grown, 'keep'), { instanceOf: TensorShapeError });
  const zeros = { row: new Float32Array(5), col: new Float32Array(9) };
  t.deepEqual(carried(slot, row, col, old, grown, 'reset'), zeros);
  t.deepEqual(carried(slot, row, col, old, grown, 'transport', 0), zeros);
});

test('without momentum the state of a matrix is one number a row and one a column', (t) => {
  const slot: Slot = { ...projectedSlot(512, 2048, 'left', 128), rule: 'adafactor' };
  const count = ruleState(slot).reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b), 0);
  t.is(count, 128 + 2048);
});

test('steps and refreshes leave no tensors behind but their results', (t) => {
  const basis = tensorOf(orthonormalMatrix(8, 3, 'leak'));
  const [weight, payload] = [tf.ones([8, 5]), tf.ones([3, 5])];
  for (const rule of ['adafactor', 'adafactor-momentum'] as const) {
    const slot: ProjectedSlot = { ...projectedSlot(8, 5, 'left', 3), rule };
    const state: RuleState = firstState(slot, 0);
    const kinds = tensorsOf(state).length;
    const adafactor = { ...OPTIONS, beta1: 0.9, scale_parameter: true };
    const hyper = { ...HYPER, weightDecay: 0.1, adafactor };
    assertNoLeak(
      t,
      () => {
        const next = adafactorRule.step({ slot, weight, payload, state, basis, hyper });
        return [next.weight, ...tensorsOf(next.state)];
      },
      1 + kinds,
    );
    const change = { oldBasis: basis, newBasis: basis, side: 'left' as const };
    for (const moments of ['keep', 'reset', ...MOVING] as const) {
      const input = { slot, state, change, moments, completedSteps: 5, betas: HYPER.betas };
      assertNoLeak(t, () => tensorsOf(adafactorRule.carry(input)), kinds);
    }
  }
});
