/**
 * LDAdam (arXiv 2410.16103, algorithm 1): the basis moves in every step, by one power iteration on a mix
 * of momentum and gradient; the moments move with it, and what the subspace cannot hold is put off to
 * later steps by generalised error feedback. Side left below; right is the mirror image.
 *   A = G + E                                          E: state `error`, [m, n]
 *   B = rho P M / (1 - b1^(t-1)) + (1 - rho) A         rho = b1, as in the reference
 *   P_new = qr(B B' P),  M, V <- transport (transport.ts),  Adam on R = P_new' A
 *   E <- (A - P_new R) + b1 / (1 - b1) (P M_old - P_new M_transported)
 */
import * as tf from '@tensorflow/tfjs-core';
import { derive } from '../../random.ts';
import { leadingBasis, orthonormalise } from '../projection/factorise.ts';
import { lift, project } from '../projection/project-lift.ts';
import { signMatrix, unitBasis } from '../projection/sketch.ts';
import { carryMoments, transportMoments } from '../projection/transport.ts';
import { hasBasis, matrixShape, type ProjectedSlot } from '../slot.ts';
import { updatedWeight } from '../step-rule.ts';
import { adamwRule, adamwStep, momentsOf, type Moments } from './adamw.ts';
import { biasCorrection } from './bias-correction.ts';
import type { Hyperparameters, OptimizerRule } from './rule.ts';

/**
 * The rule of dense slots whose basis it moves itself; it is null in the first step. Slots without a
 * basis are updated by AdamW.
 */
export const ldadamRule: OptimizerRule = {
  step(input) {
    const { slot, weight, payload, basis, hyper } = input;
    if (!hasBasis(slot)) return adamwRule.step(input);
    return tf.tidy(() => {
      const old = momentsOf(input.state);
      const gathered = tf.add<tf.Tensor2D>(payload, input.state['error'] as tf.Tensor);
      const next =
        basis === null ? firstBasis(slot, gathered) : movedBasis(slot, gathered, old, basis, hyper);
      const change = { oldBasis: basis ?? next, newBasis: next, side: slot.side };
      const moments = transportMoments(old, change, 'ldadam', hyper.step - 1, hyper.betas);
      const low = project(gathered, next, slot.side, tf.matMul);
      const { m, v, direction } = adamwStep(low, moments, hyper, hyper.scale);
      const error = postponed(slot, gathered, { low, old, moments, basis, next }, hyper);
      const lifted = lift(direction as tf.Tensor2D, next, slot.side);
      return { weight: updatedWeight(weight, lifted, hyper), state: { m, v, error }, basis: next };
    });
  },
  carry(input) {
    const { m, v } = carryMoments(momentsOf(input.state), input);
    return { m, v, error: tf.clone(input.state['error'] as tf.Tensor) };
  },
};

/** Two bases, and what was projected on them. */
interface Move {
  readonly low: tf.Tensor2D;
  readonly old: Moments;
  /** `old`, transported. */
  readonly moments: Moments;
  readonly basis: tf.Tensor2D | null;
  readonly next: tf.Tensor2D;
}

/** E: with k = b1 / (1 - b1), A + P (k M_old) - P_new (R + k M_transported). */
function postponed(
  { side }: ProjectedSlot,
  gathered: tf.Tensor2D,
  { low, old, moments, basis, next }: Move,
  { betas }: Hyperparameters,
): tf.Tensor2D {
  const weight = betas[0] / (1 - betas[0]);
  return tf.tidy(() => {
    const held = tf.tidy(() => lift(tf.add(low, tf.mul(moments.m, weight)), next, side));
    const rest = tf.sub<tf.Tensor2D>(gathered, held);
    if (basis === null) return rest;
    held.dispose();
    return tf.add(rest, lift(tf.mul(old.m as tf.Tensor2D, weight), basis, side));
  });
}

/** Columns of the sketch beyond the rank, for the first basis. */
const OVERSAMPLE = 8;

/**
 * The leading singular vectors of the first gradient, by a sketch and one power iteration: X = A A' qr(A Omega).
 * Equal gradients give equal bases; a zero gradient the first unit vectors.
 */
function firstBasis(slot: ProjectedSlot, gradient: tf.Tensor2D): tf.Tensor2D {
  const [m, n] = matrixShape(slot);
  const [rows, others] = slot.side === 'left' ? [m, n] : [n, m];
  const width = Math.min(slot.rank + OVERSAMPLE, m, n);
  const isLeft = slot.side === 'left';
  const omega = tf.tensor2d(signMatrix(derive(0, 'ldadam', slot.index), others, width), [others, width]);
  const start = tf.matMul(gradient, omega, !isLeft, false);
  const columns = tf.tensor2d(Float32Array.from(orthonormalise(valuesOf(start), rows, width)), [rows, width]);
  const along = tf.matMul(gradient, columns, isLeft, false);
  const leading = leadingBasis(valuesOf(tf.matMul(gradient, along, !isLeft, false)), rows, width, slot.rank);
  return tf.tensor2d(leading?.basis ?? unitBasis(slot), [rows, slot.rank]);
}

/** qr(B B' P) without making B. */
function movedBasis(
  { side, rank }: ProjectedSlot,
  gathered: tf.Tensor2D,
  { m }: Moments,
  basis: tf.Tensor2D,
  { betas, step }: Hyperparameters,
): tf.Tensor2D {
  const [rho] = betas;
  const ofMomentum = rho / biasCorrection(rho, step - 1);
  const ofGradient = 1 - rho;
  const isLeft = side === 'left';
  const product = tf.tidy(() => {
    const momentum = tf.mul<tf.Tensor2D>(m, ofMomentum); // P'B or BP has this of the momentum, as P'P = I
    const along = tf.tidy(() => {
      const fromGradient = tf.mul(tf.matMul(gathered, basis, isLeft, false), ofGradient);
      return tf.add<tf.Tensor2D>(fromGradient, isLeft ? tf.transpose(momentum) : momentum);
    }); // B'P or BP
    const inside = tf.matMul(momentum, along, !isLeft, false); // [r, r]
    const fromGradient = tf.mul(tf.matMul(gathered, along, !isLeft, false), ofGradient);
    return tf.add<tf.Tensor2D>(fromGradient, tf.matMul(basis, inside));
  });
  const [rows] = basis.shape;
  const values = valuesOf(product);
  product.dispose();
  return tf.tensor2d(Float32Array.from(orthonormalise(values, rows, rank)), [rows, rank]);
}

function valuesOf(x: tf.Tensor): Float32Array {
  return x.dataSync<'float32'>();
}
