import test from 'ava';
import { matrix, multiply, transpose, zip, type Matrix } from '../../../src/galore/matrix.ts';
import { polarFactor } from '../../../src/galore/optimizer/polar-factor.ts';
import { ruleState } from '../../../src/galore/optimizer/rule-state.ts';
import type { Hyperparameters, RuleState } from '../../../src/galore/optimizer/rule.ts';
import { ruleFor } from '../../../src/galore/optimizer/rules.ts';
import { symmetricEigen } from '../../../src/galore/optimizer/symmetric-eigen.ts';
import type { MomentsRule } from '../../../src/galore/projection/transport.ts';
import type { ProjectedSlot, Side } from '../../../src/galore/slot.ts';
import { derive, randomNormal } from '../../../src/random.ts';
import { OTHER_RULES } from '../apply-update.ts';
import {
  maxDifference,
  orthonormalityError,
  orthonormalMatrix,
  projectedSlot,
  randomMatrix,
  squaredNorm,
} from '../matrices.ts';
import { assertNoLeak, matrixOf, tensorOf, tf, type Tensor } from '../tensors.ts';

const HYPER: Hyperparameters = {
  ...OTHER_RULES,
  step: 1,
  learningRate: 0.01,
  betas: [0.9, 0.99],
  eps: 1e-8,
  weightDecay: 0,
  semantics: 'torch',
  scale: 0.25,
  momentum: 0.95,
  limiter: 1.1,
};

function slotOf(m: number, n: number, side: Side, rank: number): ProjectedSlot {
  return { ...projectedSlot(m, n, side, rank), rule: 'sumo' };
}

/** U diag(spectrum) V' and its polar factor U V', both `[rows, cols]` with rows <= cols. */
function withPolarFactor(rows: number, cols: number, spectrum: readonly number[], label: string) {
  const u = orthonormalMatrix(rows, spectrum.length, 'u', label);
  const v = transpose(orthonormalMatrix(cols, spectrum.length, 'v', label));
  const scaled = matrix(rows, spectrum.length, u.values);
  scaled.values.forEach((x, i) => (scaled.values[i] = x * spectrum[i % spectrum.length]!));
  return { x: multiply(scaled, v), factor: multiply(u, v) };
}

function polar(x: Matrix): Matrix {
  const result = polarFactor(tensorOf(x));
  const values = matrixOf(result);
  result.dispose();
  return values;
}

test('eigenvectors are orthonormal and put the matrix together again', (t) => {
  for (const size of [1, 2, 3, 17, 40]) {
    const half = randomMatrix(size, size + 3, 'eigen');
    const a = multiply(half, transpose(half));
    const { values, vectors } = symmetricEigen(Float64Array.from(a.values), size);
    const rows = matrix(size, size, vectors);
    t.true(orthonormalityError(transpose(rows)) < 1e-13, `${size}`);
    const scaled = matrix(size, size, vectors);
    scaled.values.forEach((x, at) => (scaled.values[at] = x * values[Math.floor(at / size)]!));
    t.true(maxDifference(multiply(transpose(rows), scaled), a) < 1e-12 * size * size, `${size}`);
  }
});

test('eigenvalues of special matrices: diagonal, zero, multiple, and both signs', (t) => {
  const sorted = (a: readonly number[], size: number) =>
    Array.from(symmetricEigen(Float64Array.from(a), size).values, (x) => Math.round(x * 1e12) / 1e12).sort();
  t.deepEqual(sorted([3, 0, 0, 0, 1, 0, 0, 0, 2], 3), [1, 2, 3]);
  t.deepEqual(
    sorted(
      Array.from({ length: 16 }, () => 0),
      4,
    ),
    [0, 0, 0, 0],
  );
  t.deepEqual(sorted([1, 1, 1, 1, 1, 1, 1, 1, 1], 3).map(Math.abs), [0, 0, 3]); // of rank 1
  t.deepEqual(sorted([0, 2, 2, 0], 2), [-2, 2]);
});

test('a matrix of low rank, most of which is rounding, converges', (t) => {
  // Moments of a step of few tokens: XX' of f32 numbers, 128 x 128, of rank 2 or 3.
  const size = 128;
  for (const rank of [2, 3]) {
    for (let seed = 0; seed < 6; seed++) {
      const key = derive(seed, 'low rank', rank);
      const scale = 10 ** (-5 * seed);
      const numbers = Float32Array.from({ length: size * 32 }, (_, i) => {
        const [row, column] = [Math.floor(i / 32), i % 32];
        const terms = Array.from(
          { length: rank },
          (_, k) =>
            1e-3 ** k * randomNormal(key, row * rank + k) * randomNormal(key, 1e6 + column * rank + k),
        );
        return scale * terms.reduce((sum, term) => sum + term, 0);
      });
      const x = matrix(size, 32, Float64Array.from(numbers));
      const a = multiply(x, transpose(x));
      const { values } = symmetricEigen(Float64Array.from(a.values), size);
      const trace = values.reduce((sum, value) => sum + value, 0);
      t.true(Math.abs(trace / squaredNorm(x) - 1) < 1e-12, `${rank} ${seed}`);
    }
  }
});

