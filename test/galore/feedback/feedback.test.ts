/** Nothing is lost: what was sent and what is kept add up to all gradients. */
import test from 'ava';
import { codecFor, type CodecName } from '../../../src/galore/codec/codec.ts';
import { localState } from '../../../src/galore/feedback/local-state.ts';
import { feedbackOf } from '../../../src/galore/feedback/rules.ts';
import type { FeedbackContext, LocalState } from '../../../src/galore/feedback/feedback.ts';
import { factorsOf, liftFactors, liftOfPower } from '../../../src/galore/feedback/power.ts';
import { tensorsOf, type RuleState } from '../../../src/galore/optimizer/rule.ts';
import { firstState, ruleFor } from '../../../src/galore/optimizer/rules.ts';
import { payloadOf } from '../../../src/galore/projection/project-lift.ts';
import { payloadShape, type BufferDtype, type PowerSlot, type Slot } from '../../../src/galore/slot.ts';
import { derive } from '../../../src/random.ts';
import { orthonormalMatrix, projectedSlot, randomMatrix } from '../matrices.ts';
import { HYPER } from '../run-rule.ts';
import { tensorOf, tf, type Tensor, type Tensor2D } from '../tensors.ts';

function powerSlot(m: number, n: number, rank: number, feedback: BufferDtype): PowerSlot {
  const base = { name: 'w', shape: [m, n], index: 0, policy: 'power', rule: 'power' } as const;
  return { ...base, feedback: 'gradient', rank, phase: 0, buffers: { feedback, moment: 'f32' } };
}

function zeroLocal(slot: Slot): LocalState {
  const specs = localState(slot);
  return Object.fromEntries(
    specs.map(({ kind, shape, dtype }) => [
      kind,
      dtype === 'u8' ? new Uint8Array(shape[0]!) : tf.zeros([...shape]),
    ]),
  );
}

/** A step of one trainer: what was sent, as its receivers decode it, and what is kept now. */
function contribute(context: FeedbackContext, local: LocalState, gradient: Tensor, codec: CodecName) {
  const rule = feedbackOf(context.slot)!;
  // As in the trainer, all of it happens while the model's tidy is open.
  return tf.tidy(() => {
    const open = rule.add(context, local, gradient, true);
    const payload = rule.payload(context, open);
    const bytes = codecFor(codec).encode(payload.dataSync<'float32'>() as Float32Array, context.key);
    const sent = tf.keep(tf.tensor(codecFor(codec).decode(bytes, payload.size), payload.shape));
    const kept = rule.settle(context, open, sent);
    tf.dispose(tensorsOf(open));
    return { sent, kept };
  });
}

function add(sum: Tensor, term: Tensor): Tensor {
  const next = tf.add(sum, term);
  tf.dispose([sum, term]);
  return next;
}

/** |a - b| / |b|. */
function difference(a: Tensor, b: Tensor): number {
  return tf.tidy(() => tf.div(tf.norm(tf.sub(a, b)), tf.norm(b)).dataSync()[0]!);
}

for (const [m, n, codec] of [
  [24, 10, 'f32'],
  [10, 24, 'f32'],
  [24, 10, 'int8'],
] as const) {
  test(`power, ${m} x ${n}, ${codec}: what two trainers sent and keep is the sum of their gradients`, (t) => {
    const before = tf.memory().numTensors;
    const slot = powerSlot(m, n, 3, 'f32');
    let state: RuleState = firstState(slot, 1);
    let weight: Tensor = tf.zeros([m, n]);
    let locals = ['a', 'b'].map(() => zeroLocal(slot));
    let gradients: Tensor = tf.zeros([m, n]);
    let lifted: Tensor = tf.zeros([m, n]);
    for (let step = 1; step <= 7; step++) {
      let sum: Tensor = tf.zeros([...payloadShape(slot, step)]);
      locals = locals.map((local, trainer) => {
        const gradient = tensorOf(randomMatrix(m, n, 'gradient', step, trainer));
        const context = { slot, step, basis: null, state, share: 1, key: derive(1, 'dice', step, trainer) };
        const { sent, kept } = contribute(context, local, gradient, codec);
        tf.dispose(tensorsOf(local));
        sum = add(sum, sent);
        gradients = add(gradients, gradient);
        return kept;
      });
      lifted = add(lifted, liftOfPower(liftFactors(slot, step, sum as Tensor2D, state)));
      const next = ruleFor('power').step({
        slot,
        weight,
        payload: sum,
        state,
        basis: null,
        hyper: { ...HYPER, step },
      });
      tf.dispose([weight, sum, ...tensorsOf(state)]);
      ({ weight, state } = next);
      const { p, w } = factorsOf(state);
      for (const factor of [p, w]) {
        const gram = tf.tidy(() =>
          tf
            .sub(tf.matMul(factor, factor, true, false), tf.eye(3))
            .abs()
            .max()
            .dataSync(),
        );
        t.true(gram[0]! < 1e-5, `factors stay orthonormal: ${gram[0]}`);
      }
      const all = tf.tidy(() => tf.addN([lifted, ...locals.flatMap((local) => tensorsOf(local))]));
      const apart = difference(all, gradients);
      all.dispose();
      t.true(apart < 2e-6, `step ${step}: ${apart}`);
      t.true(difference(lifted, gradients) > 0.1, 'and not because everything was sent');
    }
    tf.dispose([weight, gradients, lifted, ...tensorsOf(state), ...locals.flatMap(tensorsOf)]);
    t.is(tf.memory().numTensors, before);
  });
}

