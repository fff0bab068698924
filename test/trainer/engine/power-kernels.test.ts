/** The addon's operations for power slots against the tensor operations they stand for. */
import test, { type ExecutionContext } from 'ava';
import { NotFiniteError } from '../../../src/errors.ts';
import { int8Codec } from '../../../src/galore/codec/int8.ts';
import type { FeedbackContext, LocalState } from '../../../src/galore/feedback/feedback.ts';
import { gradientFeedback } from '../../../src/galore/feedback/gradient.ts';
import { firstFactors, powerRule } from '../../../src/galore/optimizer/power.ts';
import type { RuleState } from '../../../src/galore/optimizer/rule.ts';
import { hasPowerKernels, POWER_KERNELS } from '../../../src/galore/power-kernels.ts';
import { factorOf } from '../../../src/galore/product.ts';
import { isTallStep, payloadShape, sizeOf, type PowerSlot } from '../../../src/galore/slot.ts';
import { derive, randomNormal, randomUint32 } from '../../../src/random.ts';
import { openHandles } from '../../../src/trainer/engine/binding.ts';
import { HYPER } from '../../galore/run-rule.ts';
import { projectedSlot } from '../../galore/matrices.ts';
import { powerSlot } from '../../galore/power.ts';
import { tf, type Tensor } from '../../galore/tensors.ts';

const { installBf16Products } = await import('../../../src/trainer/engine/bf16-products.ts');
const { installFixedSums, installPowerKernels } =
  await import('../../../src/trainer/engine/power-kernels.ts');

/** Whole blocks in a row, blocks across rows, and no block that ends with a row; one thread and several tiles. */
const SHAPES = [
  [24, 512],
  [150, 328],
  [301, 45],
] as const;

/** Small whole numbers, which f32 adds and multiplies without rounding in any order. */
function whole(label: string, count: number, largest: number): Float32Array {
  const key = derive(5, label);
  return Float32Array.from({ length: count }, (_, i) => (randomUint32(key, i) % (2 * largest + 1)) - largest);
}

function normal(label: string, shape: readonly number[], size = 1): Tensor {
  const key = derive(6, label);
  return tf.tensor(
    Float32Array.from({ length: sizeOf(shape) }, (_, i) => size * randomNormal(key, i)),
    [...shape],
  );
}

function withKernels<T>(isOn: boolean, body: () => T): T {
  if (isOn) installPowerKernels(tf);
  try {
    return body();
  } finally {
    if (isOn) for (const name of Object.values(POWER_KERNELS)) tf.unregisterKernel(name, 'tensorflow');
  }
}

/** Bytes of an error whose scales are 1, so that its numbers are whole. */
function wholeError(size: number): Uint8Array {
  const values = whole('error', size, 100);
  for (let i = 0; i < size; i += 256) values[i] = 127;
  return int8Codec.encode(values, derive(1));
}

function contextOf(slot: PowerSlot, step: number, state: RuleState): FeedbackContext {
  return { slot, step, basis: null, state, share: 0.5, key: derive(9, step) };
}

/** What is sent of a gradient, and what is left; `round` makes what was sent of what was to be. */
function feedback(
  context: FeedbackContext,
  local: LocalState,
  gradient: Tensor,
  isLast: boolean,
): { readonly payload: Tensor | null; readonly left: LocalState } {
  const open = gradientFeedback.add(context, local, gradient, isLast);
  if (!isLast) return { payload: null, left: open };
  const payload = gradientFeedback.payload(context, open);
  const sent = tf.tidy(() => tf.round(payload));
  const left = gradientFeedback.settle(context, open, sent);
  tf.dispose(sent);
  for (const value of Object.values(open)) if (value instanceof tf.Tensor) value.dispose();
  return { payload, left };
}

function assertClose(t: ExecutionContext, actual: Tensor, expected: Tensor, tolerance: number): void {
  const [difference, largest] = tf.tidy(() => [
    tf.max(tf.abs(tf.sub(actual, expected))).dataSync()[0]!,
    tf.max(tf.abs(expected)).dataSync()[0]!,
  ]) as unknown as [number, number];
  t.true(difference <= tolerance * largest, `off by ${difference} of ${largest}`);
}