test('the polar factor is UV for singular values of six orders of magnitude, wide and tall', (t) => {
  for (const [spectrum, tolerance] of [
    [[1, 1, 1, 1, 1, 1], 1e-6],
    [[5, 4, 3, 2, 1, 0.5], 2e-6],
    [[1e3, 1e2, 10, 1, 0.1], 2e-3], // x itself is rounded to f32: 1e-7 of the largest is 1e-3 of the least
    [[1e-12, 5e-13, 1e-13], 2e-6],
    [[1e12, 1e11], 1e-5],
  ] as const) {
    const { x, factor } = withPolarFactor(6, 15, spectrum, `${spectrum.length}`);
    const wide = maxDifference(polar(x), factor);
    const tall = maxDifference(polar(transpose(x)), transpose(factor));
    t.true(wide < tolerance && tall < tolerance, `${spectrum.join()}: ${wide}, ${tall}`);
  }
});

test('directions that are not there stay zero', (t) => {
  const { x, factor } = withPolarFactor(5, 9, [7], 'one');
  t.true(maxDifference(polar(x), factor) < 1e-5);
  t.true(Math.abs(squaredNorm(polar(x)) - 1) < 1e-5);
  t.deepEqual(polar(matrix(3, 4)), matrix(3, 4));
});

test('a number that is not finite is refused, not spread', (t) => {
  const bad = tf.tensor2d([1, 2, NaN, 4], [2, 2]);
  t.throws(() => polarFactor(bad), { instanceOf: RangeError, message: 'row 1 of a matrix is not finite' });
  bad.dispose();
});

interface Plain {
  readonly weight: Matrix;
  readonly m: Matrix;
  readonly norm: number;
}

function run(
  slot: ProjectedSlot,
  start: Matrix,
  payloads: readonly Matrix[],
  basis: Matrix,
  hyper = HYPER,
): Plain[] {
  const results: Plain[] = [];
  tf.tidy(() => {
    let weight: Tensor = tensorOf(start);
    let state: RuleState = Object.fromEntries(
      ruleState(slot).map(({ kind, shape }) => [kind, tf.zeros([...shape])]),
    );
    payloads.forEach((payload, i) => {
      const numbers = { ...hyper, step: i + 1 };
      const input = { slot, weight, payload: tensorOf(payload), state, basis: tensorOf(basis) };
      ({ weight, state } = ruleFor('sumo').step({ ...input, hyper: numbers }));
      const { m, norm } = state as Record<'m' | 'norm', Tensor>;
      results.push({ weight: matrixOf(weight), m: matrixOf(m), norm: norm.dataSync()[0]! });
    });
  });
  return results;
}

test('a step turns the momentum into U V, scales it by lr alpha sqrt(max(m, n)) and lifts it', (t) => {
  for (const side of ['left', 'right'] as const) {
    const [m, n] = side === 'left' ? [8, 20] : [20, 8];
    const slot = slotOf(m, n, side, 3);
    const basis = orthonormalMatrix(8, 3, 'basis');
    const { x, factor } = withPolarFactor(3, 20, [4, 2, 1], 'step');
    const upright = (a: Matrix) => (side === 'left' ? a : transpose(a));
    const start = randomMatrix(m, n, 'w');
    const hyper = { ...HYPER, weightDecay: 2 };
    const [first] = run(slot, start, [upright(x)], basis, hyper);
    const lifted = upright(multiply(basis, factor));
    const want = zip((w, d) => w * 0.98 - 0.01 * 0.25 * Math.sqrt(20) * d, start, lifted);
    t.true(maxDifference(first!.weight, want) < 1e-6, side);
    t.true(maxDifference(first!.m, upright(x)) < 1e-6);
    t.true(Math.abs(first!.norm - Math.sqrt(3 * 20)) < 1e-4);
  }
});

