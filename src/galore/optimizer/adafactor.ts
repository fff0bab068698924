/**
 * Adafactor (Shazeer & Stern 2018, arXiv 1804.04235) as galore-torch's adafactor.py has it: the second
 * moment of a matrix is kept as the means of its rows and of its columns, V_ij = row_i col_j / mean(row).
 *   b = 1 - t^decay_rate;  row <- b row + (1 - b) mean_cols(R o R + eps1), col alike over the rows
 *   U = R / sqrt(V), divided by max(1, rms(U) / clip_threshold), times lr
 *   with momentum: M <- b1 M + (1 - b1) U; U = M
 *   W <- W (1 - lr wd); W <- W - alpha lift(U), whatever `semantics` says
 * lr is the schedule's, or with relative_step min(0.01, 1/sqrt(t)); scale_parameter multiplies it by
 * max(eps2, rms(W)). Plain JavaScript with f64 sums: means over a tensor would depend on the number of
 * threads, and all trainers must find the same bits.
 */
import * as tf from '@tensorflow/tfjs-core';
import {
  carryFirstMoment,
  changeOf,
  overlapsOf,
  requireSameRank,
  type BasisChange,
} from '../projection/transport.ts';
import { liftOf, scaleOf, updatedWeight } from '../step-rule.ts';
import type { AdafactorOptions, CarryInput, Hyperparameters, OptimizerRule, RuleState } from './rule.ts';

/** The second moment: of a matrix its two factors, of anything else all of it. */
export type FactoredMoment =
  { readonly row: Float32Array; readonly col: Float32Array } | { readonly all: Float32Array };

/** With momentum where the slot's state has a first moment. */
export const adafactorRule: OptimizerRule = {
  step({ slot, weight, payload, state, basis, hyper }) {
    return tf.tidy(() => {
      const learningRate = effectiveRate(weight, hyper);
      const scale = scaleOf(slot, hyper);
      const second = adafactorSecond(valuesOf(payload), secondOf(state), hyper);
      const direction = adafactorDirection(valuesOf(payload), second, hyper.adafactor, learningRate);
      const m = state['m'] === undefined ? undefined : valuesOf(state['m'] as tf.Tensor).slice();
      if (m !== undefined) {
        const { beta1 } = hyper.adafactor;
        for (let i = 0; i < m.length; i++) m[i] = beta1 * m[i]! + (1 - beta1) * direction[i]!;
      }
      const low = tf.mul(tf.tensor(m ?? direction, payload.shape), scale);
      const change = liftOf(slot, low, basis);
      const { weightDecay } = hyper;
      return {
        weight: updatedWeight(weight, change, { learningRate, weightDecay, semantics: 'torch' }),
        state: { ...stateOf(second), ...(m === undefined ? {} : { m: tf.tensor(m, payload.shape) }) },
      };
    });
  },
  carry(input) {
    const m = input.state['m'] as tf.Tensor | undefined;
    return {
      ...stateOf(carrySecond(secondOf(input.state), input)),
      ...(m === undefined ? {} : { m: carryFirstMoment(m, input) }),
    };
  },
};

/** The step's learning rate, before the lift and its scale. */
function effectiveRate(weight: tf.Tensor, { learningRate, step, adafactor }: Hyperparameters): number {
  const rate = adafactor.relative_step ? Math.min(0.01, 1 / Math.sqrt(step)) : learningRate;
  if (!adafactor.scale_parameter) return rate;
  return rate * Math.max(adafactor.eps[1], rootMeanSquare(valuesOf(weight)));
}

/** The second moment after `gradient`, of `row.length` rows; new arrays. */
export function adafactorSecond(
  gradient: Float32Array,
  old: FactoredMoment,
  { step, adafactor }: Pick<Hyperparameters, 'step' | 'adafactor'>,
): FactoredMoment {
  const fresh = step ** adafactor.decay_rate; // 1 - b
  const [eps] = adafactor.eps;
  const blend = (before: number, now: number): number => (1 - fresh) * before + fresh * now;
  if ('all' in old)
    return { all: old.all.map((value, i) => blend(value, gradient[i]! * gradient[i]! + eps)) };
  const [rows, cols] = [old.row.length, old.col.length];
  const columnSums = new Float64Array(cols);
  const row = old.row.map((before, i) => {
    let sum = 0;
    for (let j = 0, at = i * cols; j < cols; j++, at++) {
      const square = gradient[at]! * gradient[at]! + eps;
      sum += square;
      columnSums[j] = columnSums[j]! + square;
    }
    return blend(before, sum / cols);
  });
  return { row, col: old.col.map((before, j) => blend(before, columnSums[j]! / rows)) };
}

