import test, { type ExecutionContext } from 'ava';
import { TensorShapeError } from '../../../src/errors.ts';
import {
  adamw8bitRule,
  adamw8bitStep,
  type EightBitMoments,
} from '../../../src/galore/optimizer/adamw-8bit.ts';
import { biasCorrection } from '../../../src/galore/optimizer/bias-correction.ts';
import {
  blankCodes,
  quantiseSigned,
  quantiseSquares,
  restoreSigned,
  restoreSquares,
} from '../../../src/galore/optimizer/block-quantiser.ts';
import { ruleState, type RuleName } from '../../../src/galore/optimizer/rule-state.ts';
import { tensorsOf, type RuleState } from '../../../src/galore/optimizer/rule.ts';
import { transportMoments, type MomentsRule } from '../../../src/galore/projection/transport.ts';
import { sizeOf, subspaceShape, type ProjectedSlot, type Slot } from '../../../src/galore/slot.ts';
import { derive, randomNormal, randomUniform } from '../../../src/random.ts';
import { assertClose } from '../golden.ts';
import { orthonormalMatrix } from '../matrices.ts';
import { HYPER, runRule, valuesOf } from '../run-rule.ts';
import { assertNoLeak, tensorOf, tf, type Tensor } from '../tensors.ts';

const DENSE: Slot = { name: 'head', shape: [100, 50], index: 0, policy: 'dense', rule: 'adamw-8bit' };
const WIDE: ProjectedSlot = {
  name: 'mlp',
  shape: [64, 300],
  index: 0,
  policy: 'one-sided',
  rule: 'adamw-8bit',
  side: 'left',
  rank: 16,
};

function normals(count: number, ...labels: (string | number)[]): Float32Array {
  const key = derive(4, ...labels);
  return Float32Array.from({ length: count }, (_, i) => randomNormal(key, i));
}

/** Codes as they could be after some steps. */
function someMoments(count: number): EightBitMoments {
  return {
    m: quantiseSigned(normals(count, 'm').map((x) => 0.1 * x)),
    v: quantiseSquares(normals(count, 'v').map((x) => x * x)),
  };
}

function stateOf({ m, v }: EightBitMoments): RuleState {
  return {
    m_codes: m.codes,
    m_scales: tf.tensor1d(m.scales),
    v_codes: v.codes,
    v_scales: tf.tensor1d(v.scales),
  };
}

test('a step is Adam on the restored moments, and its moments are the codes of the new ones', (t) => {
  for (const semantics of ['torch', 'galore_torch'] as const) {
    const count = 1000; // the last block is not full
    const moments = someMoments(count);
    const gradient = normals(count, 'g');
    const options = { ...HYPER, semantics, step: 7, eps: 1e-3 };
    const got = adamw8bitStep(gradient, moments, options, 0.25);
    const [c1, c2] = [biasCorrection(0.9, 7), biasCorrection(0.99, 7)];
    const [oldM, oldV] = [restoreSigned(moments.m), restoreSquares(moments.v)];
    const m = gradient.map((g, i) => 0.9 * oldM[i]! + 0.1 * g);
    const v = gradient.map((g, i) => 0.99 * oldV[i]! + 0.01 * g * g);
    const want = m.map((mi, i) =>
      semantics === 'torch'
        ? (0.25 * 0.01 * (mi / c1)) / (Math.sqrt(v[i]! / c2) + 1e-3)
        : ((0.25 * 0.01 * Math.sqrt(c2)) / c1) * (mi / (Math.sqrt(v[i]!) + 1e-3)),
    );
    assertClose(t, got.direction, want, { atol: 1e-8, rtol: 1e-5 }, semantics);
    t.deepEqual(differences(got.m.codes, quantiseSigned(m).codes), 0);
    t.deepEqual(differences(got.v.codes, quantiseSquares(v).codes), 0);
    assertClose(t, got.m.scales, quantiseSigned(m).scales, { atol: 0, rtol: 1e-6 }, 'scales of M');
    assertClose(t, got.v.scales, quantiseSquares(v).scales, { atol: 0, rtol: 1e-6 }, 'scales of V');
  }
});

function differences(a: Uint8Array, b: Uint8Array): number {
  return a.reduce((count, code, i) => count + (code === b[i] ? 0 : 1), 0);
}

test('equal states and gradients give equal bytes, and the old state is not touched', (t) => {
  const moments = someMoments(5000);
  const before = structuredClone(moments);
  const gradient = normals(5000, 'g');
  t.deepEqual(adamw8bitStep(gradient, moments, HYPER), adamw8bitStep(gradient.slice(), before, HYPER));
  t.deepEqual(moments, before);
  t.deepEqual(gradient, normals(5000, 'g'));
});

