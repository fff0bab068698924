/**
 * What happens to a slot's moments when its basis changes. GaLore keeps the numbers though they then
 * belong to other directions; the other rules turn them with the basis. `ldadam` is LDAdam's (arXiv
 * 2410.16103, its generalised projection-aware step), `adarank` AdaRankGrad's (arXiv 2410.17881), `transport`
 * ours: that of LDAdam, completed by what the old basis did not see.
 */
import * as tf from '@tensorflow/tfjs-core';
import { TensorShapeError } from '../../errors.ts';
import type { Moments } from '../optimizer/adamw.ts';
import { biasCorrection } from '../optimizer/bias-correction.ts';
import type { CarryInput } from '../optimizer/rule.ts';
import { matrixShape, type Side, type Slot } from '../slot.ts';

export type { Moments } from '../optimizer/adamw.ts';

/**
 * `keep`: the reference's (the rank must stay); `reset`: zeros; `ldadam`: LDAdam's rule; `transport`: the same,
 * completed; `rotate` and `adarank`: simpler ones for the second moment. See `transportMoments`.
 */
export type MomentsRule = 'keep' | 'reset' | 'rotate' | 'ldadam' | 'transport' | 'adarank';

/** Two bases of one slot, `[d, r_old]` and `[d, r_new]`. */
export interface BasisChange {
  readonly oldBasis: tf.Tensor2D;
  readonly newBasis: tf.Tensor2D;
  readonly side: Side;
  /** m of a two-sided slot, whose bases hold U `[m, r]` above V `[n, r]`; see `changeOf`. */
  readonly rows?: number | undefined;
}

/** C = P_new' P_old `[r_new, r_old]` on the sides where there is a basis; a two-sided slot has C_U and C_V. */
export interface Overlaps {
  readonly left: tf.Tensor2D | null;
  readonly right: tf.Tensor2D | null;
}

/** The change as it concerns `slot`: with the number of rows where two bases are stacked in one tensor. */
export function changeOf(slot: Slot, change: BasisChange): BasisChange {
  return slot.policy === 'two-sided' ? { ...change, rows: matrixShape(slot)[0] } : change;
}

/** The overlaps of the old and new bases; the caller disposes them. */
export function overlapsOf({ oldBasis, newBasis, side, rows }: BasisChange): Overlaps {
  const overlap = (fresh: tf.Tensor2D, old: tf.Tensor2D): tf.Tensor2D => tf.matMul(fresh, old, true, false);
  if (rows === undefined) {
    const c = overlap(newBasis, oldBasis);
    return side === 'left' ? { left: c, right: null } : { left: null, right: c };
  }
  const upper = (basis: tf.Tensor2D): tf.Tensor2D => tf.slice(basis, [0, 0], [rows, -1]);
  const lower = (basis: tf.Tensor2D): tf.Tensor2D => tf.slice(basis, [rows, 0], [-1, -1]);
  return {
    left: tf.tidy(() => overlap(upper(newBasis), upper(oldBasis))),
    right: tf.tidy(() => overlap(lower(newBasis), lower(oldBasis))),
  };
}

/** C X for side left, X C' for right, C_U X C_V' for a core: X in the new basis. A new tensor. */
export function turned(x: tf.Tensor2D, { left, right }: Overlaps): tf.Tensor2D {
  return tf.tidy(() => {
    const half: tf.Tensor2D = left === null ? x : tf.matMul(left, x);
    return right === null ? half : tf.matMul(half, right, false, true);
  });
}

/**
 * The moments in the new basis; new tensors, the old ones stay the caller's. With C = P_new' P_old
 * `[r_new, r_old]`, c1 = 1 - b1^t, c2 = 1 - b2^t, t = `completedSteps`, for side left M <- C M and
 *   rotate:    V <- (C o C) V, as if the old coordinates were independent;
 *   ldadam:    V <- c2 |(C o C)(V/c2 - (M/c1)^2) + (C M/c1)^2|, the same for the variance about the mean;
 *   transport: the V of ldadam plus (1 - s) v', s_i = sum_k C_ik^2 the share of new direction i that lies in the
 *              old subspace and v the mean of V over the old directions: two bases of noisy gradients have
 *              about half in common, and V from that half alone makes steps that are too long;
 *   adarank:   V <- |C V|, which depends on the signs of the basis vectors.
 * The right side is the mirror image. A core turns on both sides, C_U M C_V' and (C_U o C_U) V (C_V o C_V)'
 * (C_U V C_V' under adarank): its coordinates overlap by the products of the two overlaps. Before the first
 * step there is nothing to carry: zeros.
 * @throws TensorShapeError for `keep` with another rank
 */
