/** torch.optim.AdamW, step by step: semantics `torch` on dense slots, through tensors and in f64. */
import test from 'ava';
import { matrix } from '../../src/galore/matrix.ts';
import { referenceUpdate } from '../../src/galore/optimizer/reference.ts';
import type { Slot } from '../../src/galore/slot.ts';
import type { Hyperparameters } from '../../src/galore/optimizer/rule.ts';
import { applyUpdate, OTHER_RULES } from '../galore/apply-update.ts';
import { assertClose, readGolden, type GoldenArray, type Tolerance } from '../galore/golden.ts';
import { tf, type Tensor } from '../galore/tensors.ts';

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
    tf.tidy(() => {
      let weight: Tensor = tf.tensor(data, shape);
      let moments: { m: Tensor; v: Tensor } = { m: tf.zeros(shape), v: tf.zeros(shape) };
      c.steps.forEach((step, i) => {
        const gradient = tf.tensor(step.grad.data, shape);
        const next = applyUpdate(weight, slot, gradient, moments, null, hyperOf(c, i + 1));
        weight = next.weight;
        moments = next;
        assertClose(t, weight.dataSync(), step.weights.data, tolerance, `weights ${i}`);
      });
      assertClose(t, moments.m.dataSync(), c.final_exp_avg.data, tolerance, 'first moment');
      assertClose(t, moments.v.dataSync(), c.final_exp_avg_sq.data, tolerance, 'second moment');
    });
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
