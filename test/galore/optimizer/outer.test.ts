/** Outer rules against their formulas in plain numbers; test/vectors/outer.test.ts has the vectors. */
import test from 'ava';
import type { Hyperparameters } from '../../../src/galore/optimizer/rule.ts';
import type { RuleName } from '../../../src/galore/optimizer/rule-state.ts';
import type { Slot } from '../../../src/galore/slot.ts';
import { HYPER, runRule } from '../run-rule.ts';
import { tf } from '../tensors.ts';

const START = [1, -2, 0.5];
/** Displacements of three steps. */
const MOVED = [
  [0.1, 0.2, -0.3],
  [0.4, -0.1, 0.2],
  [-0.2, 0.3, 0.1],
];

function slotOf(rule: RuleName): Slot {
  return { name: 'w', shape: [3], index: 0, policy: 'dense', rule };
}

function weightsOf(rule: RuleName, hyper: Partial<Hyperparameters>): number[] {
  const before = tf.memory().numTensors;
  const run = runRule({ slot: slotOf(rule), weights: START, gradients: MOVED, hyper: () => hyper });
  if (tf.memory().numTensors !== before) throw new Error('a tensor is left');
  return [...run.weights.at(-1)!];
}

function assertNear(t: { true(ok: boolean, text: string): void }, got: number[], want: number[]): void {
  t.true(
    got.every((value, i) => Math.abs(value - want[i]!) < 1e-6),
    `${got.join()} is not ${want.join()}`,
  );
}

test('without an optimizer the displacements are added, times the outer rate', (t) => {
  const outer = { learningRate: 1, momentum: 0.9, localSteps: 8 };
  // 1 + .1 + .4 - .2, -2 + .2 - .1 + .3, .5 - .3 + .2 + .1
  assertNear(t, weightsOf('outer', { outer }), [1.3, -1.6, 0.5]);
  assertNear(t, weightsOf('outer', { outer: { ...outer, learningRate: 0.5 } }), [1.15, -1.8, 0.5]);
});

test('nesterov is torch.optim.SGD with nesterov for the negative displacement', (t) => {
  const [rate, mu] = [0.7, 0.9];
  const want = START.map((start, i) => {
    let [weight, momentum] = [start, 0];
    for (const moved of MOVED) {
      const gradient = -moved[i]!;
      momentum = mu * momentum + gradient;
      weight -= rate * (gradient + mu * momentum);
    }
    return weight;
  });
  const outer = { learningRate: rate, momentum: mu, localSteps: 8 };
  assertNear(t, weightsOf('outer-nesterov', { outer }), want);
});

test('adam takes steps of H times the learning rate, whatever the size of the displacement', (t) => {
  const [b1, b2] = HYPER.betas;
  const [learningRate, localSteps] = [0.01, 4];
  const want = START.map((start, i) => {
    let [weight, m, v] = [start, 0, 0];
    MOVED.forEach((moved, step) => {
      m = b1 * m + (1 - b1) * -moved[i]!;
      v = b2 * v + (1 - b2) * moved[i]! ** 2;
      const [c1, c2] = [1 - b1 ** (step + 1), 1 - b2 ** (step + 1)];
      weight -= (0.5 * localSteps * learningRate * (m / c1)) / (Math.sqrt(v / c2) + 1e-8);
    });
    return weight;
  });
  const outer = { learningRate: 0.5, momentum: 0, localSteps };
  assertNear(t, weightsOf('outer-adam', { learningRate, outer }), want);
});

test('weights decay once for all local steps, before or after the displacement as the semantics say', (t) => {
  const outer = { learningRate: 1, momentum: 0, localSteps: 4 };
  const hyper = { learningRate: 0.05, weightDecay: 0.5, outer };
  const kept = 1 - 4 * 0.05 * 0.5;
  const decayed = (isFirst: boolean): number[] =>
    START.map((start, i) =>
      MOVED.reduce(
        (weight, moved) => (isFirst ? kept * weight + moved[i]! : kept * (weight + moved[i]!)),
        start,
      ),
    );
  assertNear(t, weightsOf('outer', { ...hyper, semantics: 'torch' }), decayed(true));
  assertNear(t, weightsOf('outer', { ...hyper, semantics: 'galore_torch' }), decayed(false));
});
