/**
 * The update of a power slot (docs/algorithm.md, "Power"): Adam with a factored second moment (Shazeer & Stern, arXiv
 * 1804.04235) on the lifted sum, and the factor for the next step. With Y = sum of the trainers' EW in a tall step:
 *   G = YW' (else PR);  M <- b1 M + (1 - b1) G
 *   a <- b2 a + (1 - b2) rowmean(G^2 + 1e-30);  c <- b2 c + (1 - b2) colmean(G^2 + 1e-30)
 *   V = (a / c2)(c / c2)' / mean(a / c2);  U = (M / c1) / (sqrt(V) + eps)   with c_i = 1 - b_i^t
 *   U <- U / max(1, rms(U) / clip);  W <- W - lr alpha U;  P <- orth(Y) (else W <- orth(R')).
 * The means need no G: with W'W = I those of its rows are |Y_i|^2 / n and those of its columns w_j'(Y'Y)w_j / m. All
 * but M and W has the same bits on every machine.
 */
import * as tf from '@tensorflow/tfjs-core';
import { derive, type RandomKey } from '../../random.ts';
import { closeBuffer, openBuffer, type BufferValue } from '../feedback/buffer.ts';
import { factorsOf, liftFactors, liftOfPower } from '../feedback/power.ts';
import { hasPowerKernels, powerUpdate, type LiftFactors, type PowerUpdateOptions } from '../power-kernels.ts';
import { formsOf, gramOf } from '../projection/fixed-sums.ts';
import { orthonormalFactor } from '../projection/orthonormal-factor.ts';
import { signMatrix } from '../projection/sketch.ts';
import { isTallStep, matrixShape, type PowerSlot, type Slot } from '../slot.ts';
import { scaleOf } from '../step-rule.ts';
import { biasCorrection } from './bias-correction.ts';
import { momentKind } from './rule-state.ts';
import type { Hyperparameters, OptimizerRule, RuleState } from './rule.ts';

const TINY = 1e-30;

export const powerRule: OptimizerRule = {
  step({ slot, weight, payload, state, hyper }) {
    if (slot.policy !== 'power') throw new RangeError(`${slot.name} does not travel as power`);
    const isTall = isTallStep(slot, hyper.step);
    const tall = tallOf(slot, payload, isTall); // before the engine takes the payload's numbers over
    const { row, col } = secondMoment(slot, tall, isTall, state, hyper.betas[1]);
    const factors = liftFactors(slot, hyper.step, payload as tf.Tensor2D, state);
    const next = changed(slot, weight, factors, rootsOf(row, col, hyper), state, hyper);
    return {
      weight: next.weight,
      state: {
        [momentKind(slot)]: next.moment,
        v_row: tf.tensor1d(row),
        v_col: tf.tensor1d(col),
        ...nextFactors(tall, isTall, state),
      },
    };
  },
  carry() {
    throw new Error('a power slot has no refresh');
  },
};

/** P and W before the first step: random, orthonormal, the same everywhere. */
export function firstFactors(slot: PowerSlot, seed: number): RuleState {
  const factor = (name: string, rows: number): tf.Tensor2D => {
    const signs = signMatrix(derive(seed, 'first-factor', name, slot.index), rows, slot.rank);
    return tf.tensor2d(orthonormalFactor(signs, rows, slot.rank)!, [rows, slot.rank]); // signs are not zeros
  };
  const [m, n] = matrixShape(slot);
  return { p: factor('p', m), w: factor('w', n) };
}

/** The payload as a tall matrix X, Y or R', with X'X. */
interface TallPayload {
  readonly x: Float32Array;
  readonly rows: number;
  readonly rank: number;
  readonly gram: Float64Array;
}

function tallOf(slot: PowerSlot, payload: tf.Tensor, isTall: boolean): TallPayload {
  const [m, n] = matrixShape(slot);
  const [rows, { rank }] = [isTall ? m : n, slot];
  const transposed = isTall ? payload : tf.transpose(payload);
  const x = transposed.dataSync<'float32'>() as Float32Array;
  if (!isTall) transposed.dispose();
  return { x, rows, rank, gram: gramOf(x, rows, rank) };
}

