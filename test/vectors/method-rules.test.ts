/**
 * Fira, APOLLO, APOLLO-Mini and the two-sided core through the rules that train, against independent f64
 * implementations of their formulas (methods.json).
 */
import test from 'ava';
import { stepSizes } from '../../src/galore/optimizer/bias-correction.ts';
import { channelAxis, channelScale } from '../../src/galore/optimizer/channel-scale.ts';
import { ruleState, type RuleName } from '../../src/galore/optimizer/rule-state.ts';
import type { Hyperparameters, RuleState } from '../../src/galore/optimizer/rule.ts';
import { ruleFor } from '../../src/galore/optimizer/rules.ts';
import { payloadOf } from '../../src/galore/projection/project-lift.ts';
import type { ProjectedSlot, Side } from '../../src/galore/slot.ts';
import { OTHER_RULES } from '../galore/apply-update.ts';
import { assertClose, hasGolden, readGolden, type GoldenArray, type Tolerance } from '../galore/golden.ts';
import { tf, type Tensor, type Tensor2D } from '../galore/tensors.ts';

interface Hyper {
  readonly lr: number;
  readonly scale: number;
  readonly beta1: number;
  readonly beta2: number;
  readonly eps: number;
  readonly weight_decay: number;
  readonly gamma?: number;
  readonly scale_type?: 'channel' | 'tensor';
}

interface WholeGradientCase {
  readonly name: string;
  readonly method: 'fira' | 'apollo';
  readonly inputs: {
    readonly hyper: Hyper;
    readonly initial_weights: GoldenArray;
    readonly grads: readonly GoldenArray[];
    readonly side: Side;
    readonly refresh_steps: readonly number[];
    readonly bases?: readonly GoldenArray[];
    readonly projections?: readonly GoldenArray[];
  };
  readonly expected: {
    readonly weights: readonly GoldenArray[];
    readonly phi?: readonly GoldenArray[];
    readonly scaling?: readonly GoldenArray[];
    readonly stored_norm?: readonly number[];
  };
}

interface CoreCase {
  readonly name: string;
  readonly method: 'two-sided-core';
  readonly inputs: {
    readonly hyper: Hyper;
    readonly initial_weights: GoldenArray;
    readonly grads: readonly GoldenArray[];
    readonly U: GoldenArray;
    readonly V: GoldenArray;
  };
  readonly expected: {
    readonly cores: readonly GoldenArray[];
    readonly weights: readonly GoldenArray[];
    readonly exp_avg: GoldenArray;
    readonly exp_avg_sq: GoldenArray;
  };
}

type Case = WholeGradientCase | CoreCase | { readonly name: string; readonly method: 'other' };

interface Methods {
  readonly tolerance: { readonly default_float32: Tolerance };
  readonly cases: readonly Case[];
}

function tensor({ data, shape }: GoldenArray): Tensor2D {
  const [rows = 0, cols = 0] = shape;
  return tf.tensor2d(Float32Array.from(data), [rows, cols]);
}

function hyperOf(hyper: Hyper, step: number): Hyperparameters {
  return {
    ...OTHER_RULES,
    step,
    learningRate: hyper.lr,
    betas: [hyper.beta1, hyper.beta2],
    eps: hyper.eps,
    weightDecay: hyper.weight_decay,
    semantics: 'galore_torch',
    scale: hyper.scale,
    limiter: hyper.gamma ?? 1,
  };
}

function slotOf(
  weights: GoldenArray,
  rule: RuleName,
  policy: ProjectedSlot['policy'],
  side: Side,
  rank: number,
): ProjectedSlot {
  return { name: 'mlp.weight', shape: weights.shape, index: 0, policy, rule, side, rank };
}

function zeroState(slot: ProjectedSlot): RuleState {
  return Object.fromEntries(ruleState(slot).map(({ kind, shape }) => [kind, tf.zeros([...shape])]));
}

