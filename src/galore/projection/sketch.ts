/**
 * The plan of a refresh: how many rounds, which product of the gradient with which right-hand factor
 * each round takes, and the shapes that travel. No tensors: coordinator and trainers read the same plan.
 *
 * Let A be G for side left and G' for side right, so that the basis is of A's column space. Rounds
 * 1..L, L = 2q + 1, alternate so that the last is on the basis side (Halko, Martinsson & Tropp):
 *   X_1 = A Omega,  X_2 = A' qr(X_1),  X_3 = A qr(X_2),  …,  P = leading left singular vectors of X_L.
 * Each X_i is linear in G: the weighted sum of the trainers' sketches is the sketch of the averaged
 * gradient. With `exact`, L = 1 and Omega = I: the gradient itself travels.
 *
 * A warm start leaves round 1 out: round 2 starts from the old basis with fresh columns of signs instead of
 * qr(X_1), so that a power iteration costs two rounds instead of three. For an adaptive rank the last round's
 * factor has c more columns of signs that the basis is not made from (rank-selection.ts). With `dct` there is
 * one round of s columns, from which columns of a fixed basis are chosen (dct.ts).
 */
import { derive, randomSigns, type RandomKey } from '../../random.ts';
import { basisShape, matrixShape, type ProjectedSlot } from '../slot.ts';

/** `rows`: the product is GF, one row for each row of G. `columns`: it is G'F. */
export type ProductSide = 'rows' | 'columns';

/** The fields of `method.refresh` in the configuration that matter here. */
export interface RefreshOptions {
  readonly type: RefreshType;
  readonly oversample: number;
  readonly power_iterations: number;
  /** Default false. */
  readonly warm_start?: boolean;
  /** c, of an adaptive rank; default 0: the rank is fixed. */
  readonly held_out_columns?: number;
  /** s, with `dct`. */
  readonly dct_columns?: number;
}

export type RefreshType = 'sketch' | 'exact' | 'dct';

/** How every slot of a run is refreshed. */
export interface RefreshPlan {
  readonly type: RefreshType;
  readonly oversample: number;
  /** L, at least 1: the number of the last round. */
  readonly rounds: number;
  /** Slots that have a basis start with round 2. */
  readonly isWarmStart: boolean;
  /** c: columns of signs in the last round that only measure; 0 unless the rank is adaptive. */
  readonly heldOutColumns: number;
  /** s; 0 unless the type is `dct`. */
  readonly dctColumns: number;
}

/** What a trainer computes for one slot in one round. */
export interface SketchPlan {
  readonly side: ProductSide;
  /** Shape of the result, before and after it is summed. */
  readonly sketchShape: readonly [number, number];
  /** Shape of the right-hand factor F without its held-out columns; null: there is none, the gradient itself travels. */
  readonly factorShape: readonly [number, number] | null;
  /** Columns of signs (`heldOut`) that every trainer appends to F; the sketch has them too. */
  readonly heldOutColumns: number;
  /** True when F is the matrix of signs that every trainer makes for itself (`omega`). */
  readonly isOmega: boolean;
  /** True in the last round: its sum is cut to the new basis. */
  readonly isFinal: boolean;
}

/**
 * The refresh of a run from its configuration.
 * @throws RangeError for a warm start or held-out columns with a refresh that has no second round
 */
export function refreshPlan(options: RefreshOptions): RefreshPlan {
  const rounds = sketchRounds(options);
  const isExact = options.type === 'exact';
  const isWarmStart = options.warm_start === true;
  const heldOutColumns = isExact ? 0 : (options.held_out_columns ?? 0); // the whole gradient needs no estimate
  if (rounds < 2 && (isWarmStart || heldOutColumns > 0)) {
    const what = isWarmStart ? 'a warm start' : 'an adaptive rank';
    throw new RangeError(`${what} needs a sketch with a power iteration at least`);
  }
  return {
    type: options.type,
    oversample: options.oversample,
    rounds,
    isWarmStart,
    heldOutColumns,
    dctColumns: options.type === 'dct' ? (options.dct_columns ?? 0) : 0,
  };
}

/** L = 2q + 1 rounds with q power iterations; 1 for exact and dct. */
export function sketchRounds(refresh: Pick<RefreshOptions, 'type' | 'power_iterations'>): number {
  return refresh.type === 'sketch' ? 2 * refresh.power_iterations + 1 : 1;
}