test('the first step is exactly that of f32: the state is zero', (t) => {
  const gradient = normals(5000, 'first');
  const [eight, full] = (['adamw-8bit', 'adamw'] as const).map((rule) =>
    runRule({
      slot: { ...DENSE, rule },
      weights: normals(5000, 'w'),
      gradients: [gradient],
      hyper: () => ({ weightDecay: 0.1 }),
    }),
  );
  assertClose(t, eight!.weights[0]!, full!.weights[0]!, { atol: 1e-7, rtol: 1e-6 }, 'weights');
});

// A quadratic with curvatures over three decades within a block and noise of twice the distance in every
// gradient; the loss is that of the point reached, relative to the start.
test('noisy descent ends within two per cent of the loss that f32 moments reach', (t) => {
  const count = 4096;
  const steps = 80;
  const curvature = Float32Array.from({ length: count }, (_, i) => 10 ** (-3 * randomUniform(derive(5), i)));
  const start = normals(count, 'start');
  const losses = (['adamw', 'adamw-8bit'] as const).map((rule) => {
    const { weights } = runRule({
      slot: { ...DENSE, shape: [64, 64], rule },
      weights: start,
      gradients: {
        steps,
        of: (w, step) => {
          const noise = normals(count, 'noise', step);
          return w.map((x, i) => curvature[i]! * (x + 2 * noise[i]!));
        },
      },
      hyper: (step) => ({ betas: [0.9, 0.999], learningRate: 0.1 * (1 - (step - 1) / steps) }),
    });
    const loss = (w: Float32Array): number => w.reduce((sum, x, i) => sum + curvature[i]! * x * x, 0);
    return loss(weights.at(-1)!) / loss(start);
  });
  t.log(`f32 ${losses[0]}, 8 bit ${losses[1]}`);
  t.true(losses[0]! < 0.1);
  t.true(Math.abs(losses[1]! / losses[0]! - 1) < 0.02, losses.join(' '));
});

test('numbers without a gradient stay where they are, however large their neighbours', (t) => {
  // Every second number of each block never has a gradient; the others have had large ones.
  const gradients = Array.from({ length: 20 }, (_, k) =>
    normals(5000, 'sparse', k).map((x, i) => (i % 2 === 0 ? 0 : 1e6 * x)),
  );
  const { weights, state } = runRule({
    slot: DENSE,
    weights: new Float32Array(5000),
    gradients,
    hyper: () => ({}),
  });
  t.true(weights.at(-1)!.every((w, i) => (i % 2 === 0 ? w === 0 : Math.abs(w) <= 0.2)));
  t.true(Array.from(state['v_codes']!).every((code, i) => i % 2 === 1 || code === 0));
});

test('a gradient that stops does not send its number far: the second moment outlives the first', (t) => {
  const gradients = Array.from({ length: 200 }, (_, k) =>
    normals(5000, 'stops', k).map((x, i) => (i % 256 === 0 || k < 10 ? x : 0)),
  );
  const { weights } = runRule({ slot: DENSE, weights: new Float32Array(5000), gradients, hyper: () => ({}) });
  // lr .01: 200 steps of at most one rate each; a V of zero under an M would move by 1e8 rates.
  t.true(weights.at(-1)!.every((w) => Math.abs(w) < 2));
});

test('projected and dense slots take steps alike: the subspace of a square basis is the whole space', (t) => {
  const basis = orthonormalMatrix(64, 64, 'square');
  const slot = { ...WIDE, rank: 64 };
  const gradients = [1, 2].map((k) => normals(64 * 300, 'g', k));
  const [eight, full] = (['adamw-8bit', 'adamw'] as const).map((rule) =>
    runRule({
      slot: { ...slot, rule },
      weights: normals(64 * 300, 'w'),
      gradients,
      hyper: () => ({ weightDecay: 0.1, scale: 1 }),
      basis: (step) => (step === 1 ? basis.values : undefined),
    }),
  );
  assertClose(t, eight!.weights[0]!, full!.weights[0]!, { atol: 1e-5, rtol: 0 }, 'first step');
  assertClose(t, eight!.weights[1]!, full!.weights[1]!, { atol: 4e-3, rtol: 0 }, 'second step');
});

test('states under 4096 numbers are f32 and take the steps of adamw', (t) => {
  const small: Slot = { ...DENSE, shape: [4095] };
  t.deepEqual(
    ruleState(small).map(({ kind, dtype }) => `${kind} ${dtype}`),
    ['m f32', 'v f32'],
  );
  const run = (rule: RuleName) =>
    runRule({
      slot: { ...small, rule },
      weights: normals(4095, 'w'),
      gradients: [normals(4095, 'g')],
      hyper: () => ({}),
    });
  t.deepEqual(run('adamw-8bit'), run('adamw'));
});

