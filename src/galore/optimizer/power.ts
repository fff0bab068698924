/**
 * The update of a power slot (docs/algorithm.md, "Power"): Adam with a factored second moment (Shazeer & Stern, arXiv
 * 1804.04235) on the lifted sum, and the factor for the next step. With Y = sum of the trainers' EW in a tall step:
 *   G = YW' (else PR);  M <- b1 M + (1 - b1) G
 *   a <- b2 a + (1 - b2) rowmean(G^2 + 1e-30);  c <- b2 c + (1 - b2) colmean(G^2 + 1e-30)
 *   V = (a / c2)(c / c2)' / mean(a / c2);  U = (M / c1) / (sqrt(V) + eps)   with c_i = 1 - b_i^t
 *   U <- U / max(1, rms(U) / clip);  W <- W - lr alpha U;  P <- orth(Y) (else W <- orth(R')).
 */
import * as tf from '@tensorflow/tfjs-core';
import { derive } from '../../random.ts';
import { closeBuffer, openBuffer } from '../feedback/buffer.ts';
import { factorsOf, liftOfPower } from '../feedback/power.ts';
import { orthonormalFactor } from '../projection/orthonormal-factor.ts';
import { randomBasis } from '../projection/random-basis.ts';
import { isTallStep, matrixShape, type PowerSlot, type Slot } from '../slot.ts';
import { scaleOf, updatedWeight } from '../step-rule.ts';
import { momentKind } from './rule-state.ts';
import type { Hyperparameters, OptimizerRule, RuleState } from './rule.ts';

const TINY = 1e-30;

export const powerRule: OptimizerRule = {
  step({ slot, weight, payload, state, hyper }) {
    if (slot.policy !== 'power') throw new RangeError(`${slot.name} does not travel as power`);
    const { moment } = slot.buffers;
    const kind = momentKind(slot);
    const next = tf.tidy(() => {
      const lifted = liftOfPower(slot, hyper.step, payload as tf.Tensor2D, state);
      const [beta1, beta2] = hyper.betas;
      const old = openBuffer(state[kind]!, slot.shape, moment);
      const m = tf.add(tf.mul(old, beta1), tf.mul(lifted, 1 - beta1));
      const squares = tf.add(tf.square(lifted), TINY);
      const decayed = (key: string, axis: number) =>
        tf.add(tf.mul(state[key] as tf.Tensor, beta2), tf.mul(tf.mean(squares, axis), 1 - beta2));
      const [row, col] = [decayed('v_row', 1), decayed('v_col', 0)];
      const update = clipped(directionOf(m, row, col, hyper), hyper.updateClip);
      const change = tf.mul(update, hyper.learningRate * scaleOf(slot, hyper));
      const tensors = { weight: updatedWeight(weight, change, hyper), m, v_row: row, v_col: col };
      return tensors;
    });
    const key = derive(hyper.seed, 'moment', hyper.step, slot.index);
    const kept = closeBuffer(next.m, moment, key);
    next.m.dispose();
    return {
      weight: next.weight,
      state: {
        [kind]: kept,
        v_row: next.v_row,
        v_col: next.v_col,
        ...nextFactors(slot, payload, state, hyper.step),
      },
    };
  },
  carry() {
    throw new Error('a power slot has no refresh');
  },
};

/** P and W before the first step: random, orthonormal, the same everywhere. */
export function firstFactors(slot: PowerSlot, seed: number): RuleState {
  const [m, n] = matrixShape(slot);
  return {
    p: tf.tensor2d(randomBasis(seed, 0, 2 * slot.index, m, slot.rank), [m, slot.rank]),
    w: tf.tensor2d(randomBasis(seed, 0, 2 * slot.index + 1, n, slot.rank), [n, slot.rank]),
  };
}

function directionOf(m: tf.Tensor, row: tf.Tensor, col: tf.Tensor, hyper: Hyperparameters): tf.Tensor {
  const [beta1, beta2] = hyper.betas;
  const [c1, c2] = [1 - beta1 ** hyper.step, 1 - beta2 ** hyper.step];
  // (a/c2)(c/c2)' / mean(a/c2) = a c' / (c2 mean(a))
  const v = tf.div(tf.mul(tf.expandDims(row, 1), tf.expandDims(col, 0)), tf.mul(tf.mean(row), c2));
  return tf.div(tf.div(m, c1), tf.add(tf.sqrt(v), hyper.eps));
}

function clipped(update: tf.Tensor, clip: number): tf.Tensor {
  const rms = tf.sqrt(tf.mean(tf.square(update)));
  return tf.div(update, tf.maximum(1, tf.div(rms, clip)));
}

function nextFactors(slot: PowerSlot, payload: tf.Tensor, state: RuleState, step: number): RuleState {
  const [m, n] = matrixShape(slot);
  const { p, w } = factorsOf(state);
  const orthonormal = (product: tf.Tensor, rows: number) =>
    tf.tensor2d(orthonormalFactor(product.dataSync<'float32'>() as Float32Array, rows, slot.rank), [
      rows,
      slot.rank,
    ]);
  if (isTallStep(slot, step)) return { p: orthonormal(payload, m), w: tf.clone(w) };
  const transposed = tf.transpose(payload);
  const next = orthonormal(transposed, n);
  transposed.dispose();
  return { p: tf.clone(p), w: next };
}

/** Whether a slot's state does not begin as zeros. */
export function isPower(slot: Slot): slot is PowerSlot {
  return slot.policy === 'power';
}
