/**
 * What a refresh costs and how good its basis is, on this machine and without network: the sketches of one
 * trainer and the factorisations, cold and warm, against the full singular value decomposition that the GaLore
 * paper takes. SHELL: reads the clock; the engine must have been loaded.
 */
import * as tf from '@tensorflow/tfjs-core';
import { sketch } from '../galore/projection/sketch-gradient.ts';
import {
  firstRound,
  omega,
  refreshPlan,
  signMatrix,
  sketchPlan,
  warmStart,
  type RefreshOptions,
  type RefreshPlan,
} from '../galore/projection/sketch.ts';
import { matrixShape, sideOf, type ProjectedSlot } from '../galore/slot.ts';
import { derive } from '../random.ts';
import { fullSvd } from './engine/decompositions.ts';
import { factorise } from './factorising.ts';

const SEED = 1;
const STEP = 2;

export interface RefreshQuestion {
  readonly rank: number;
  readonly oversample: number;
  readonly powerIterations: number;
  /** Timed runs of each way, taken in turn after one that is not timed. */
  readonly repeats: number;
}

/** A gradient and one from some time before, whose basis a warm start begins with. */
export interface GradientPair {
  readonly name: string;
  readonly gradient: tf.Tensor2D;
  readonly earlier: tf.Tensor2D;
}

export interface WayMeasurement {
  /** Median of the repeats. */
  readonly ms: number;
  /** Milliseconds of the full decomposition over these. */
  readonly ratio: number;
  /** |P'G|^2 over that of the best basis of the rank. */
  readonly capturedShare: number;
}

export interface RefreshMeasurement {
  readonly name: string;
  readonly rows: number;
  readonly cols: number;
  readonly rank: number;
  /** Milliseconds of TensorFlow's `Svd` in f32 with both sides' vectors, not full: the median. */
  readonly svdMs: number;
  /** Share of the gradient's energy that the best basis of the rank captures. */
  readonly bestShare: number;
  /** Without a basis to begin with. */
  readonly cold: WayMeasurement;
  /** From the basis of the gradient before; null without power iterations. */
  readonly warm: WayMeasurement | null;
  /** `refresh.type: exact` */
  readonly exact: WayMeasurement;
  /** The basis of the gradient before, unchanged: what a refresh is there to improve. */
  readonly earlierCapturedShare: number;
}

/** The full decomposition and the ways to make a basis of one matrix; each call does all of it once more. */
export interface RefreshWays {
  readonly slot: ProjectedSlot;
  readonly earlierBasis: Float32Array;
  /** Gives the singular values. */
  readonly svd: () => Float32Array;
  readonly cold: () => Float32Array;
  readonly warm: () => Float32Array;
  readonly exact: () => Float32Array;
}

/** What `measureRefresh` takes the time of. */
export function refreshWays(
  { name, gradient, earlier }: GradientPair,
  question: Omit<RefreshQuestion, 'repeats'>,
): RefreshWays {
  const [rows, cols] = gradient.shape;
  const slot: ProjectedSlot = {
    name,
    shape: [rows, cols],
    index: 0,
    policy: 'one-sided',
    rule: 'adamw',
    side: sideOf('std', rows, cols),
    rank: Math.min(question.rank, rows, cols),
  };
  const options = {
    type: 'sketch',
    oversample: question.oversample,
    power_iterations: question.powerIterations,
    warm_start: question.powerIterations > 0,
  } as const satisfies RefreshOptions;
  const plan = refreshPlan(options);
  const exactPlan = refreshPlan({ ...options, type: 'exact', warm_start: false });
  const earlierBasis = refreshLocally(earlier, slot, plan, null);
  return {
    slot,
    earlierBasis,
    svd: () => fullSvd(gradient),
    cold: () => refreshLocally(gradient, slot, plan, null),
    warm: () => refreshLocally(gradient, slot, plan, earlierBasis),
    exact: () => refreshLocally(gradient, slot, exactPlan, null),
  };
}

/** Measures the refresh of one matrix. */
export function measureRefresh(pair: GradientPair, question: RefreshQuestion): RefreshMeasurement {
  const { gradient } = pair;
  const [rows, cols] = gradient.shape;
  const { slot, earlierBasis, ...ways } = refreshWays(pair, question);
  const { rank } = slot;
  const { times, results } = timeInTurn(ways, question.repeats);
  const energies = results.svd.map((s) => s * s);
  const total = energies.reduce((sum, energy) => sum + energy, 0);
  const best = energies.slice(0, rank).reduce((sum, energy) => sum + energy, 0);
  const share = (basis: Float32Array): number =>
    best === 0 ? 1 : capturedEnergy(gradient, slot, basis) / best;
  const way = (name: 'cold' | 'warm' | 'exact'): WayMeasurement => ({
    ms: times[name],
    ratio: times.svd / times[name],
    capturedShare: share(results[name]),
  });
  return {
    name: pair.name,
    rows,
    cols,
    rank,
    svdMs: times.svd,
    bestShare: total === 0 ? 1 : best / total,
    cold: way('cold'),
    warm: question.powerIterations > 0 ? way('warm') : null,
    exact: way('exact'),
    earlierCapturedShare: share(earlierBasis),
  };
}

