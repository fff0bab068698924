/**
 * The plan of a refresh: how many rounds, which product of the gradient with which right-hand factor
 * each round takes, and the shapes that travel. No tensors: coordinator and trainers read the same plan.
 *
 * Let A be G for side left and G' for side right, so that the basis is of A's column space. Rounds
 * 1..L, L = 2q + 1, alternate so that the last is on the basis side (Halko, Martinsson & Tropp):
 *   X_1 = A Omega,  X_2 = A' qr(X_1),  X_3 = A qr(X_2),  …,  P = leading left singular vectors of X_L.
 * Each X_i is linear in G: the weighted sum of the trainers' sketches is the sketch of the averaged
 * gradient. With `exact`, L = 1 and Omega = I: the gradient itself travels.
 */
import { derive, randomSign, type RandomKey } from '../../random.ts';
import { basisShape, matrixShape, type ProjectedSlot } from '../slot.ts';

/** `rows`: the product is GF, one row for each row of G. `columns`: it is G'F. */
export type ProductSide = 'rows' | 'columns';

/** The fields of `method.refresh` in the configuration that matter here. */
export interface RefreshOptions {
  readonly type: 'sketch' | 'exact';
  readonly oversample: number;
  readonly power_iterations: number;
}

/** How every slot of a run is refreshed. */
export interface RefreshPlan {
  readonly type: 'sketch' | 'exact';
  readonly oversample: number;
  /** L, at least 1. */
  readonly rounds: number;
}

/** What a trainer computes for one slot in one round. */
export interface SketchPlan {
  readonly side: ProductSide;
  /** Shape of the result, before and after it is summed. */
  readonly sketchShape: readonly [number, number];
  /** Shape of the right-hand factor F; null: there is none, the gradient itself travels. */
  readonly factorShape: readonly [number, number] | null;
  /** True when F is the matrix of signs that every trainer makes for itself (`omega`). */
  readonly isOmega: boolean;
  /** True in the last round: its sum is cut to the new basis. */
  readonly isFinal: boolean;
}

/** The refresh of a run from its configuration. */
export function refreshPlan(options: RefreshOptions): RefreshPlan {
  return { type: options.type, oversample: options.oversample, rounds: sketchRounds(options) };
}

/** L = 2q + 1 rounds with q power iterations; 1 for exact. */
export function sketchRounds(refresh: Pick<RefreshOptions, 'type' | 'power_iterations'>): number {
  return refresh.type === 'exact' ? 1 : 2 * refresh.power_iterations + 1;
}

/** Columns of the sketch: l = min(rank + oversample, m, n); for exact, all columns of A. */
export function sketchWidth(
  slot: ProjectedSlot,
  refresh: Pick<RefreshOptions, 'type' | 'oversample'>,
): number {
  const [m, n] = matrixShape(slot);
  if (refresh.type === 'exact') return slot.side === 'left' ? n : m;
  return Math.min(slot.rank + refresh.oversample, m, n);
}

/** The product of round `round` (from 1) of `rounds`, with the row counts of the sketch and of the factor. */
export function sketchProduct(
  slot: ProjectedSlot,
  round: number,
  rounds: number,
): { readonly side: ProductSide; readonly sketchRows: number; readonly factorRows: number } {
  if (!(Number.isInteger(round) && round >= 1 && round <= rounds)) {
    throw new RangeError(`round ${round} is not one of 1 to ${rounds}`);
  }
  const [m, n] = matrixShape(slot);
  const isOnBasisSide = (rounds - round) % 2 === 0;
  const side = (slot.side === 'left') === isOnBasisSide ? 'rows' : 'columns';
  return side === 'rows' ? { side, sketchRows: m, factorRows: n } : { side, sketchRows: n, factorRows: m };
}

/** Shape of the sketch of a round, `width` from `sketchWidth`. */
export function sketchShape(
  slot: ProjectedSlot,
  round: number,
  rounds: number,
  width: number,
): readonly [number, number] {
  return [sketchProduct(slot, round, rounds).sketchRows, width];
}

/** Shape of the right-hand factor of a round. */
export function factorShape(
  slot: ProjectedSlot,
  round: number,
  rounds: number,
  width: number,
): readonly [number, number] {
  return [sketchProduct(slot, round, rounds).factorRows, width];
}

/** All of the above for one round of a slot's refresh. */
export function sketchPlan(slot: ProjectedSlot, round: number, refresh: RefreshPlan): SketchPlan {
  const width = sketchWidth(slot, refresh);
  const isExact = refresh.type === 'exact';
  return {
    side: sketchProduct(slot, round, refresh.rounds).side,
    sketchShape: sketchShape(slot, round, refresh.rounds, width),
    factorShape: isExact ? null : factorShape(slot, round, refresh.rounds, width),
    isOmega: !isExact && round === 1,
    isFinal: round === refresh.rounds,
  };
}

/** Omega of a slot's first round: the same on every trainer for equal seed, step and slot. */
export function omega(
  seed: number,
  step: number,
  slot: ProjectedSlot,
  rows: number,
  cols: number,
): Float32Array {
  return signMatrix(derive(seed, 'omega', step, slot.index), rows, cols);
}

/** A `[rows, cols]` matrix of +1 and -1, row-major: element i is sign i of the stream. */
export function signMatrix(key: RandomKey, rows: number, cols: number): Float32Array {
  const signs = new Float32Array(rows * cols);
  for (let i = 0; i < signs.length; i++) signs[i] = randomSign(key, i);
  return signs;
}

/** The basis of a slot whose first refresh saw only zeros: the first r unit vectors; two-sided twice, for U and for V. */
export function unitBasis(slot: ProjectedSlot): Float32Array {
  const [rows, cols] = basisShape(slot);
  const basis = new Float32Array(rows * cols);
  const starts = slot.policy === 'two-sided' ? [0, matrixShape(slot)[0]] : [0];
  for (const start of starts) for (let j = 0; j < cols; j++) basis[(start + j) * cols + j] = 1;
  return basis;
}