/** The next a `[m]` and c `[n]`. */
function secondMoment(
  slot: PowerSlot,
  { x, rows, rank, gram }: TallPayload,
  isTall: boolean,
  state: RuleState,
  beta2: number,
): { readonly row: Float32Array; readonly col: Float32Array } {
  const { p, w } = factorsOf(state);
  const [m, n] = matrixShape(slot);
  const other = (isTall ? w : p).dataSync<'float32'>() as Float32Array;
  const others = isTall ? n : m;
  const along = squaresOf(x, rows, rank);
  const across = formsOf(other, others, rank, gram);
  const decayed = (kind: string, sums: Float64Array | Float32Array, count: number): Float32Array => {
    const old = (state[kind] as tf.Tensor).dataSync<'float32'>() as Float32Array;
    return old.map((value, i) => beta2 * value + (1 - beta2) * (Math.max(0, sums[i]!) / count + TINY));
  };
  const [a, c] = isTall ? [along, across] : [across, along];
  return { row: decayed('v_row', a, n), col: decayed('v_col', c, m) };
}

/** |x|^2 of each row. */
function squaresOf(x: Float32Array, rows: number, cols: number): Float64Array {
  const squares = new Float64Array(rows);
  for (let i = 0, at = 0; i < rows; i++) {
    let sum = 0;
    for (const end = at + cols; at < end; at++) sum += x[at]! * x[at]!;
    squares[i] = sum;
  }
  return squares;
}

/** Vectors whose outer product is the root of V. */
interface Roots {
  readonly row: tf.Tensor;
  readonly column: tf.Tensor;
}

function rootsOf(row: Float32Array, col: Float32Array, { betas, step }: Hyperparameters): Roots {
  let sum = 0;
  for (const value of row) sum += value;
  const divisor = (sum / row.length) * biasCorrection(betas[1], step);
  return {
    row: tf.tensor1d(row.map((value) => Math.sqrt(value / divisor))),
    column: tf.tensor1d(col.map((value) => Math.sqrt(value))),
  };
}

/** Disposes the roots. */
function changed(
  slot: PowerSlot,
  weight: tf.Tensor,
  factors: LiftFactors,
  roots: Roots,
  state: RuleState,
  hyper: Hyperparameters,
): { readonly weight: tf.Tensor; readonly moment: BufferValue } {
  const moment = state[momentKind(slot)]!;
  const key = derive(hyper.seed, 'moment', hyper.step, slot.index);
  const options = optionsOf(slot, hyper);
  const next =
    moment instanceof Uint8Array && slot.buffers.moment === 'int8' && hasPowerKernels()
      ? powerUpdate(weight, moment, factors, roots, options, key)
      : plainUpdate(slot, weight, moment, factors, roots, options, key);
  tf.dispose([roots.row, roots.column]);
  return next;
}

function optionsOf(slot: Slot, hyper: Hyperparameters): PowerUpdateOptions {
  const { betas, step, eps, learningRate, weightDecay, semantics, updateClip: clip } = hyper;
  const kept = 1 - learningRate * weightDecay;
  return {
    ...{ beta1: betas[0], correction: biasCorrection(betas[0], step), eps, clip },
    rate: learningRate * scaleOf(slot, hyper),
    decay: semantics === 'torch' ? [kept, 1] : [1, kept],
  };
}

/** `powerUpdate` in tensor operations. */
function plainUpdate(
  slot: PowerSlot,
  weight: tf.Tensor,
  moment: BufferValue,
  factors: LiftFactors,
  roots: Roots,
  { beta1, correction, eps, rate, decay, clip }: PowerUpdateOptions,
  key: RandomKey,
): { readonly weight: tf.Tensor; readonly moment: BufferValue } {
  const dtype = slot.buffers.moment;
  const [next, m] = tf.tidy(() => {
    const old = openBuffer(moment, slot.shape, dtype);
    const m = tf.add(tf.mul(old, beta1), tf.mul(liftOfPower(factors), 1 - beta1));
    const root = tf.mul(tf.expandDims(roots.row, 1), tf.expandDims(roots.column, 0));
    const direction = tf.div(tf.div(m, correction), tf.add(root, eps));
    const rms = tf.sqrt(tf.mean(tf.square(direction)));
    const change = tf.mul(tf.div(direction, tf.maximum(1, tf.div(rms, clip))), rate);
    return [tf.mul(tf.sub(tf.mul(weight, decay[0]), change), decay[1]), m];
  });
  const kept = closeBuffer(m, dtype, key);
  m.dispose();
  return { weight: next, moment: kept };
}

/** A sum of zeros leaves the factor as it is. */
function nextFactors({ x, rows, rank, gram }: TallPayload, isTall: boolean, state: RuleState): RuleState {
  const { p, w } = factorsOf(state);
  const values = orthonormalFactor(x, rows, rank, gram);
  const next = values === null ? tf.clone(isTall ? p : w) : tf.tensor2d(values, [rows, rank]);
  return isTall ? { p: next, w: tf.clone(w) } : { p: tf.clone(p), w: next };
}