test('a state takes 2.03 bytes a number: a quarter of the eight of f32', (t) => {
  const bytes = (rule: RuleName): number =>
    ruleState({ ...DENSE, shape: [1024, 1024], rule }).reduce(
      (sum, { shape, dtype }) => sum + sizeOf(shape) * (dtype === 'u8' ? 1 : 4),
      0,
    );
  t.is(bytes('adamw') / 2 ** 20, 8);
  t.is(bytes('adamw-8bit') / 2 ** 20, 2 + 8 / 256);
});

function carried(
  t: ExecutionContext,
  moments: MomentsRule,
  newRank: number,
): { got: Record<string, ArrayLike<number>>; m: Float32Array; v: Float32Array; old: EightBitMoments } {
  const old = someMoments(sizeOf(subspaceShape(WIDE)));
  const change = {
    oldBasis: tensorOf(orthonormalMatrix(64, 16, 'old')),
    newBasis: tensorOf(orthonormalMatrix(64, newRank, 'new')),
    side: 'left' as const,
  };
  const state = stateOf(old);
  let got: Record<string, ArrayLike<number>> = {};
  const input = { slot: WIDE, state, change, moments, completedSteps: 5, betas: HYPER.betas };
  const count = tf.memory().numTensors;
  const next = adamw8bitRule.carry(input);
  t.is(tf.memory().numTensors - count, tensorsOf(next).length, 'only the results are left');
  got = valuesOf(next);
  const want = transportMoments(
    { m: tf.tensor(restoreSigned(old.m), [16, 300]), v: tf.tensor(restoreSquares(old.v), [16, 300]) },
    change,
    moments,
    5,
    HYPER.betas,
  );
  return {
    got,
    m: want.m.dataSync<'float32'>() as Float32Array,
    v: want.v.dataSync<'float32'>() as Float32Array,
    old,
  };
}

test('a refresh restores the moments, moves them and codes them again', (t) => {
  tf.tidy(() => {
    for (const rule of ['rotate', 'transport', 'adarank'] as const) {
      const { got, m, v } = carried(t, rule, 16);
      t.deepEqual(got['m_codes'], quantiseSigned(m).codes, rule);
      t.deepEqual(got['v_codes'], quantiseSquares(v).codes, rule);
      t.deepEqual(got['m_scales'], quantiseSigned(m).scales, rule);
      t.deepEqual(got['v_scales'], quantiseSquares(v).scales, rule);
    }
  });
});

test('keep keeps every byte and refuses another rank; reset gives zero bytes', (t) => {
  tf.tidy(() => {
    const { got, old } = carried(t, 'keep', 16);
    t.deepEqual(got['m_codes'], old.m.codes);
    t.deepEqual(got['v_scales'], old.v.scales);
    t.throws(() => carried(t, 'keep', 15), { instanceOf: TensorShapeError, message: /rank 16 .* rank 15/ });
    const zero = carried(t, 'reset', 20).got;
    t.deepEqual(zero['m_codes'], blankCodes(20 * 300).codes);
    t.deepEqual(zero['v_scales'], blankCodes(20 * 300).scales);
  });
});

test('a state that a new rank takes across 4096 numbers changes its form', (t) => {
  tf.tidy(() => {
    const { got, m } = carried(t, 'transport', 13); // 13 x 300 = 3900
    t.deepEqual(Object.keys(got), ['m', 'v']);
    t.deepEqual(got['m'], m);
    const change = {
      oldBasis: tensorOf(orthonormalMatrix(64, 13, 'old')),
      newBasis: tensorOf(orthonormalMatrix(64, 14, 'new')),
      side: 'left' as const,
    };
    const state = { m: tf.ones([13, 300]), v: tf.ones([13, 300]) };
    const slot = { ...WIDE, rank: 13 };
    const input = {
      slot,
      state,
      change,
      moments: 'transport' as const,
      completedSteps: 5,
      betas: HYPER.betas,
    };
    const grown = adamw8bitRule.carry(input);
    t.deepEqual(Object.keys(grown), ['m_codes', 'm_scales', 'v_codes', 'v_scales']);
    t.is((grown['m_codes'] as Uint8Array).length, 14 * 300);
  });
});

test('a step leaves no tensors behind but its results, and takes payloads from any engine', (t) => {
  const weight = tf.zeros([100, 50]);
  const payload = tf.add(tf.tensor(normals(5000, 'p'), [100, 50]), 0) as Tensor; // not an array any more
  const state = stateOf(someMoments(5000));
  assertNoLeak(
    t,
    () => {
      const next = adamw8bitRule.step({ slot: DENSE, weight, payload, state, basis: null, hyper: HYPER });
      return [next.weight, ...tensorsOf(next.state)];
    },
    3,
  );
});