/** rate U: the gradient over the root of its second moment, clipped by its root mean square. */
export function adafactorDirection(
  gradient: Float32Array,
  second: FactoredMoment,
  { clip_threshold: threshold }: Pick<AdafactorOptions, 'clip_threshold'>,
  rate: number,
): Float32Array {
  const direction = new Float32Array(gradient.length);
  if ('all' in second) {
    for (let i = 0; i < gradient.length; i++) direction[i] = gradient[i]! * inverseRoot(second.all[i]!);
  } else {
    const average = mean(second.row);
    const columns = Float64Array.from(second.col, inverseRoot);
    const cols = columns.length;
    second.row.forEach((value, i) => {
      const factor = inverseRoot(value / average);
      for (let j = 0, at = i * cols; j < cols; j++, at++) {
        direction[at] = gradient[at]! * factor * columns[j]!;
      }
    });
  }
  const shrink = rate / Math.max(1, rootMeanSquare(direction) / threshold);
  for (let i = 0; i < direction.length; i++) direction[i] = direction[i]! * shrink;
  return direction;
}

/**
 * The second moment in a new basis. The factor on the basis' side has one number for each direction: a new
 * direction takes the mean of the old ones, weighted by the squared overlaps C o C, and for what lies outside
 * the old subspace their plain mean, so that it stays between the smallest and the largest. The other factor
 * changes only by the new mean. All of `rotate`, `transport` and `adarank` mean this; a core does it on both
 * sides.
 */
function carrySecond(old: FactoredMoment, input: CarryInput): FactoredMoment {
  if ('all' in old) return { all: old.all.slice() }; // a vector has no basis
  const change = changeOf(input.slot, input.change);
  if (input.moments === 'keep') {
    requireSameRank(change);
    return { row: old.row.slice(), col: old.col.slice() };
  }
  const [left, right] = readOverlaps(change);
  const rank = change.newBasis.shape[1];
  if (input.moments === 'reset' || input.completedSteps === 0) {
    const zeros = (factor: Float32Array, isTurned: boolean) =>
      new Float32Array(isTurned ? rank : factor.length);
    return { row: zeros(old.row, left !== null), col: zeros(old.col, right !== null) };
  }
  const row = left === null ? old.row : turnedFactor(old.row, left, rank);
  const col = right === null ? old.col : turnedFactor(old.col, right, rank);
  const average = mean(old.row); // also of old.col: both are means of the same squares
  const [rowGrowth, colGrowth] = average > 0 ? [mean(row) / average, mean(col) / average] : [1, 1];
  return { row: row.map((value) => value * colGrowth), col: col.map((value) => value * rowGrowth) };
}

/** The numbers of `overlapsOf`. */
function readOverlaps(change: BasisChange): [Float32Array | null, Float32Array | null] {
  const { left, right } = overlapsOf(change);
  const read = (overlap: tf.Tensor | null): Float32Array | null => {
    const values = overlap && valuesOf(overlap);
    overlap?.dispose();
    return values;
  };
  return [read(left), read(right)];
}

/** Each new direction's weighted mean of `factor`; `overlap` is C, [rank, factor.length]. */
function turnedFactor(factor: Float32Array, overlap: Float32Array, rank: number): Float32Array {
  const average = mean(factor);
  return Float32Array.from({ length: rank }, (_, i) => {
    let [known, sum] = [0, 0];
    factor.forEach((value, j) => {
      const weight = overlap[i * factor.length + j]! ** 2;
      known += weight;
      sum += weight * value;
    });
    return known >= 1 ? sum / known : sum + (1 - known) * average;
  });
}

function secondOf(state: RuleState): FactoredMoment {
  const values = (kind: string): Float32Array => valuesOf(state[kind] as tf.Tensor);
  return state['v'] === undefined ? { row: values('v_row'), col: values('v_col') } : { all: values('v') };
}

function stateOf(second: FactoredMoment): Record<string, tf.Tensor> {
  if ('all' in second) return { v: tf.tensor1d(second.all) };
  return { v_row: tf.tensor1d(second.row), v_col: tf.tensor1d(second.col) };
}

function valuesOf(tensor: tf.Tensor): Float32Array {
  return tensor.dataSync<'float32'>() as Float32Array;
}

function inverseRoot(value: number): number {
  return value > 0 ? 1 / Math.sqrt(value) : 0;
}

function mean(values: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i]!;
  return sum / values.length;
}

function rootMeanSquare(values: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i]! * values[i]!;
  return Math.sqrt(sum / values.length);
}
