/**
 * torch.optim.SGD and GaLoreAdafactor of galore-torch through the rules that train: sgd.json and
 * galore-adafactor.json, the latter with the recorded bases and with our own factorisation.
 */
import test from 'ava';
import { matrix, transpose } from '../../src/galore/matrix.ts';
import type { Hyperparameters } from '../../src/galore/optimizer/rule.ts';
import { leadingBasis } from '../../src/galore/projection/factorise.ts';
import { hasBasis, sideOf, type ProjType, type Side, type Slot } from '../../src/galore/slot.ts';
import { assertClose, hasGolden, readGolden, type GoldenArray, type Tolerance } from '../galore/golden.ts';
import { runRule } from '../galore/run-rule.ts';

interface SgdCase {
  readonly name: string;
  readonly lr: number;
  readonly momentum: number;
  readonly nesterov: boolean;
  readonly weight_decay: number;
  readonly initial_weights: GoldenArray;
  readonly steps: readonly { readonly grad: GoldenArray; readonly weights: GoldenArray }[];
}

interface AdafactorCase {
  readonly name: string;
  readonly rows: number;
  readonly cols: number;
  readonly rank: number | null;
  readonly proj_type: ProjType | null;
  readonly side: Side | null;
  readonly scale: number | null;
  readonly eps: [number, number];
  readonly clip_threshold: number;
  readonly decay_rate: number;
  readonly lr: number | null;
  readonly beta1: number | null;
  readonly weight_decay: number;
  readonly scale_parameter: boolean;
  readonly relative_step: boolean;
  readonly sign_invariant: boolean;
  readonly initial_weights: GoldenArray;
  readonly steps: readonly {
    readonly grad: GoldenArray;
    readonly basis?: GoldenArray;
    readonly weights: GoldenArray;
  }[];
  readonly final_exp_avg_sq_row: GoldenArray;
  readonly final_exp_avg_sq_col: GoldenArray;
}

function registerSgd(c: SgdCase, tolerance: Tolerance): void {
  test(`sgd ${c.name}: the rule gives its weights`, (t) => {
    const slot: Slot = {
      name: c.name,
      shape: c.initial_weights.shape,
      index: 0,
      policy: 'dense',
      rule: c.momentum === 0 ? 'sgd' : 'sgd-momentum',
    };
    const { weights } = runRule({
      slot,
      weights: c.initial_weights.data,
      gradients: c.steps.map(({ grad }) => grad.data),
      hyper: () => ({
        learningRate: c.lr,
        momentum: c.momentum,
        nesterov: c.nesterov,
        weightDecay: c.weight_decay,
        scale: 0.25, // must not touch a dense slot
      }),
    });
    c.steps.forEach((step, i) => assertClose(t, weights[i]!, step.weights.data, tolerance, `weights ${i}`));
  });
}

function adafactorSlot(c: AdafactorCase): Slot {
  const rule = c.beta1 === null ? 'adafactor' : 'adafactor-momentum';
  const spec = { name: c.name, shape: c.initial_weights.shape, index: 0, rule } as const;
  if (c.rank === null || c.proj_type === null) return { ...spec, policy: 'dense' };
  return { ...spec, policy: 'one-sided', side: sideOf(c.proj_type, c.rows, c.cols), rank: c.rank };
}

function adafactorHyper(c: AdafactorCase): Partial<Hyperparameters> {
  return {
    learningRate: c.lr ?? NaN, // not looked at with relative_step
    weightDecay: c.weight_decay,
    semantics: 'galore_torch',
    scale: c.scale ?? 1,
    adafactor: {
      eps: c.eps,
      clip_threshold: c.clip_threshold,
      decay_rate: c.decay_rate,
      beta1: c.beta1 ?? 0,
      scale_parameter: c.scale_parameter,
      relative_step: c.relative_step,
    },
  };
}

function ownBasis(c: AdafactorCase, { data }: GoldenArray): ArrayLike<number> {
  const gradient = matrix(c.rows, c.cols, data);
  const a = c.side === 'left' ? gradient : transpose(gradient);
  return leadingBasis(a.values, a.rows, a.cols, c.rank!)!.basis;
}

function registerAdafactor(c: AdafactorCase, which: 'recorded' | 'own', tolerance: Tolerance): void {
  test(`galore-adafactor ${c.name}: the rule with the ${which} basis gives its weights and factors`, (t) => {
    const slot = adafactorSlot(c);
    t.is(hasBasis(slot) ? slot.side : null, c.side);
    const { weights, state } = runRule({
      slot,
      weights: c.initial_weights.data,
      gradients: c.steps.map(({ grad }) => grad.data),
      hyper: () => adafactorHyper(c),
      basis: (step) => {
        const { basis, grad } = c.steps[step - 1]!;
        return basis === undefined || which === 'recorded' ? basis?.data : ownBasis(c, grad);
      },
    });
    c.steps.forEach((step, i) => assertClose(t, weights[i]!, step.weights.data, tolerance, `weights ${i}`));
    assertClose(t, state['v_row']!, c.final_exp_avg_sq_row.data, tolerance, 'row factor');
    assertClose(t, state['v_col']!, c.final_exp_avg_sq_col.data, tolerance, 'column factor');
  });
}

if (hasGolden('sgd.json')) {
  const { tolerance, cases } = readGolden<{ tolerance: Tolerance; cases: SgdCase[] }>('sgd.json');
  for (const c of cases) registerSgd(c, tolerance);
} else {
  test('sgd.json is not in the folder of vectors given: nothing to compare with', (t) => t.pass());
}

if (hasGolden('galore-adafactor.json')) {
  const { tolerance, cases } = readGolden<{
    tolerance: { injected_basis: Tolerance; own_svd_sign_invariant_cases: Tolerance };
    cases: AdafactorCase[];
  }>('galore-adafactor.json');
  for (const c of cases) {
    registerAdafactor(c, 'recorded', tolerance.injected_basis);
    if (c.sign_invariant && c.rank !== null) {
      registerAdafactor(c, 'own', tolerance.own_svd_sign_invariant_cases);
    }
  }
} else {
  test('galore-adafactor.json is not in the folder of vectors given: nothing to compare with', (t) =>
    t.pass());
}
