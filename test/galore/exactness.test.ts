/**
 * The claim the project rests on (algorithms: 9.7): N trainers with unequal token counts, summed sketches
 * and summed contributions compute what one trainer computes on the pooled batch. In f64 to 1e-12, in
 * f32 through the codecs to rounding. And: which results depend on the signs of basis vectors.
 */
import test from 'ava';
import { sumEncoded } from '../../src/galore/aggregate/mean.ts';
import { codecFor } from '../../src/galore/codec/codec.ts';
import { matrix, multiply, transpose, zip, type Matrix } from '../../src/galore/matrix.ts';
import {
  referenceProject,
  referenceTransport,
  referenceUpdate,
  type ReferenceSlot,
} from '../../src/galore/optimizer/reference.ts';
import type { Hyperparameters } from '../../src/galore/optimizer/rule.ts';
import { refreshPlan, unitBasis } from '../../src/galore/projection/sketch.ts';
import type { MomentsRule } from '../../src/galore/projection/transport.ts';
import { basisShape, payloadShape, type ProjectedSlot } from '../../src/galore/slot.ts';
import { derive, randomSign } from '../../src/random.ts';
import { OTHER_RULES } from './apply-update.ts';
import { maxDifference, projectedSlot, randomMatrix, refreshBasis, weightedSum } from './matrices.ts';

const SKETCH = refreshPlan({ type: 'sketch', oversample: 3, power_iterations: 1 });
const EXACT = refreshPlan({ type: 'exact', oversample: 0, power_iterations: 0 });

/** One trainer's share of a step: inputs [c, n] and targets [c, m] of its c tokens. */
interface TokenBatch {
  readonly inputs: Matrix;
  readonly targets: Matrix;
}

interface Weighted {
  readonly weight: number;
  readonly value: Matrix;
}

interface RunOptions {
  readonly slot: ProjectedSlot;
  readonly rule: MomentsRule;
  readonly semantics: Hyperparameters['semantics'];
  readonly refresh: typeof SKETCH;
  readonly steps: number;
  /** Sums contributions; the default is in f64. */
  readonly sum?: (contributions: readonly Weighted[], step: number) => Matrix;
  /** Changes a new basis before it is used, such as its signs. */
  readonly adjust?: (basis: Matrix, step: number) => Matrix;
}

function initialWeight({ shape: [m = 0, n = 0] }: ProjectedSlot): Matrix {
  return randomMatrix(m, n, 'w');
}

/** Gradient of the mean over the batch's tokens of |W x - y|^2: 2/c (W X' - Y') X. */
function gradientOf(weight: Matrix, { inputs, targets }: TokenBatch): Matrix {
  const residual = zip((x, y) => x - y, multiply(weight, transpose(inputs)), transpose(targets));
  return zip((x) => (2 / inputs.rows) * x, multiply(residual, inputs));
}

/** The batches of a step: trainer i gets `tokens[i]` of the step's tokens, in order. */
function batchesOf(slot: ProjectedSlot, step: number, tokens: readonly number[]): TokenBatch[] {
  const [m = 0, n = 0] = slot.shape;
  const total = tokens.reduce((sum, count) => sum + count, 0);
  const inputs = randomMatrix(total, n, 'inputs', step);
  const targets = randomMatrix(total, m, 'targets', step);
  let start = 0;
  return tokens.map((count) => {
    const from = start;
    start += count;
    return {
      inputs: matrix(count, n, inputs.values.subarray(from * n, start * n)),
      targets: matrix(count, m, targets.values.subarray(from * m, start * m)),
    };
  });
}

/** Trains as the swarm does with the tokens of each step divided as given; refreshes every 5 steps. */
function train(tokens: readonly number[], options: RunOptions): Matrix {
  const { slot, rule, semantics, refresh, steps, sum = weightedSum, adjust } = options;
  const [rows = 0, cols = 0] = payloadShape(slot, 1);
  const total = tokens.reduce((all, count) => all + count, 0);
  let state: ReferenceSlot = {
    weight: initialWeight(slot),
    m: matrix(rows, cols),
    v: matrix(rows, cols),
  };
  let basis = matrix(...basisShape(slot), unitBasis(slot));
  for (let step = 1; step <= steps; step++) {
    const gradients = batchesOf(slot, step, tokens).flatMap((batch, i) =>
      tokens[i] === 0 ? [] : [{ weight: tokens[i]! / total, value: gradientOf(state.weight, batch) }],
    );
    if ((step - 1) % 5 === 0) {
      const found = refreshBasis(slot, gradients, refresh, step)!;
      const newBasis = adjust === undefined ? found : adjust(found, step);
      const change = { oldBasis: basis, newBasis, side: slot.side };
      state = { ...state, ...referenceTransport(state, change, rule, step - 1, [0.9, 0.99]) };
      basis = newBasis;
    }
    const low = sum(
      gradients.map(({ weight, value }) => ({ weight, value: referenceProject(value, basis, slot.side) })),
      step,
    );
    const hyper: Hyperparameters = {
      ...OTHER_RULES,
      step,
      learningRate: 0.01,
      betas: [0.9, 0.99],
      eps: 1e-8,
      weightDecay: 0.01,
      semantics,
      scale: 0.25,
    };
    state = referenceUpdate(state, low, { basis, side: slot.side }, hyper);
  }
  return state.weight;
}

