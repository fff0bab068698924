import test from 'ava';
import { fusedAdamw, fusedDirection, hasFusedAdamw } from '../../../src/galore/fused-adamw.ts';
import { adamwStep } from '../../../src/galore/optimizer/adamw.ts';
import { stepSizes } from '../../../src/galore/optimizer/bias-correction.ts';
import { derive, randomNormal } from '../../../src/random.ts';
import { openHandles } from '../../../src/trainer/engine/binding.ts';
import { tf, type Tensor } from '../../galore/tensors.ts';

const { installAdamwKernel } = await import('../../../src/trainer/engine/adamw-kernel.ts');

const SHAPE = [37, 11];
const HYPER = { step: 3, learningRate: 0.01, betas: [0.9, 0.99], eps: 1e-6 } as const;

function random(label: string): Tensor {
  const key = derive(3, label);
  return tf.tensor(
    Float32Array.from({ length: 37 * 11 }, (_, i) => randomNormal(key, i)),
    SHAPE,
  );
}

interface State {
  readonly weight: Tensor;
  readonly gradient: Tensor;
  readonly m: Tensor;
  readonly v: Tensor;
}

/** Results of operations, as the state of a training step is: TensorFlow may write over them. */
function state(): State {
  return tf.tidy(() => ({
    weight: tf.add(random('weight'), 0),
    gradient: random('gradient'),
    m: tf.mul(random('m'), 0.1),
    v: tf.square(random('v')),
  }));
}

function assertClose(t: { true(ok: boolean, text: string): void }, actual: Tensor, expected: Tensor): void {
  const difference = tf.tidy(() => tf.max(tf.abs(tf.sub(actual, expected))).dataSync()[0]!);
  t.true(difference < 1e-6, `off by ${difference}`);
}

test.serial('an engine without the kernel says so', (t) => {
  t.false(hasFusedAdamw());
  installAdamwKernel(tf);
  t.true(hasFusedAdamw());
});

for (const semantics of ['torch', 'galore_torch'] as const) {
  test.serial(`one pass gives what adamwStep gives (${semantics}), and leaves nothing behind`, (t) => {
    const before = tf.memory().numTensors;
    const options = { betas: HYPER.betas, ...stepSizes(0.01, HYPER.betas, HYPER.eps, 3, semantics) };
    const { weight, gradient, m, v } = state();
    const expected = adamwStep(gradient, { m, v }, { ...HYPER, semantics }, 0.25);
    const subtracted = adamwStep(gradient, { m, v }, { ...HYPER, semantics });
    const expectedWeight = tf.sub(weight, subtracted.direction);
    const [m2, v2] = [tf.add(m, 0), tf.add(v, 0)];

    const direction = fusedDirection(gradient, { m: m2, v: v2 }, options, 0.25);
    tf.dispose([m2, v2]);
    assertClose(t, direction.direction, expected.direction);
    assertClose(t, direction.m, expected.m);
    assertClose(t, direction.v, expected.v);

    const next = fusedAdamw(weight, gradient, { m, v }, options);
    tf.dispose([weight, m, v]);
    assertClose(t, next.weight, expectedWeight);
    assertClose(t, next.m, expected.m);
    assertClose(t, next.v, expected.v);
    t.is(openHandles(), 0);
    for (const tensors of [expected, subtracted, direction, next]) tf.dispose({ ...tensors });
    tf.dispose([gradient, expectedWeight]);
    t.is(tf.memory().numTensors, before);
  });
}

test.serial('clones of what was given, and the gradient, stay as they are', (t) => {
  const given = state();
  const clones = [given.weight, given.m, given.v].map((tensor) => tf.clone(tensor));
  const before = [...clones, given.gradient].map((tensor) => Float32Array.from(tensor.dataSync()));
  const next = fusedAdamw(given.weight, given.gradient, given, {
    betas: HYPER.betas,
    stepSize: 0.1,
    eps: 1e-6,
  });
  tf.dispose([given.weight, given.m, given.v]);
  const after = [...clones, given.gradient].map((tensor) => Float32Array.from(tensor.dataSync()));
  t.deepEqual(after, before);
  t.notDeepEqual(Float32Array.from(next.m.dataSync()), before[1]);
  tf.dispose([...clones, given.gradient, next.weight, next.m, next.v]);
  t.is(openHandles(), 0);
});

test.serial('numbers that were handed to the engine as an array are not written over', (t) => {
  const values = new Float32Array(8).fill(1);
  const [weight, gradient, m, v] = [values, new Float32Array(8).fill(2), values, values].map((array) =>
    tf.tensor1d(array),
  ) as [Tensor, Tensor, Tensor, Tensor];
  const next = fusedAdamw(weight, gradient, { m, v }, { betas: [0.5, 0.5], stepSize: 1, eps: 0 });
  // m = 0.5 + 0.5 * 2 = 1.5, v = 0.5 + 0.5 * 4 = 2.5, weight = 1 - 1.5 / sqrt(2.5)
  t.deepEqual([...values], new Array<number>(8).fill(1));
  t.true(Math.abs(next.weight.dataSync()[0]! - (1 - 1.5 / Math.sqrt(2.5))) < 1e-6);
  tf.dispose([weight, gradient, m, v, next.weight, next.m, next.v]);
});
