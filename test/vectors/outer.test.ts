/**
 * Mean displacements and what is made of them, through the sum of the coordinator and the outer rules of the
 * trainers, against independent f64 implementations of the formulas (methods.json, `diloco-outer`).
 */
import test from 'ava';
import { sumEncoded } from '../../src/galore/aggregate/mean.ts';
import { codecFor } from '../../src/galore/codec/codec.ts';
import { ruleFor } from '../../src/galore/optimizer/rules.ts';
import type { RuleState } from '../../src/galore/optimizer/rule.ts';
import { zerosOf } from '../../src/galore/optimizer/zeros.ts';
import { ruleState } from '../../src/galore/optimizer/rule-state.ts';
import type { ProjectedSlot, Side } from '../../src/galore/slot.ts';
import { derive } from '../../src/random.ts';
import { assertClose, hasGolden, readGolden, type GoldenArray, type Tolerance } from '../galore/golden.ts';
import { HYPER } from '../galore/run-rule.ts';
import { tf, type Tensor, type Tensor2D } from '../galore/tensors.ts';

interface OuterCase {
  readonly name: string;
  readonly method: 'diloco-outer';
  readonly inputs: {
    readonly initial_weights: GoldenArray;
    readonly side: Side;
    readonly lr_outer: number;
    readonly mu: number;
    readonly refresh_rounds: readonly number[];
    readonly bases: readonly GoldenArray[];
    /** By round and trainer. */
    readonly deltas: readonly (readonly GoldenArray[])[];
    readonly weights_per_round: readonly (readonly number[])[];
  };
  readonly expected: Readonly<Record<'pseudo_gradient' | 'outer_momentum' | 'weights', readonly GoldenArray[]>>;
}

interface Methods {
  readonly tolerance: { readonly default_float32: Tolerance };
  readonly cases: readonly (OuterCase | { readonly name: string; readonly method: 'other' })[];
}

function tensor({ data, shape }: GoldenArray): Tensor2D {
  const [rows = 0, cols = 0] = shape;
  return tf.tensor2d(Float32Array.from(data), [rows, cols]);
}

/** The sum as the coordinator makes it of f32 contributions. */
function meanOf(deltas: readonly GoldenArray[], tokens: readonly number[]): Float32Array {
  const codec = codecFor('f32');
  const total = tokens.reduce((sum, count) => sum + count, 0);
  const parts = deltas.map(({ data }, i) => ({
    bytes: codec.encode(Float32Array.from(data), derive(0)),
    codec,
    weight: tokens[i]! / total,
  }));
  return sumEncoded(parts, deltas[0]!.data.length).sum;
}

const negated = (values: ArrayLike<number>): number[] => Array.from(values, (value) => -value);

function register({ name, inputs, expected }: OuterCase, tolerance: Tolerance): void {
  const { initial_weights: first, side, mu, lr_outer, refresh_rounds, bases } = inputs;
  const rule = mu === 0 ? 'outer' : 'outer-nesterov';
  const rank = bases[0]!.shape[1]!;
  const slot: ProjectedSlot = { name: 'w', shape: first.shape, index: 0, policy: 'one-sided', rule, side, rank };
  const hyper = { ...HYPER, outer: { learningRate: lr_outer, momentum: mu, localSteps: 1 } };

  test(`${name}: means, momentum and weights of every step`, (t) => {
    tf.tidy(() => {
      let weight: Tensor = tensor(first);
      let state: RuleState = zerosOf(ruleState(slot));
      let basis: Tensor2D | null = null;
      inputs.deltas.forEach((deltas, i) => {
        const refreshed = refresh_rounds.indexOf(i);
        if (refreshed >= 0) {
          const newBasis = tensor(bases[refreshed]!);
          const change = { oldBasis: basis ?? newBasis, newBasis, side };
          const carried = { slot, state, change, moments: 'transport', completedSteps: i } as const;
          if (basis !== null) state = ruleFor(rule).carry({ ...carried, betas: HYPER.betas });
          basis = newBasis;
        }
        const mean = meanOf(deltas, inputs.weights_per_round[i]!);
        assertClose(t, negated(mean), expected.pseudo_gradient[i]!.data, tolerance, `mean of step ${i}`);
        const payload = tf.tensor2d(mean, deltas[0]!.shape as [number, number]);
        ({ weight, state } = ruleFor(rule).step({ slot, weight, payload, state, basis, hyper }));
        assertClose(t, weight.dataSync(), expected.weights[i]!.data, tolerance, `weights of step ${i}`);
        const momentum = (state['m'] as Tensor | undefined) ?? payload;
        assertClose(
          t,
          negated(momentum.dataSync()),
          expected.outer_momentum[i]!.data,
          tolerance,
          `momentum of step ${i}`,
        );
      });
    });
  });
}

if (hasGolden('methods.json')) {
  const { tolerance, cases } = readGolden<Methods>('methods.json');
  for (const c of cases) if (c.method === 'diloco-outer') register(c, tolerance.default_float32);
} else {
  test('methods.json is not in the folder of vectors given: nothing to compare with', (t) => t.pass());
}
