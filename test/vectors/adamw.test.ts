/** torch.optim.AdamW, step by step: semantics `torch` on dense slots, through tensors and in f64. */
import test from 'ava';
import { matrix } from '../../src/galore/matrix.ts';
import { referenceUpdate } from '../../src/galore/optimizer/reference.ts';
import type { Slot } from '../../src/galore/slot.ts';
import type { Hyperparameters } from '../../src/galore/optimizer/rule.ts';
import { OTHER_RULES } from '../galore/apply-update.ts';
import { assertClose, readGolden, type GoldenArray, type Tolerance } from '../galore/golden.ts';
import { runRule } from '../galore/run-rule.ts';

interface Case {
  readonly name: string;
  readonly lr: number;
  readonly betas: [number, number];
  readonly eps: number;
  readonly weight_decay: number;
  readonly initial_weights: GoldenArray;
  readonly steps: readonly { readonly grad: GoldenArray; readonly weights: GoldenArray }[];
  readonly final_exp_avg: GoldenArray;
  readonly final_exp_avg_sq: GoldenArray;
}

const { tolerance, cases } = readGolden<{ tolerance: Tolerance; cases: Case[] }>('adamw.json');

function hyperOf(c: Case, step: number): Hyperparameters {
  // The scale must not touch a dense slot.
  const { lr: learningRate, betas, eps, weight_decay: weightDecay } = c;
  return { ...OTHER_RULES, step, learningRate, betas, eps, weightDecay, semantics: 'torch', scale: 0.25 };
}

for (const c of cases) {
  test(`${c.name}: tensors give its weights and moments`, (t) => {
    const { shape, data } = c.initial_weights;
    const slot: Slot = { name: c.name, shape, index: 0, policy: 'dense', rule: 'adamw' };
    const { weights, state } = runRule({
      slot,
      weights: data,
      gradients: c.steps.map(({ grad }) => grad.data),
      hyper: (step) => hyperOf(c, step),
    });
    c.steps.forEach((step, i) => assertClose(t, weights[i]!, step.weights.data, tolerance, `weights ${i}`));
    assertClose(t, state['m']!, c.final_exp_avg.data, tolerance, 'first moment');
    assertClose(t, state['v']!, c.final_exp_avg_sq.data, tolerance, 'second moment');
  });

  test(`${c.name}: the f64 reference gives its weights and moments`, (t) => {
    const flat = ({ data }: GoldenArray) => matrix(1, data.length, data);
    const zeros = matrix(1, c.initial_weights.data.length);
    let state = { weight: flat(c.initial_weights), m: zeros, v: zeros };
    c.steps.forEach((step, i) => {
      state = referenceUpdate(state, flat(step.grad), null, hyperOf(c, i + 1));
      assertClose(t, state.weight.values, step.weights.data, tolerance, `weights ${i}`);
    });
    assertClose(t, state.m.values, c.final_exp_avg.data, tolerance, 'first moment');
    assertClose(t, state.v.values, c.final_exp_avg_sq.data, tolerance, 'second moment');
  });
}
