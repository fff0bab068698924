/**
 * Power with 1, 2 and 3 trainers: weights agree, and the trainers' errors add up to that of one trainer. In f64 to 1e-12,
 * through the code of a run in f32 to its rounding.
 */
import test from 'ava';
import type { LocalState } from '../../src/galore/feedback/feedback.ts';
import { gradientFeedback } from '../../src/galore/feedback/gradient.ts';
import { matrix, zip, type Matrix } from '../../src/galore/matrix.ts';
import { firstFactors, powerRule } from '../../src/galore/optimizer/power.ts';
import { tensorsOf, type RuleState } from '../../src/galore/optimizer/rule.ts';
import { orthonormalise } from '../../src/galore/projection/factorise.ts';
import { derive } from '../../src/random.ts';
import { maxDifference, randomMatrix } from './matrices.ts';
import {
  powerSlot,
  referenceLift,
  referencePowerStep,
  referenceSketch,
  type ReferencePower,
} from './power.ts';
import { HYPER } from './run-rule.ts';
import { matrixOf, tensorOf, tf, type Tensor } from './tensors.ts';

const [M, N, RANK, STEPS] = [14, 10, 4, 20] as const;
const hyperOf = (step: number) => ({ ...HYPER, step, scale: 1, updateClip: 0.8 });

const add = (a: Matrix, b: Matrix) => zip((x, y) => x + y, a, b);
const subtract = (a: Matrix, b: Matrix) => zip((x, y) => x - y, a, b);

/** Gradient of the weights and of a token: a pull to where the token wants them. */
function tokenGradient(weight: Matrix, step: number, token: number): Matrix {
  return subtract(weight, randomMatrix(M, N, 'target', step, token));
}

/** A trainer's mean gradient times its share of the tokens: the sum over its tokens by all tokens. */
function shareOf(weight: Matrix, step: number, first: number, count: number, all: number): Matrix {
  let sum = matrix(M, N);
  for (let token = first; token < first + count; token++) sum = add(sum, tokenGradient(weight, step, token));
  return zip((x) => x / all, sum);
}

interface Trained {
  readonly weight: Matrix;
  /** Sum over the trainers. */
  readonly error: Matrix;
}

function firstState(): ReferencePower {
  const factor = (label: string, rows: number) =>
    matrix(rows, RANK, orthonormalise(randomMatrix(rows, RANK, label).values, rows, RANK));
  const zeros = { m: matrix(M, N), row: matrix(M, 1), col: matrix(1, N) };
  return { weight: randomMatrix(M, N, 'weight'), ...zeros, p: factor('p', M), w: factor('w', N) };
}

function trainReference(tokens: readonly number[]): Trained {
  const slot = powerSlot(M, N, RANK, 'f32');
  const all = tokens.reduce((sum, count) => sum + count, 0);
  let errors = tokens.map(() => matrix(M, N));
  let state = firstState();
  for (let step = 1; step <= STEPS; step++) {
    let first = 0;
    errors = errors.map((error, i) => {
      const share = shareOf(state.weight, step, first, tokens[i]!, all);
      first += tokens[i]!;
      return add(error, share);
    });
    const payloads = errors.map((error) => referenceSketch(slot, step, error, state));
    errors = errors.map((error, i) => subtract(error, referenceLift(slot, step, payloads[i]!, state)));
    state = referencePowerStep(slot, payloads.reduce(add), state, hyperOf(step));
  }
  return { weight: state.weight, error: errors.reduce(add) };
}