/** The round a slot's refresh starts with; `hasBasis`: it is not the slot's first. */
export function firstRound(refresh: RefreshPlan, hasBasis: boolean): 1 | 2 {
  return refresh.isWarmStart && hasBasis ? 2 : 1;
}

/** Columns of the sketch: l = min(rank + oversample, m, n); for exact, all columns of A; for dct, s at most. */
export function sketchWidth(
  slot: ProjectedSlot,
  refresh: Pick<RefreshPlan, 'type' | 'oversample'> & Partial<Pick<RefreshPlan, 'dctColumns'>>,
): number {
  const [m, n] = matrixShape(slot);
  const columns = slot.side === 'left' ? n : m; // of A
  if (refresh.type === 'exact') return columns;
  if (refresh.type === 'dct') return Math.min(refresh.dctColumns ?? 0, columns);
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
  const isFinal = round === refresh.rounds;
  const heldOutColumns = isFinal ? refresh.heldOutColumns : 0;
  return {
    side: sketchProduct(slot, round, refresh.rounds).side,
    sketchShape: sketchShape(slot, round, refresh.rounds, width + heldOutColumns),
    factorShape: isExact ? null : factorShape(slot, round, refresh.rounds, width),
    heldOutColumns,
    isOmega: !isExact && round === 1,
    isFinal,
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

/**
 * The factor that a warm start puts into round 2: the old basis `[rows, oldRank]`, then columns of signs up to
 * `cols` of them, so that directions the old basis has nothing of can enter. `[rows, cols]`, the same on
 * every trainer. An old basis of more columns is cut.
 */
export function warmStart(
  seed: number,
  step: number,
  slot: ProjectedSlot,
  oldBasis: Float32Array,
  rows: number,
  cols: number,
): Float32Array {
  const oldRank = oldBasis.length / rows;
  const kept = Math.min(oldRank, cols);
  const fresh = signMatrix(derive(seed, 'warm-start', step, slot.index), rows, cols - kept);
  return joinColumns(splitColumns(oldBasis, rows, kept)[0], fresh, rows);
}

/** The columns of signs that the last round measures with: `[rows, cols]`, the same on every trainer. */
export function heldOut(
  seed: number,
  step: number,
  slot: ProjectedSlot,
  rows: number,
  cols: number,
): Float32Array {
  return signMatrix(derive(seed, 'held-out', step, slot.index), rows, cols);
}

/** [A B] for row-major matrices of the same number of rows: a factor with its held-out columns. */
export function joinColumns(a: Float32Array, b: Float32Array, rows: number): Float32Array {
  const [aCols, bCols] = [a.length / rows, b.length / rows];
  const joined = new Float32Array(a.length + b.length);
  for (let i = 0; i < rows; i++) {
    joined.set(a.subarray(i * aCols, (i + 1) * aCols), i * (aCols + bCols));
    joined.set(b.subarray(i * bCols, (i + 1) * bCols), i * (aCols + bCols) + aCols);
  }
  return joined;
}

/** The inverse of `joinColumns`: the first `cols` columns and the others. */
export function splitColumns(
  joined: Float32Array,
  rows: number,
  cols: number,
): readonly [Float32Array, Float32Array] {
  const all = joined.length / rows;
  const first = new Float32Array(rows * cols);
  const others = new Float32Array(rows * (all - cols));
  for (let i = 0; i < rows; i++) {
    first.set(joined.subarray(i * all, i * all + cols), i * cols);
    others.set(joined.subarray(i * all + cols, (i + 1) * all), i * (all - cols));
  }
  return [first, others];
}

/** A `[rows, cols]` matrix of +1 and -1, row-major: element i is sign i of the stream. */
export function signMatrix(key: RandomKey, rows: number, cols: number): Float32Array {
  return randomSigns(key, rows * cols);
}

/** The basis of a slot whose first refresh saw only zeros: the first r unit vectors; two-sided twice, for U and for V. */
export function unitBasis(slot: ProjectedSlot): Float32Array {
  const [rows, cols] = basisShape(slot);
  const basis = new Float32Array(rows * cols);
  const starts = slot.policy === 'two-sided' ? [0, matrixShape(slot)[0]] : [0];
  for (const start of starts) for (let j = 0; j < cols; j++) basis[(start + j) * cols + j] = 1;
  return basis;
}
