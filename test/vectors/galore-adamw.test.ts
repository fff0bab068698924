/**
 * GaLoreAdamW of galore-torch, step by step: semantics `galore_torch` with moments kept, through the
 * tensor code and through the f64 reference, with the recorded basis and with our own factorisation.
 */
import test from 'ava';
import { matrix, type Matrix } from '../../src/galore/matrix.ts';
import { referenceProject, referenceSketch, referenceUpdate } from '../../src/galore/optimizer/reference.ts';
import { leadingBasis } from '../../src/galore/projection/factorise.ts';
import { sketch } from '../../src/galore/projection/sketch-gradient.ts';
import { refreshPlan, sketchPlan } from '../../src/galore/projection/sketch.ts';
import { hasBasis, sideOf, type ProjType, type ProjectedSlot, type Side, type Slot } from '../../src/galore/slot.ts';
import type { Hyperparameters } from '../../src/galore/optimizer/rule.ts';
import { OTHER_RULES } from '../galore/apply-update.ts';
import { assertClose, readGolden, type GoldenArray, type Tolerance } from '../galore/golden.ts';
import { runRule } from '../galore/run-rule.ts';
import { tf } from '../galore/tensors.ts';

interface Case {
  readonly name: string;
  readonly rows: number;
  readonly cols: number | null;
  readonly rank: number | null;
  readonly effective_rank: number | null;
  readonly proj_type: ProjType | null;
  readonly side: Side | null;
  readonly update_proj_gap: number | null;
  readonly scale: number | null;
  readonly lr: number;
  readonly betas: [number, number];
  readonly eps: number;
  readonly weight_decay: number;
  readonly sign_invariant: boolean;
  readonly initial_weights: GoldenArray;
  readonly steps: readonly {
    readonly step: number;
    readonly refresh: boolean;
    readonly grad: GoldenArray;
    readonly basis?: GoldenArray;
    readonly singular_values?: GoldenArray;
    readonly weights: GoldenArray;
  }[];
  readonly final_exp_avg: GoldenArray;
  readonly final_exp_avg_sq: GoldenArray;
}

interface Trajectory {
  readonly weights: ArrayLike<number>[];
  readonly m: ArrayLike<number>;
  readonly v: ArrayLike<number>;
}

type BasisOf = (step: Case['steps'][number], slot: ProjectedSlot) => ArrayLike<number>;

const golden = readGolden<{
  tolerance: { injected_basis: Tolerance; own_svd_sign_invariant_cases: Tolerance };
  cases: Case[];
}>('galore-adamw.json');
const EXACT = refreshPlan({ type: 'exact', oversample: 0, power_iterations: 0 });

const recorded: BasisOf = (step) => step.basis!.data;

const ownByTensors: BasisOf = (step, slot) =>
  tf.tidy(() => {
    const gradient = tf.tensor2d(step.grad.data, step.grad.shape as [number, number]);
    const a = sketch(gradient, null, sketchPlan(slot, 1, EXACT));
    return leadingBasis(a.dataSync<'float32'>() as Float32Array, ...a.shape, slot.rank)!.basis;
  });

const ownByReference: BasisOf = (step, slot) => {
  const a = referenceSketch(matrixOf(step.grad), null, sketchPlan(slot, 1, EXACT));
  return leadingBasis(a.values, a.rows, a.cols, slot.rank)!.basis;
};

function matrixOf({ shape, data }: GoldenArray): Matrix {
  const [rows = 1, cols = 1] = shape;
  return matrix(rows, cols, data);
}

/** The slot as buildSlots would make it; its side and rank are compared with the package's. */
function slotOf(c: Case): Slot {
  const spec = { name: c.name, shape: c.initial_weights.shape, index: 0, rule: 'adamw' as const };
  if (c.cols === null || c.rank === null || c.proj_type === null) return { ...spec, policy: 'dense' };
  const side = sideOf(c.proj_type, c.rows, c.cols);
  return { ...spec, policy: 'one-sided', side, rank: Math.min(c.rank, c.rows, c.cols) };
}