export function transportMoments(
  moments: Moments,
  change: BasisChange,
  rule: MomentsRule,
  completedSteps: number,
  betas: readonly [number, number],
): Moments {
  if (rule === 'keep') {
    requireSameRank(change);
    return { m: tf.clone(moments.m), v: tf.clone(moments.v) };
  }
  if (rule === 'reset' || completedSteps === 0) {
    const shape = newShape(moments.m, change);
    return { m: tf.zeros(shape), v: tf.zeros(shape) };
  }
  const [oldM, oldV] = [moments.m as tf.Tensor2D, moments.v as tf.Tensor2D];
  return tf.tidy(() => {
    const overlaps = overlapsOf(change);
    const m = turned(oldM, overlaps);
    switch (rule) {
      case 'rotate':
        return { m, v: turned(oldV, squared(overlaps)) };
      case 'adarank':
        return { m, v: tf.abs(turned(oldV, overlaps)) };
      case 'ldadam':
      case 'transport': {
        const c1 = biasCorrection(betas[0], completedSteps);
        const c2 = biasCorrection(betas[1], completedSteps);
        const variance = tf.sub<tf.Tensor2D>(tf.div(oldV, c2), tf.square(tf.div(oldM, c1)));
        const second = tf.add(turned(variance, squared(overlaps)), tf.square(tf.div(m, c1)));
        const seen = tf.mul<tf.Tensor2D>(tf.abs(second), c2);
        return { m, v: rule === 'ldadam' ? seen : tf.add(seen, unseen(oldV, overlaps)) };
      }
    }
  });
}

/** What V is to have for the share of each new coordinate that no old one saw: the mean of the old ones. */
function unseen(oldV: tf.Tensor2D, { left, right }: Overlaps): tf.Tensor2D {
  const share = (c: tf.Tensor2D): tf.Tensor => tf.minimum(tf.sum(tf.square(c), 1), 1);
  const rows = left === null ? tf.scalar(1) : tf.expandDims(share(left), 1);
  const cols = right === null ? tf.scalar(1) : share(right);
  const turnedAxes = [...(left === null ? [] : [0]), ...(right === null ? [] : [1])];
  return tf.mul(tf.sub(1, tf.mul(rows, cols)), tf.mean(oldV, turnedAxes, true));
}

/** `transportMoments` for a slot's rule: both moments at a refresh. */
export function carryMoments(moments: Moments, input: Omit<CarryInput, 'state'>): Moments {
  const { slot, change, completedSteps, betas } = input;
  return transportMoments(moments, changeOf(slot, change), input.moments, completedSteps, betas);
}

/** The first moment alone, for rules without a second one of its shape. A new tensor. */
export function carryFirstMoment(m: tf.Tensor, input: Omit<CarryInput, 'state' | 'betas'>): tf.Tensor {
  const change = changeOf(input.slot, input.change);
  if (input.moments === 'keep') {
    requireSameRank(change);
    return tf.clone(m);
  }
  if (input.moments === 'reset' || input.completedSteps === 0) return tf.zeros(newShape(m, change));
  return tf.tidy(() => turned(m as tf.Tensor2D, overlapsOf(change)));
}

/** @throws TensorShapeError if the rank changes, so that moments cannot stay as they are */
export function requireSameRank({ oldBasis, newBasis }: BasisChange): void {
  const [oldRank, newRank] = [oldBasis.shape[1], newBasis.shape[1]];
  if (oldRank === newRank) return;
  throw new TensorShapeError(`moments of rank ${oldRank} cannot be kept at rank ${newRank}`);
}

/** Shape of moments in the new basis. */
function newShape(m: tf.Tensor, { newBasis, side, rows: isCore }: BasisChange): [number, number] {
  const [rows = 0, cols = 0] = m.shape;
  const rank = newBasis.shape[1];
  if (isCore !== undefined) return [rank, rank];
  return side === 'left' ? [rank, cols] : [rows, rank];
}

function squared({ left, right }: Overlaps): Overlaps {
  return { left: left && tf.square(left), right: right && tf.square(right) };
}