/**
 * Two gradients with a spectrum like those of a language model in training (it falls like j^-0.75 and has no end),
 * the earlier one turned away from the other. The caller disposes them.
 */
export function syntheticGradients(rows: number, cols: number): GradientPair {
  const rank = Math.min(rows, cols);
  const low = (label: string): tf.Tensor2D =>
    tf.tidy(() => {
      const left = tf.tensor2d(signMatrix(derive(SEED, 'left', label), rows, rank), [rows, rank]);
      const right = tf.tensor2d(signMatrix(derive(SEED, 'right', label), rank, cols), [rank, cols]);
      const spectrum = tf.tensor1d(Float32Array.from({ length: rank }, (_, j) => (j + 1) ** -0.75));
      return tf.matMul(tf.mul(left, spectrum), right) as tf.Tensor2D;
    });
  const [gradient, other] = [low('gradient'), low('other')];
  const earlier = tf.tidy(() => tf.add(tf.mul(gradient, 0.6), tf.mul(other, 0.8)) as tf.Tensor2D);
  other.dispose();
  return { name: 'synthetic', gradient, earlier };
}

/** All rounds of a refresh where one trainer has the whole gradient; the basis. @throws RangeError for a zero gradient */
export function refreshLocally(
  gradient: tf.Tensor2D,
  slot: ProjectedSlot,
  plan: RefreshPlan,
  oldBasis: Float32Array | null,
): Float32Array {
  const first = firstRound(plan, oldBasis !== null);
  let factor: Float32Array | null = null;
  for (let round: number = first; round <= plan.rounds; round++) {
    const { side, factorShape } = sketchPlan(slot, round, plan);
    if (round === first && factorShape !== null) {
      factor =
        oldBasis !== null && first === 2
          ? warmStart(SEED, STEP, slot, oldBasis, ...factorShape)
          : omega(SEED, STEP, slot, ...factorShape);
    }
    const sum = tf.tidy(() => {
      const right = factor === null || factorShape === null ? null : tf.tensor2d(factor, [...factorShape]);
      return sketch(gradient, right, { side });
    });
    factor = factorise(slot, round, plan, sum.dataSync<'float32'>() as Float32Array);
    sum.dispose();
    if (factor === null) throw new RangeError(`the gradient of ${slot.name} is zero`);
  }
  return factor!;
}

/** |P'G|^2, or |GP|^2 for side right. */
export function capturedEnergy(gradient: tf.Tensor2D, slot: ProjectedSlot, basis: Float32Array): number {
  const [m, n] = matrixShape(slot);
  return tf.tidy(() => {
    const p = tf.tensor2d(basis, [slot.side === 'left' ? m : n, slot.rank]);
    const low = slot.side === 'left' ? tf.matMul(p, gradient, true) : tf.matMul(gradient, p);
    return tf.sum(tf.square(low)).dataSync<'float32'>()[0]!;
  });
}

type Ways = Record<string, () => Float32Array>;

/** Runs all ways in turn, so that what else the machine does meets all alike; medians, and the last results. */
function timeInTurn<W extends Ways>(
  ways: W,
  repeats: number,
): { readonly times: Record<keyof W, number>; readonly results: Record<keyof W, Float32Array> } {
  const names = Object.keys(ways) as (keyof W)[];
  const samples = new Map(names.map((name) => [name, [] as number[]]));
  const results = {} as Record<keyof W, Float32Array>;
  for (let turn = 0; turn <= repeats; turn++) {
    for (const name of names) {
      const startMs = performance.now();
      results[name] = ways[name]!();
      if (turn > 0) samples.get(name)!.push(performance.now() - startMs);
    }
  }
  const median = (values: readonly number[]): number => {
    const sorted = values.toSorted((a, b) => a - b);
    return (sorted[(sorted.length - 1) >> 1]! + sorted[sorted.length >> 1]!) / 2;
  };
  const times = Object.fromEntries(names.map((name) => [name, median(samples.get(name)!)]));
  return { times: times as Record<keyof W, number>, results };
}