const SLOTS = [projectedSlot(10, 14, 'left', 4), projectedSlot(14, 10, 'right', 4)];

for (const slot of SLOTS) {
  for (const [name, refresh] of [
    ['sketched', SKETCH],
    ['exact', EXACT],
  ] as const) {
    test(`side ${slot.side}, ${name} refresh: any division of the tokens gives the weights of one trainer`, (t) => {
      for (const rule of ['transport', 'reset', 'keep'] as const) {
        for (const semantics of ['torch', 'galore_torch'] as const) {
          const options = { slot, rule, semantics, refresh, steps: 22 };
          const alone = train([24], options);
          t.true(maxDifference(alone, initialWeight(slot)) > 0.01);
          for (const tokens of [
            [12, 12],
            [1, 2, 20, 1],
            [7, 0, 17],
          ]) {
            const difference = maxDifference(train(tokens, options), alone);
            t.true(difference < 1e-12, `${rule}, ${semantics}, ${tokens.join('+')}: ${difference}`);
          }
        }
      }
    });
  }
}

test('weighting trainers alike instead of by tokens is not the pooled gradient', (t) => {
  // The test above would notice: the difference is large.
  const slot = SLOTS[0]!;
  const weight = initialWeight(slot);
  const mean = (tokens: readonly number[], weights: readonly number[]) =>
    weightedSum(
      batchesOf(slot, 1, tokens).map((batch, i) => ({
        weight: weights[i]!,
        value: gradientOf(weight, batch),
      })),
    );
  const pooled = mean([24], [1]);
  t.true(maxDifference(mean([20, 4], [20 / 24, 4 / 24]), pooled) < 1e-13);
  t.true(maxDifference(mean([20, 4], [0.5, 0.5]), pooled) > 0.1);
});

function sumThrough(codecName: 'f32' | 'int8'): (contributions: readonly Weighted[], step: number) => Matrix {
  return (contributions, step) => {
    const codec = codecFor(codecName);
    const { rows, cols } = contributions[0]!.value;
    const parts = contributions.map(({ weight, value }, i) => ({
      bytes: codec.encode(Float32Array.from(value.values), derive(1, 'contribution', i, step)),
      codec,
      weight,
    }));
    const { sum } = sumEncoded(parts, rows * cols);
    const bytes = codec.encode(sum, derive(1, 'update', step));
    return matrix(rows, cols, codec.decode(bytes, rows * cols));
  };
}

test('through f32 bytes three trainers agree with one to f32 rounding', (t) => {
  for (const slot of SLOTS) {
    const options = { slot, rule: 'transport', semantics: 'torch', refresh: SKETCH, steps: 50 } as const;
    const alone = train([24], { ...options, sum: sumThrough('f32') });
    const three = train([5, 2, 17], { ...options, sum: sumThrough('f32') });
    t.true(maxDifference(alone, three) < 1e-5, `${maxDifference(alone, three)}`);
  }
});

test('through int8 bytes the weights stay close to those of f32', (t) => {
  const options = {
    slot: SLOTS[0]!,
    rule: 'transport',
    semantics: 'torch',
    refresh: SKETCH,
    steps: 50,
  } as const;
  const exact = train([5, 2, 17], options);
  const rounded = train([5, 2, 17], { ...options, sum: sumThrough('int8') });
  const moved = maxDifference(exact, initialWeight(SLOTS[0]!));
  t.true(maxDifference(exact, rounded) < 0.1 * moved, `${maxDifference(exact, rounded)} of ${moved}`);
});

/** Flips the sign of about half of the basis vectors, others at every refresh. */
function flipSigns(basis: Matrix, step: number): Matrix {
  const key = derive(99, step);
  return { ...basis, values: basis.values.map((x, i) => x * randomSign(key, i % basis.cols)) };
}

test('signs of basis vectors do not matter under transport and reset, and do under keep', (t) => {
  for (const slot of SLOTS) {
    for (const rule of ['transport', 'reset', 'keep'] as const) {
      const options = { slot, rule, semantics: 'galore_torch', refresh: SKETCH, steps: 22 } as const;
      const plain = train([24], options);
      const flipped = train([24], { ...options, adjust: flipSigns });
      const difference = maxDifference(plain, flipped);
      if (rule === 'keep') t.true(difference > 1e-3, `${slot.side} keep: ${difference}`);
      else t.is(difference, 0, `${slot.side} ${rule}`);
    }
  }
});
