/**
 * The slot's step, moment transport and sketch in plain f64: what the tensor code must compute. Kept
 * for reading beside it and for checking it; nothing trains with it. Equations: project-lift.ts,
 * adamw.ts, step-rule.ts and transport.ts.
 */
import { matrix, multiply, transpose, zip, type Matrix } from '../matrix.ts';
import type { SketchPlan } from '../projection/sketch.ts';
import type { MomentsRule } from '../projection/transport.ts';
import type { Side } from '../slot.ts';
import type { Hyperparameters } from './rule.ts';
import { biasCorrection } from './bias-correction.ts';

export interface ReferenceMoments {
  readonly m: Matrix;
  readonly v: Matrix;
}

export interface ReferenceSlot extends ReferenceMoments {
  readonly weight: Matrix;
}

/** R = P'G or GP */
export function referenceProject(gradient: Matrix, basis: Matrix, side: Side): Matrix {
  return side === 'left' ? multiply(transpose(basis), gradient) : multiply(gradient, basis);
}

/** PR or RP' */
export function referenceLift(low: Matrix, basis: Matrix, side: Side): Matrix {
  return side === 'left' ? multiply(basis, low) : multiply(low, transpose(basis));
}

/** GF or G'F; without a factor G or G'. */
export function referenceSketch(
  gradient: Matrix,
  factor: Matrix | null,
  plan: Pick<SketchPlan, 'side'>,
): Matrix {
  const a = plan.side === 'rows' ? gradient : transpose(gradient);
  return factor === null ? a : multiply(a, factor);
}

/** One step of a slot: projected where a basis is given, dense otherwise. Written as the papers print it. */
export function referenceUpdate(
  slot: ReferenceSlot,
  low: Matrix,
  projection: { readonly basis: Matrix; readonly side: Side } | null,
  hyper: Hyperparameters,
): ReferenceSlot {
  const { step, learningRate: lr, betas, eps, weightDecay, semantics } = hyper;
  const [b1, b2] = betas;
  const c1 = biasCorrection(b1, step);
  const c2 = biasCorrection(b2, step);
  const m = zip((old, r) => b1 * old + (1 - b1) * r, slot.m, low);
  const v = zip((old, r) => b2 * old + (1 - b2) * r * r, slot.v, low);
  const direction =
    semantics === 'torch'
      ? zip((mi, vi) => (lr * (mi / c1)) / (Math.sqrt(vi / c2) + eps), m, v)
      : zip((mi, vi) => ((lr * Math.sqrt(c2)) / c1) * (mi / (Math.sqrt(vi) + eps)), m, v);
  const change =
    projection === null
      ? direction
      : zip((x) => hyper.scale * x, referenceLift(direction, projection.basis, projection.side));
  const decay = lr * weightDecay;
  const weight =
    semantics === 'torch'
      ? zip((w, d) => w * (1 - decay) - d, slot.weight, change)
      : zip((w, d) => w - d - decay * (w - d), slot.weight, change);
  return { weight, m, v };
}

/** Two bases of one slot; `rows` as in `BasisChange`. */
export interface ReferenceChange {
  readonly oldBasis: Matrix;
  readonly newBasis: Matrix;
  readonly side: Side;
  readonly rows?: number;
}

/** `transportMoments`. */
export function referenceTransport(
  { m, v }: ReferenceMoments,
  change: ReferenceChange,
  rule: MomentsRule,
  completedSteps: number,
  betas: readonly [number, number],
): ReferenceMoments {
  if (rule === 'keep') return { m, v };
  if (rule === 'reset' || completedSteps === 0) {
    const rank = change.newBasis.cols;
    const isTurned = (side: Side): boolean => change.rows !== undefined || change.side === side;
    const zeros = matrix(isTurned('left') ? rank : m.rows, isTurned('right') ? rank : m.cols);
    return { m: zeros, v: zeros };
  }
  const [left, right] = referenceOverlaps(change);
  const turn = (x: Matrix, f: (c: number) => number): Matrix => {
    const half = left === null ? x : multiply(zip(f, left), x);
    return right === null ? half : multiply(half, transpose(zip(f, right)));
  };
  const newM = turn(m, (c) => c);
  if (rule === 'rotate') return { m: newM, v: turn(v, (c) => c * c) };
  if (rule === 'adarank')
    return {
      m: newM,
      v: zip(
        Math.abs,
        turn(v, (c) => c),
      ),
    };
  const c1 = biasCorrection(betas[0], completedSteps);
  const c2 = biasCorrection(betas[1], completedSteps);
  const variance = zip((vi, mi) => vi / c2 - (mi / c1) ** 2, v, m);
  const spread = turn(variance, (c) => c * c);
  const seen = zip((s, mi) => c2 * Math.abs(s + (mi / c1) ** 2), spread, newM);
  return { m: newM, v: rule === 'ldadam' ? seen : zip((a, b) => a + b, seen, unseen(v, left, right)) };
}

/** For each new coordinate the share no old one saw times the mean of V over the old ones. */
function unseen(v: Matrix, left: Matrix | null, right: Matrix | null): Matrix {
  const share = (c: Matrix | null, i: number): number => {
    if (c === null) return 1;
    let sum = 0;
    for (let k = 0; k < c.cols; k++) sum += c.values[i * c.cols + k]! ** 2;
    return Math.min(1, sum);
  };
  const [rows, cols] = [left?.rows ?? v.rows, right?.rows ?? v.cols];
  const result = matrix(rows, cols);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < cols; j++) {
      let [sum, count] = [0, 0];
      for (let k = left === null ? i : 0; k < (left === null ? i + 1 : v.rows); k++) {
        for (let l = right === null ? j : 0; l < (right === null ? j + 1 : v.cols); l++) {
          sum += v.values[k * v.cols + l]!;
          count++;
        }
      }
      result.values[i * cols + j] = (1 - share(left, i) * share(right, j)) * (sum / count);
    }
  }
  return result;
}

/** C = P_new' P_old on the left and on the right; null where there is no basis. */
export function referenceOverlaps({
  oldBasis,
  newBasis,
  side,
  rows,
}: ReferenceChange): [Matrix | null, Matrix | null] {
  if (rows === undefined) {
    const c = multiply(transpose(newBasis), oldBasis);
    return side === 'left' ? [c, null] : [null, c];
  }
  const part = ({ cols, values }: Matrix, from: number, to: number): Matrix =>
    matrix(to - from, cols, values.subarray(from * cols, to * cols));
  const overlap = (from: number, to: number): Matrix =>
    multiply(transpose(part(newBasis, from, to)), part(oldBasis, from, to));
  return [overlap(0, rows), overlap(rows, oldBasis.rows)];
}