/** The same through the feedback and the rule of a run. */
function train(tokens: readonly number[]): Trained {
  const slot = powerSlot(M, N, RANK, 'f32');
  const all = tokens.reduce((sum, count) => sum + count, 0);
  const first = firstState();
  let weight: Tensor = tensorOf(first.weight);
  let state: RuleState = {
    ...{ m: tf.zeros([M, N]), v_row: tf.zeros([M]), v_col: tf.zeros([N]) },
    ...{ p: tensorOf(first.p), w: tensorOf(first.w) },
  };
  let locals: LocalState[] = tokens.map(() => ({ feedback: tf.zeros([M, N]) }));
  for (let step = 1; step <= STEPS; step++) {
    const payloads: Tensor[] = [];
    let start = 0;
    locals = locals.map((local, i) => {
      const share = tokens[i]! / all;
      const context = { slot, step, basis: null, state, share, key: derive(1, step, i) };
      const mean = zip((x) => x / share, shareOf(matrixOf(weight), step, start, tokens[i]!, all));
      start += tokens[i]!;
      return tf.tidy(() => {
        const open = gradientFeedback.add(context, local, tensorOf(mean), true);
        const payload = tf.keep(gradientFeedback.payload(context, open));
        payloads.push(payload);
        const left = gradientFeedback.settle(context, open, payload);
        tf.dispose([local['feedback'] as Tensor, open['open'] as Tensor]);
        return { feedback: tf.keep(left['feedback'] as Tensor) };
      });
    });
    const payload = tf.addN(payloads);
    const next = powerRule.step({ slot, weight, payload, state, basis: null, hyper: hyperOf(step) });
    tf.dispose([payload, ...payloads, weight, ...tensorsOf(state)]);
    ({ weight, state } = next);
  }
  const error = locals.map((local) => matrixOf(local['feedback'] as Tensor)).reduce(add);
  const trained = { weight: matrixOf(weight), error };
  tf.dispose([weight, ...tensorsOf(state), ...locals.map((local) => local['feedback'] as Tensor)]);
  return trained;
}

test('in f64 any division of the tokens gives the weights and the errors of one trainer', (t) => {
  const alone = trainReference([12]);
  t.true(maxDifference(alone.weight, firstState().weight) > 0.05);
  t.true(maxDifference(alone.error, matrix(M, N)) > 0.05);
  for (const tokens of [
    [6, 6],
    [1, 9, 2],
  ]) {
    const divided = trainReference(tokens);
    t.true(maxDifference(divided.weight, alone.weight) < 1e-12, tokens.join('+'));
    t.true(maxDifference(divided.error, alone.error) < 1e-12, tokens.join('+'));
  }
});

test('in f32 the code of a run does what the formulas say, with 1, 2 and 3 trainers', (t) => {
  const before = tf.memory().numTensors;
  const expected = trainReference([12]);
  for (const tokens of [[12], [6, 6], [1, 9, 2]]) {
    const { weight, error } = train(tokens);
    t.true(maxDifference(weight, expected.weight) < 2e-4, `${maxDifference(weight, expected.weight)}`);
    t.true(maxDifference(error, expected.error) < 2e-4, `${maxDifference(error, expected.error)}`);
  }
  t.is(tf.memory().numTensors, before);
});

test('a sum of zeros keeps the factors', (t) => {
  const slot = powerSlot(M, N, RANK, 'f32');
  const zeros = { m: tf.zeros([M, N]), v_row: tf.zeros([M]), v_col: tf.zeros([N]) };
  const state: RuleState = { ...zeros, ...firstFactors(slot, 1) };
  const weight = tf.zeros([M, N]);
  for (const step of [1, 2]) {
    const payload = tf.zeros(step === 1 ? [M, RANK] : [RANK, N]);
    const next = powerRule.step({ slot, weight, payload, state, basis: null, hyper: hyperOf(step) });
    for (const kind of ['p', 'w']) {
      t.deepEqual((next.state[kind] as Tensor).dataSync(), (state[kind] as Tensor).dataSync());
    }
    t.deepEqual(next.weight.dataSync(), weight.dataSync());
    tf.dispose([payload, next.weight, ...tensorsOf(next.state)]);
  }
  tf.dispose([weight, ...tensorsOf(state)]);
});
