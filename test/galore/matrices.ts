/** Matrices for tests: random ones, ones with a given spectrum, and how far two are apart. */
import { matrix, multiply, transpose, zip, type Matrix } from '../../src/galore/matrix.ts';
import { referenceSketch } from '../../src/galore/optimizer/reference.ts';
import { leadingBasis, orthonormalise } from '../../src/galore/projection/factorise.ts';
import {
  firstRound,
  omega,
  sketchPlan,
  warmStart,
  type RefreshPlan,
} from '../../src/galore/projection/sketch.ts';
import { basisShape, type ProjectedSlot, type Side } from '../../src/galore/slot.ts';
import { derive, randomNormal } from '../../src/random.ts';

export function projectedSlot(m: number, n: number, side: Side, rank: number): ProjectedSlot {
  return { name: 'mlp.weight', shape: [m, n], index: 3, policy: 'one-sided', rule: 'adamw', side, rank };
}

/** Standard normal entries; equal labels give equal matrices. */
export function randomMatrix(rows: number, cols: number, ...labels: (string | number)[]): Matrix {
  const key = derive(1, 'test', ...labels);
  return matrix(
    rows,
    cols,
    Float64Array.from({ length: rows * cols }, (_, i) => randomNormal(key, i)),
  );
}

export function orthonormalMatrix(rows: number, cols: number, ...labels: (string | number)[]): Matrix {
  const { values } = randomMatrix(rows, cols, ...labels);
  return matrix(rows, cols, orthonormalise(values, rows, cols));
}

/** G_t[i][j] = sin(1 + 3i + 7j + 2t) + 0.5 cos(ij + 0.3t): the gradients of golden trajectories. */
export function formulaGradient(rows: number, cols: number, t: number): Matrix {
  return matrix(
    rows,
    cols,
    Array.from({ length: rows * cols }, (_, at) => {
      const [i, j] = [Math.floor(at / cols), at % cols];
      return Math.sin(1 + 3 * i + 7 * j + 2 * t) + 0.5 * Math.cos(i * j + 0.3 * t);
    }),
  );
}

/** W_0[i][j] = 0.1 (i - j): where they start. */
export function formulaWeights(rows: number, cols: number): Matrix {
  return matrix(
    rows,
    cols,
    Array.from({ length: rows * cols }, (_, at) => 0.1 * (Math.floor(at / cols) - (at % cols))),
  );
}

/** U diag(spectrum) V' with random U and V. */
export function matrixWithSpectrum(
  rows: number,
  cols: number,
  spectrum: ArrayLike<number>,
  ...labels: (string | number)[]
): Matrix {
  const u = orthonormalMatrix(rows, spectrum.length, 'u', ...labels);
  const v = orthonormalMatrix(cols, spectrum.length, 'v', ...labels);
  u.values.forEach((x, i) => (u.values[i] = x * spectrum[i % spectrum.length]!));
  return multiply(u, transpose(v));
}

export function maxDifference(a: Matrix, b: Matrix): number {
  return zip((x, y) => Math.abs(x - y), a, b).values.reduce((x, y) => Math.max(x, y), 0);
}

/** Largest entry of |P'P - I|. */
export function orthonormalityError(basis: Matrix): number {
  const gram = multiply(transpose(basis), basis);
  const identity = matrix(basis.cols, basis.cols);
  for (let j = 0; j < basis.cols; j++) identity.values[j * basis.cols + j] = 1;
  return maxDifference(gram, identity);
}

export function squaredNorm(a: Matrix): number {
  return a.values.reduce((sum, x) => sum + x * x, 0);
}

/** A sum of matrices with weights, in f64. */
export function weightedSum(terms: readonly { readonly weight: number; readonly value: Matrix }[]): Matrix {
  const [first, ...rest] = terms;
  const start = zip((x) => first!.weight * x, first!.value);
  return rest.reduce((sum, { weight, value }) => zip((s, x) => s + weight * x, sum, value), start);
}

/**
 * A whole refresh of one slot as the swarm does it, in f64: each round's sketches of all trainers
 * summed with their weights, then factorised. The basis, or null when the sum was zero. `oldBasis`: where a
 * warm start begins.
 */
export function refreshBasis(
  slot: ProjectedSlot,
  gradients: readonly { readonly weight: number; readonly value: Matrix }[],
  refresh: RefreshPlan,
  step: number,
  seed: number = 7,
  oldBasis: Matrix | null = null,
): Matrix | null {
  let factor: Matrix | null = null;
  let round: number = firstRound(refresh, oldBasis !== null);
  if (round === 2 && oldBasis !== null) {
    const [rows, cols] = sketchPlan(slot, round, refresh).factorShape!;
    factor = matrix(rows, cols, warmStart(seed, step, slot, Float32Array.from(oldBasis.values), rows, cols));
  }
  for (; round < refresh.rounds; round++) {
    const sum = sketchSum(slot, gradients, refresh, round, factor, step, seed);
    factor = matrix(sum.rows, sum.cols, orthonormalise(sum.values, sum.rows, sum.cols));
  }
  const sum = sketchSum(slot, gradients, refresh, refresh.rounds, factor, step, seed);
  const leading = leadingBasis(sum.values, sum.rows, sum.cols, slot.rank);
  return leading === null ? null : matrix(...basisShape(slot), leading.basis);
}

function sketchSum(
  slot: ProjectedSlot,
  gradients: readonly { readonly weight: number; readonly value: Matrix }[],
  refresh: RefreshPlan,
  round: number,
  previous: Matrix | null,
  step: number,
  seed: number,
): Matrix {
  const plan = sketchPlan(slot, round, refresh);
  const factor =
    plan.isOmega && plan.factorShape !== null
      ? matrix(...plan.factorShape, omega(seed, step, slot, ...plan.factorShape))
      : previous;
  return weightedSum(
    gradients.map(({ weight, value }) => ({ weight, value: referenceSketch(value, factor, plan) })),
  );
}