installFixedSums(tf);
installBf16Products(tf);

test.serial('an engine without the kernels says so', (t) => {
  t.false(hasPowerKernels());
  withKernels(true, () => t.true(hasPowerKernels()));
});

for (const [m, n] of SHAPES) {
  for (const step of [1, 2]) {
    const kind = step === 1 ? 'tall' : 'wide';
    for (const precision of ['f32', 'bf16'] as const) {
      test.serial(
        `${m} x ${n}, a ${kind} step, gradient in ${precision}: the bytes of the plain path`,
        (t) => {
          const before = tf.memory().numTensors;
          const slot = powerSlot(m, n, 5);
          const state = {
            p: tf.tensor2d(whole('p', m * 5, 2), [m, 5]),
            w: tf.tensor2d(whole('w', n * 5, 2), [n, 5]),
          };
          t.is(isTallStep(slot, step), step === 1);
          const context = contextOf(slot, step, state);
          const local = { feedback_codes: wholeError(m * n) };
          const gradient = tf.tidy(() => {
            const numbers = tf.tensor2d(whole('gradient', m * n, 60), [m, n]);
            return precision === 'bf16' ? factorOf(numbers) : numbers;
          });
          for (const isLast of [true, false]) {
            const plain = feedback(context, local, gradient, isLast);
            const fast = withKernels(true, () => feedback(context, local, gradient, isLast));
            t.deepEqual(fast.left, plain.left);
            t.notDeepEqual(fast.left, local);
            if (isLast) t.deepEqual(fast.payload!.dataSync(), plain.payload!.dataSync());
            tf.dispose([fast.payload, plain.payload].filter((x) => x !== null));
          }
          tf.dispose([state.p, state.w, gradient]);
          t.is(openHandles(), 0);
          t.is(tf.memory().numTensors, before);
        },
      );
    }
  }
}

for (const side of ['left', 'right'] as const) {
  test.serial(`a one-sided slot that keeps whole gradients, ${side}: the bytes of the plain path`, (t) => {
    const [m, n] = [150, 328];
    const before = tf.memory().numTensors;
    const kept = { feedback: 'gradient', buffers: { feedback: 'int8' } } as const;
    const slot = { ...projectedSlot(m, n, side, 5), ...kept };
    const rows = side === 'left' ? m : n;
    const basis = tf.tensor2d(whole('basis', rows * 5, 2), [rows, 5]);
    const context = { slot, step: 3, basis, state: {}, share: 0.5, key: derive(9) };
    const local = { feedback_codes: wholeError(m * n) };
    const gradient = tf.tensor2d(whole('gradient', m * n, 60), [m, n]);
    const plain = feedback(context, local, gradient, true);
    const fast = withKernels(true, () => feedback(context, local, gradient, true));
    t.deepEqual(fast.left, plain.left);
    t.notDeepEqual(fast.left, local);
    t.deepEqual(fast.payload!.dataSync(), plain.payload!.dataSync());
    tf.dispose([basis, gradient, fast.payload!, plain.payload!]);
    t.is(openHandles(), 0);
    t.is(tf.memory().numTensors, before);
  });
}

test.serial('buffers of bf16 are bf16 with the kernels, too', (t) => {
  const slot = powerSlot(24, 512, 2, 'bf16');
  const state = {
    ...{ m_codes: new Uint8Array(2 * 24 * 512), v_row: tf.zeros([24]), v_col: tf.zeros([512]) },
    ...firstFactors(slot, 3),
  };
  const context = contextOf(slot, 1, state);
  const local = { feedback_codes: new Uint8Array(2 * 24 * 512) };
  const [gradient, weight] = [normal('gradient', [24, 512]), normal('weight', [24, 512])];
  const payload = normal('payload', payloadShape(slot, 1));
  const run = (isOn: boolean) =>
    withKernels(isOn, () => ({
      error: feedback(context, local, gradient, true).left,
      moment: powerRule.step({ slot, weight, payload, state, basis: null, hyper: HYPER }).state['m_codes'],
    }));
  t.deepEqual(run(true), run(false));
});