test('an error of one byte a number is off by its rounding alone, and that is no bias', (t) => {
  const slot = powerSlot(40, 30, 4, 'int8');
  const state = firstState(slot, 1);
  const gradient = tensorOf(randomMatrix(40, 30, 'gradient'));
  const context = (step: number) => ({
    slot,
    step,
    basis: null,
    state,
    share: 1,
    key: derive(1, 'dice', step),
  });
  const exactSlot = powerSlot(40, 30, 4, 'f32');
  const exact = contribute({ ...context(1), slot: exactSlot }, zeroLocal(exactSlot), gradient, 'f32');
  const wanted = tensorsOf(exact.kept)[0]!;
  const mean = tf.tidy(() => {
    const all = Array.from({ length: 200 }, (_, i) => {
      const { kept } = contribute(context(1 + 2 * i), zeroLocal(slot), gradient, 'f32');
      const [bytes] = Object.values(kept) as Uint8Array[];
      return tf.tensor(codecFor('int8').decode(bytes!, 1200), [40, 30]);
    });
    t.true(difference(all[0]!, wanted) < 0.02);
    return tf.div(tf.addN(all), 200);
  });
  const apart = difference(mean, wanted);
  t.true(apart < 0.002, `${apart}`);
});

test('payload feedback, int8: what was sent and what is kept is the sum of the payloads', (t) => {
  const before = tf.memory().numTensors;
  const basis = tensorOf(orthonormalMatrix(20, 4, 'basis'));
  const oneSided = { ...projectedSlot(30, 20, 'right', 4), feedback: 'payload' } as const;
  const dense = {
    name: 'w',
    shape: [30, 20],
    index: 0,
    policy: 'dense',
    rule: 'adamw',
    feedback: 'payload',
  } as const;
  for (const [slot, projection] of [
    [oneSided, basis],
    [dense, null],
  ] as const) {
    let local = zeroLocal(slot);
    let payloads: Tensor = tf.zeros([...payloadShape(slot, 1)]);
    let sents: Tensor = tf.zeros([...payloadShape(slot, 1)]);
    for (let step = 1; step <= 20; step++) {
      const gradient = tensorOf(randomMatrix(30, 20, 'gradient', step));
      const context = { slot, step, basis: projection, state: {}, share: 1, key: derive(1, 'dice', step) };
      const { sent, kept } = contribute(context, local, gradient, 'int8');
      tf.dispose(tensorsOf(local));
      local = kept;
      payloads = add(payloads, payloadOf(slot, gradient, projection));
      gradient.dispose();
      sents = add(sents, sent);
    }
    const all = tf.add(sents, tensorsOf(local)[0]!);
    t.true(difference(all, payloads) < 2e-6);
    const left = difference(sents, payloads);
    t.true(left > 1e-4 && left < 0.01, `what is left is one step's rounding, not twenty: ${left}`);
    tf.dispose([all, sents, payloads, ...tensorsOf(local)]);
  }
  basis.dispose();
  t.is(tf.memory().numTensors, before);
});