function registerWholeGradient(c: WholeGradientCase, tolerance: Tolerance): void {
  const { hyper, initial_weights, grads, side, refresh_steps } = c.inputs;
  const bases = c.inputs.bases ?? c.inputs.projections ?? [];
  const rule = c.method === 'fira' ? 'fira' : hyper.scale_type === 'tensor' ? 'apollo-mini' : 'apollo';
  const slot = slotOf(initial_weights, rule, 'dense', side, bases[0]!.shape[1]!);

  test(`${c.name}: weights, channel scales and limited norms of every step`, (t) => {
    tf.tidy(() => {
      let weight: Tensor = tensor(initial_weights);
      let state = zeroState(slot);
      let basis: Tensor2D | null = null;
      grads.forEach((grad, i) => {
        const refreshed = refresh_steps.indexOf(i);
        if (refreshed >= 0) {
          const newBasis = tensor(bases[refreshed]!);
          const change = { oldBasis: basis ?? newBasis, newBasis, side };
          const betas = [hyper.beta1, hyper.beta2] as const;
          state = ruleFor(rule).carry({ slot, state, change, moments: 'keep', completedSteps: i, betas });
          basis = newBasis;
        }
        const payload = payloadOf(slot, tensor(grad), basis) as Tensor2D;
        const numbers = hyperOf(hyper, i + 1);
        const next = ruleFor(rule).step({ slot, weight, payload, state, basis, hyper: numbers });
        ({ weight, state } = next);
        assertClose(t, weight.dataSync(), c.expected.weights[i]!.data, tolerance, `weights of step ${i}`);

        const scales = (c.expected.phi ?? c.expected.scaling)![i]!.data;
        const got = scalesOf(slot, payload, state, basis!, numbers);
        assertClose(t, got.dataSync(), scales, tolerance, `scales of step ${i}`);
        const norm = c.expected.stored_norm?.[i];
        if (norm !== undefined) {
          assertClose(t, (state['norm'] as Tensor).dataSync(), [norm], tolerance, `norm of step ${i}`);
        }
      });
    });
  });
}

/** The scales of a step, from the moments after it. */
function scalesOf(
  slot: ProjectedSlot,
  payload: Tensor2D,
  { m, v }: RuleState,
  basis: Tensor2D,
  { betas, eps, step, semantics }: Hyperparameters,
): Tensor {
  const low = payloadOf({ ...slot, policy: 'one-sided' }, payload, basis) as Tensor2D;
  const inside = stepSizes(1, betas, eps, step, semantics).eps;
  const normalised = tf.div<Tensor2D>(m as Tensor, tf.add(tf.sqrt(v as Tensor), inside));
  return channelScale(normalised, low, slot.rule === 'apollo-mini' ? null : channelAxis(slot));
}

function registerCore(c: CoreCase, tolerance: Tolerance): void {
  const { hyper, initial_weights, grads, U, V } = c.inputs;
  const slot = slotOf(initial_weights, 'adamw', 'two-sided', 'left', U.shape[1]!);

  test(`${c.name}: cores, weights and moments of every step`, (t) => {
    tf.tidy(() => {
      const basis = tf.concat([tensor(U), tensor(V)]);
      let weight: Tensor = tensor(initial_weights);
      let state = zeroState(slot);
      grads.forEach((grad, i) => {
        const payload = payloadOf(slot, tensor(grad), basis);
        assertClose(t, payload.dataSync(), c.expected.cores[i]!.data, tolerance, `core of step ${i}`);
        const numbers = hyperOf(hyper, i + 1);
        ({ weight, state } = ruleFor('adamw').step({ slot, weight, payload, state, basis, hyper: numbers }));
        assertClose(t, weight.dataSync(), c.expected.weights[i]!.data, tolerance, `weights of step ${i}`);
      });
      const { m, v } = state as Record<'m' | 'v', Tensor>;
      assertClose(t, m.dataSync(), c.expected.exp_avg.data, tolerance, 'first moment');
      assertClose(t, v.dataSync(), c.expected.exp_avg_sq.data, tolerance, 'second moment');
    });
  });
}

if (hasGolden('methods.json')) {
  const { tolerance, cases } = readGolden<Methods>('methods.json');
  for (const c of cases) {
    if (c.method === 'fira' || c.method === 'apollo') registerWholeGradient(c, tolerance.default_float32);
    else if (c.method === 'two-sided-core') registerCore(c, tolerance.default_float32);
  }
} else {
  test('methods.json is not in the folder of vectors given: nothing to compare with', (t) => t.pass());
}