for (const [m, n] of SHAPES) {
  for (const { clip, weightDecay, semantics } of [
    { clip: 100, weightDecay: 0, semantics: 'torch' },
    { clip: 0.3, weightDecay: 0.1, semantics: 'galore_torch' },
  ] as const) {
    test.serial(`${m} x ${n}: the update is that of tensor operations, clip ${clip}`, (t) => {
      const before = tf.memory().numTensors;
      const slot = powerSlot(m, n, 5);
      let state: RuleState = {
        m_codes: new Uint8Array(int8Codec.encodedBytes(m * n)),
        v_row: tf.zeros([m]),
        v_col: tf.zeros([n]),
        ...firstFactors(slot, 3),
      };
      const weight = normal('weight', [m, n], 0.1);
      for (const step of [1, 2, 3]) {
        const payload = normal(`payload ${step}`, payloadShape(slot, step), 0.01);
        const hyper = { ...HYPER, step, updateClip: clip, weightDecay, semantics };
        const input = { slot, weight, payload, state, basis: null, hyper };
        const plain = powerRule.step(input);
        const fast = withKernels(true, () => powerRule.step(input));
        assertClose(t, fast.weight, plain.weight, 1e-6);
        const moments = [fast, plain].map((result) => {
          const codes = result.state['m_codes'] as Uint8Array;
          return tf.tensor1d(int8Codec.decode(codes, m * n));
        }) as [Tensor, Tensor];
        // A sum that was rounded the other way may have made another code of a number.
        assertClose(t, moments[0], moments[1], 1.01 / 127);
        const differing = (fast.state['m_codes'] as Uint8Array).filter(
          (code, i) => code !== (plain.state['m_codes'] as Uint8Array)[i],
        ).length;
        t.true(differing < 0.01 * m * n, `${differing} bytes of ${m * n}`);
        for (const kind of ['v_row', 'v_col', 'p', 'w']) {
          t.deepEqual((fast.state[kind] as Tensor).dataSync(), (plain.state[kind] as Tensor).dataSync());
        }
        disposeState(state);
        disposeState(fast.state);
        state = plain.state;
        tf.dispose([payload, ...moments, plain.weight, fast.weight]);
      }
      disposeState(state);
      weight.dispose();
      t.is(openHandles(), 0);
      t.is(tf.memory().numTensors, before);
    });
  }
}

test.serial('dice that fall next to a whole number are those of the codec', (t) => {
  // Numbers on a fine grid of the scale: many quotients plus dice lie next to whole numbers.
  const [m, n] = [400, 256];
  const values = Float32Array.from({ length: m * n }, (_, i) =>
    i % 256 === 0 ? 127 : ((i * 7919) % 255) - 127,
  );
  const slot = powerSlot(m, n, 1);
  const context = { ...contextOf(slot, 1, {}), share: 1 };
  const local = { feedback_codes: new Uint8Array(int8Codec.encodedBytes(m * n)) };
  for (const factor of [1, 0.1, 1e-20, 3e30]) {
    const scaled = values.map((value) => value * factor);
    const gradient = tf.tensor2d(scaled, [m, n]);
    const fast = withKernels(true, () => gradientFeedback.add(context, local, gradient, false));
    t.deepEqual(fast, { feedback_codes: int8Codec.encode(scaled, context.key) });
    gradient.dispose();
  }
});

test.serial('numbers that are not finite are an error, not bytes', (t) => {
  const slot = powerSlot(24, 512, 2);
  const context = contextOf(slot, 1, {});
  const local = { feedback_codes: new Uint8Array(int8Codec.encodedBytes(24 * 512)) };
  for (const bad of [NaN, Infinity]) {
    const values = whole('gradient', 24 * 512, 3);
    values[5000] = bad;
    const gradient = tf.tensor2d(values, [24, 512]);
    const error = t.throws(
      () => withKernels(true, () => gradientFeedback.add(context, local, gradient, false)),
      {
        instanceOf: NotFiniteError,
      },
    );
    t.regex(error.message, /diverged; start it anew with a smaller optimizer\.lr/);
    gradient.dispose();
  }
});

function disposeState(state: RuleState): void {
  for (const value of Object.values(state)) if (value instanceof tf.Tensor) value.dispose();
}
