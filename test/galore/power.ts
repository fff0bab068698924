/** Slots that travel as power, and the method in plain f64 (compression-study's rule), for tests. */
import { matrix, multiply, transpose, zip, type Matrix } from '../../src/galore/matrix.ts';
import type { Hyperparameters } from '../../src/galore/optimizer/rule.ts';
import { orthonormalise } from '../../src/galore/projection/factorise.ts';
import { isTallStep, matrixShape, type BufferDtype, type PowerSlot } from '../../src/galore/slot.ts';

export function powerSlot(m: number, n: number, rank: number, buffers: BufferDtype = 'int8'): PowerSlot {
  return {
    ...{ name: 'mlp.weight', shape: [m, n], index: 3, policy: 'power', rule: 'power', feedback: 'gradient' },
    ...{ rank, phase: 0, buffers: { feedback: buffers, moment: buffers } },
  };
}

/** What all trainers share of a slot. */
export interface ReferencePower {
  readonly weight: Matrix;
  readonly m: Matrix;
  readonly row: Matrix; // [m, 1]
  readonly col: Matrix; // [1, n]
  readonly p: Matrix;
  readonly w: Matrix;
}

/** EW in a tall step, else P'E. */
export function referenceSketch(
  slot: PowerSlot,
  step: number,
  error: Matrix,
  { p, w }: ReferencePower,
): Matrix {
  return isTallStep(slot, step) ? multiply(error, w) : multiply(transpose(p), error);
}

/** YW' in a tall step, else PR. */
export function referenceLift(
  slot: PowerSlot,
  step: number,
  payload: Matrix,
  { p, w }: ReferencePower,
): Matrix {
  return isTallStep(slot, step) ? multiply(payload, transpose(w)) : multiply(p, payload);
}

/** The rule of docs/algorithm.md with the means taken over the lifted sum itself. */
export function referencePowerStep(
  slot: PowerSlot,
  payload: Matrix,
  state: ReferencePower,
  { step, betas: [beta1, beta2], eps, learningRate, scale, updateClip, weightDecay }: Hyperparameters,
): ReferencePower {
  const [rows, cols] = matrixShape(slot);
  const lifted = referenceLift(slot, step, payload, state);
  const [c1, c2] = [1 - beta1 ** step, 1 - beta2 ** step];
  const m = zip((a, b) => beta1 * a + (1 - beta1) * b, state.m, lifted);
  const [rowMean, colMean] = [matrix(rows, 1), matrix(1, cols)];
  lifted.values.forEach((value, i) => {
    rowMean.values[Math.floor(i / cols)]! += (value * value + 1e-30) / cols;
    colMean.values[i % cols]! += (value * value + 1e-30) / rows;
  });
  const decayed = (old: Matrix, mean: Matrix) => zip((a, b) => beta2 * a + (1 - beta2) * b, old, mean);
  const [row, col] = [decayed(state.row, rowMean), decayed(state.col, colMean)];
  const mean = row.values.reduce((sum, value) => sum + value / rows, 0);
  const product = multiply(row, col);
  const direction = zip((a, v) => a / c1 / (Math.sqrt(v / mean / c2) + eps), m, product);
  const rms = Math.sqrt(direction.values.reduce((sum, u) => sum + (u * u) / (rows * cols), 0));
  const rate = (learningRate * (slot.scale ?? scale)) / Math.max(1, rms / updateClip);
  const weight = zip((a, u) => a * (1 - learningRate * weightDecay) - rate * u, state.weight, direction);
  const next = { weight, m, row, col };
  const orthonormal = (x: Matrix) => matrix(x.rows, x.cols, orthonormalise(x.values, x.rows, x.cols));
  return isTallStep(slot, step)
    ? { ...next, p: orthonormal(payload), w: state.w }
    : { ...next, p: state.p, w: orthonormal(transpose(payload)) };
}