test('momentum gathers gradients: M = mu M + R, without 1 - mu', (t) => {
  const slot = slotOf(8, 20, 'left', 3);
  const payloads = [1, 2, 3].map((i) => randomMatrix(3, 20, 'momentum', i));
  let momentum = matrix(3, 20);
  const results = run(slot, matrix(8, 20), payloads, orthonormalMatrix(8, 3, 'basis'));
  results.forEach(({ m }, i) => {
    momentum = zip((old, r) => 0.95 * old + r, momentum, payloads[i]!);
    t.true(maxDifference(m, momentum) < 1e-6, `step ${i + 1}`);
  });
});

test('the length of an update grows by the limit at most', (t) => {
  // A momentum of rank 1, then of rank 3: the update would grow by sqrt(3), and may by 1.1.
  const slot = slotOf(8, 20, 'left', 3);
  const payloads = [withPolarFactor(3, 20, [1], 'thin').x, randomMatrix(3, 20, 'full')];
  const [thin, full] = run(slot, matrix(8, 20), payloads, orthonormalMatrix(8, 3, 'basis'));
  t.true(Math.abs(thin!.norm - Math.sqrt(20)) < 1e-4);
  t.true(Math.abs(full!.norm - 1.1 * Math.sqrt(20)) < 1e-4);
  const moved = zip((a, b) => a - b, full!.weight, thin!.weight);
  t.true(Math.abs(Math.sqrt(squaredNorm(moved)) - 0.01 * 0.25 * full!.norm) < 1e-6);
});

test('a zero gradient from the start leaves the weights; the length of the update does not depend on the gradient', (t) => {
  const slot = slotOf(8, 20, 'left', 3);
  const start = randomMatrix(8, 20, 'w');
  const basis = orthonormalMatrix(8, 3, 'basis');
  const [still] = run(slot, start, [matrix(3, 20)], basis);
  t.true(maxDifference(still!.weight, start) < 1e-6);
  const payload = randomMatrix(3, 20, 'g');
  const [small] = run(slot, start, [zip((x) => 1e-9 * x, payload)], basis);
  const [large] = run(slot, start, [zip((x) => 1e6 * x, payload)], basis);
  t.true(maxDifference(small!.weight, large!.weight) < 1e-6);
});

test('a new basis takes the momentum along as the rule of the moments says: C M, zeros, or the same numbers', (t) => {
  const [oldBasis, newBasis] = [orthonormalMatrix(8, 3, 'old'), orthonormalMatrix(8, 3, 'new')];
  const m = randomMatrix(3, 20, 'm');
  const carried = (moments: MomentsRule): { m: Matrix; norm: number } => {
    let result = { m, norm: 0 };
    tf.tidy(() => {
      const change = { oldBasis: tensorOf(oldBasis), newBasis: tensorOf(newBasis), side: 'left' } as const;
      const state = { m: tensorOf(m), norm: tf.tensor1d([5]) };
      const slot = slotOf(8, 20, 'left', 3);
      const next = ruleFor('sumo').carry({
        slot,
        state,
        change,
        moments,
        completedSteps: 4,
        betas: HYPER.betas,
      });
      const { m: moved, norm } = next as Record<'m' | 'norm', Tensor>;
      result = { m: matrixOf(moved), norm: norm.dataSync()[0]! };
    });
    return result;
  };
  const turned = multiply(multiply(transpose(newBasis), oldBasis), m);
  t.true(maxDifference(carried('transport').m, turned) < 1e-6);
  t.true(maxDifference(carried('keep').m, m) < 1e-6);
  t.deepEqual(carried('reset').m, matrix(3, 20));
  t.is(carried('transport').norm, 5);
});

test('a step and a change of basis leave no tensors behind but their results', (t) => {
  const slot = slotOf(9, 11, 'left', 4);
  const [weight, payload] = [tensorOf(randomMatrix(9, 11, 'w')), tensorOf(randomMatrix(4, 11, 'g'))];
  const basis = tensorOf(orthonormalMatrix(9, 4, 'leak'));
  const state = { m: payload, norm: tf.zeros([1]) };
  assertNoLeak(
    t,
    () => {
      const next = ruleFor('sumo').step({ slot, weight, payload, state, basis, hyper: HYPER });
      return { ...(next.state as Record<string, Tensor>), weight: next.weight };
    },
    3,
  );
  const change = { oldBasis: basis, newBasis: basis, side: slot.side };
  const carried = {
    slot,
    state,
    change,
    moments: 'transport',
    completedSteps: 3,
    betas: HYPER.betas,
  } as const;
  assertNoLeak(t, () => ({ ...(ruleFor('sumo').carry(carried) as Record<string, Tensor>) }), 2);
  assertNoLeak(t, () => ({ factor: polarFactor(payload) }), 1);
  tf.dispose([weight, payload, basis, state.norm]);
});