function hyperOf(c: Case, step: number): Hyperparameters {
  return {
    ...OTHER_RULES,
    step,
    learningRate: c.lr,
    betas: c.betas,
    eps: c.eps,
    weightDecay: c.weight_decay,
    semantics: 'galore_torch',
    scale: c.scale ?? 1,
  };
}

function runTensors(c: Case, basisOf: BasisOf): Trajectory {
  const slot = slotOf(c);
  const { weights, state } = runRule({
    slot,
    weights: c.initial_weights.data,
    gradients: c.steps.map(({ grad }) => grad.data),
    hyper: (step) => hyperOf(c, step),
    basis: (step) => {
      const at = c.steps[step - 1]!;
      return at.refresh && hasBasis(slot) ? basisOf(at, slot) : undefined;
    },
    moments: 'keep',
  });
  return { weights, m: state['m']!, v: state['v']! };
}

function runReference(c: Case, basisOf: BasisOf): Trajectory {
  const slot = slotOf(c);
  const weights: ArrayLike<number>[] = [];
  const zeros = matrixOf({ ...c.final_exp_avg, data: c.final_exp_avg.data.map(() => 0) });
  let state = { weight: matrixOf(c.initial_weights), m: zeros, v: zeros };
  let basis: Matrix | null = null;
  for (const [i, step] of c.steps.entries()) {
    const gradient = matrixOf(step.grad);
    if (slot.policy === 'one-sided' && step.refresh) {
      const rows = slot.side === 'left' ? c.rows : c.cols!;
      basis = matrix(rows, slot.rank, basisOf(step, slot));
    }
    const projection = slot.policy === 'one-sided' ? { basis: basis!, side: slot.side } : null;
    const low =
      projection === null ? gradient : referenceProject(gradient, projection.basis, projection.side);
    state = referenceUpdate(state, low, projection, hyperOf(c, i + 1));
    weights.push(state.weight.values);
  }
  return { weights, m: state.m.values, v: state.v.values };
}

for (const c of golden.cases) {
  test(`${c.name}: side, rank and refresh steps are the package's`, (t) => {
    const slot = slotOf(c);
    t.is(slot.policy === 'one-sided' ? slot.side : null, c.side);
    t.is(slot.policy === 'one-sided' ? slot.rank : null, c.effective_rank);
    for (const { step, refresh } of c.steps) {
      t.is(c.update_proj_gap !== null && step % c.update_proj_gap === 0, refresh, `step ${step}`);
    }
  });

  for (const [how, run] of [
    ['tensors', runTensors],
    ['the f64 reference', runReference],
  ] as const) {
    test(`${c.name}: ${how} with the recorded basis give its weights and moments`, (t) => {
      const tolerance = golden.tolerance.injected_basis;
      const { weights, m, v } = run(c, recorded);
      c.steps.forEach((step, i) => assertClose(t, weights[i]!, step.weights.data, tolerance, `weights ${i}`));
      assertClose(t, m, c.final_exp_avg.data, tolerance, 'first moment');
      assertClose(t, v, c.final_exp_avg_sq.data, tolerance, 'second moment');
    });

    if (!c.sign_invariant || c.side === null) continue;
    test(`${c.name}: ${how} with our own factorisation give its weights`, (t) => {
      const tolerance = golden.tolerance.own_svd_sign_invariant_cases;
      const { weights } = run(c, run === runTensors ? ownByTensors : ownByReference);
      c.steps.forEach((step, i) => assertClose(t, weights[i]!, step.weights.data, tolerance, `weights ${i}`));
    });
  }

  test(`${c.name}: our singular values are the package's`, (t) => {
    const slot = slotOf(c);
    const refreshes = c.steps.filter((step) => step.singular_values !== undefined);
    t.is(refreshes.length, c.steps.filter((step) => step.refresh).length);
    for (const step of refreshes) {
      if (slot.policy !== 'one-sided') continue;
      const a = referenceSketch(matrixOf(step.grad), null, sketchPlan(slot, 1, EXACT));
      const { singularValues } = leadingBasis(a.values, a.rows, a.cols, Math.min(a.rows, a.cols))!;
      const tolerance = { atol: 1e-6, rtol: 1e-5 };
      assertClose(t, singularValues, step.singular_values!.data, tolerance, `step ${step.step}`);
    }
  });
}
