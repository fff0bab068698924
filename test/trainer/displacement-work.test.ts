/** Local steps through the code of a trainer, and what the others make of them. */
import test from 'ava';
import { sumEncoded } from '../../src/galore/aggregate/mean.ts';
import { codecFor } from '../../src/galore/codec/codec.ts';
import { carriesSums, hasBasis, payloadShape, sizeOf } from '../../src/galore/slot.ts';
import { localTensors } from '../../src/galore/state-table.ts';
import { unmaskedRows, type TokenBatch } from '../../src/trainer/model/batch.ts';
import { tinyRun } from '../coordinator/tiny-run.ts';
import { tf, type Tensor } from '../galore/tensors.ts';
import { tinyBatch, tinyConfig, tinyWeights } from '../helpers/tiny-llama.ts';
import {
  bases,
  commit,
  MODEL,
  startOn,
  startTrainer,
  trainedAlone,
  weightsOf,
  type Sent,
  type Trainer,
} from './displacing.ts';

const { LocalStates } = await import('../../src/trainer/local-states.ts');
const { Replica } = await import('../../src/trainer/replica.ts');
const { StepWork } = await import('../../src/trainer/step.ts');
const { LlamaModel } = await import('../../src/trainer/model/llama.ts');

const CARRY = { moments: 'transport', betas: [0.9, 0.99] } as const;

const BATCHES = Array.from({ length: 6 }, (_, i) => tinyBatch(MODEL, 1 + (i % 2), 7, 10 + i));
const [FIRST, SECOND] = [
  BATCHES.slice(0, 3).map((batch) => [batch]),
  BATCHES.slice(3).map((batch) => [batch]),
];

for (const settings of [
  [],
  ['method.name=two-sided'],
  ['method.name=full'],
  ['optimizer={name: sgd, lr: 0.05}'],
] as const) {
  test.serial(
    `the mean of the weights of two trainers is W0 and the lifted mean of their displacements ${settings.join()}`,
    (t) => {
      const [a, b] = [startTrainer(t, ...settings), startTrainer(t, ...settings)];
      const [one, two] = [a.run(FIRST), b.run(SECOND)];
      const alone = [FIRST, SECOND].map((batches) => trainedAlone(t, batches.flat(), settings));
      commit(a, 1, [one, two]);
      commit(b, 1, [one, two]);
      t.deepEqual(a.replica.weightsSha256(), b.replica.weightsSha256());
      const share = one.tokens / (one.tokens + two.tokens);
      t.true(share > 0.4 && share < 0.6 && share !== 0.5, 'shares differ');
      const first = tinyWeights(MODEL);
      for (const [name, values] of weightsOf(a.replica.weights)) {
        const [w1, w2] = alone.map((weights) => weights.get(name)!) as [Float32Array, Float32Array];
        const difference = Math.max(
          ...values.map((value, i) => Math.abs(value - (share * w1[i]! + (1 - share) * w2[i]!))),
        );
        const moved = Math.max(...values.map((value, i) => Math.abs(value - first.get(name)![i]!)));
        t.true(moved > 1e-4, `${name} moved by ${moved}`);
        t.true(difference <= 1e-6, `${name}: ${difference}`);
      }
    },
  );
}

test.serial('a single local step of sgd is the synchronous step', (t) => {
  const sgd = 'optimizer={name: sgd, momentum: 0, lr: 0.05}';
  const [a, b] = [startTrainer(t, sgd), startTrainer(t, sgd)];
  commit(a, 1, [a.run([BATCHES.slice(0, 2)]), b.run([BATCHES.slice(2, 4)])]);

  const { config, shape } = tinyRun(sgd);
  const state = new Map([...tinyWeights(MODEL)].map(([name, values]) => [`weights/${name}`, values]));
  const replica = new Replica(shape.slots, state, config);
  t.teardown(() => replica.dispose());
  replica.installBases(1, bases(shape.slots), []);
  const model = new LlamaModel(MODEL, replica.weights, { recompute: false, lossChunk: 0 });
  const parts = [BATCHES.slice(0, 2), BATCHES.slice(2, 4)].map((batches) => {
    const contribution = new Map<number, Sent>();
    const work = new StepWork(
      { ...a.task, codecs: shape.codecs, slots: shape.slots, batches },
      replica,
      a.locals,
      {
        contribution: ({ index }, codec, bytes) =>
          contribution.set(index, { codec, bytes: bytes.slice(), values: new Float32Array() }),
        sketch() {},
      },
    );
    work.computeGradients(model);
    return { tokens: work.tokens, lossSum: work.lossSum, contribution };
  });
  const total = parts[0]!.tokens + parts[1]!.tokens;
  const tensors = shape.slots.map((slot) => {
    const given = parts.map(({ tokens, contribution }) => ({
      ...{ bytes: contribution.get(slot.index)!.bytes, codec: codecFor('f32'), weight: tokens / total },
    }));
    const { sum } = sumEncoded(given, sizeOf(payloadShape(slot, 1)));
    return [slot.index, { codec: 'f32' as const, bytes: new Uint8Array(sum.buffer) }] as const;
  });
  replica.applyUpdate(1, 0.05, new Map(tensors));
  const synchronous = weightsOf(replica.weights);
  for (const [name, values] of weightsOf(a.replica.weights)) {
    const want = synchronous.get(name)!;
    const difference = Math.max(...values.map((value, i) => Math.abs(value - want[i]!)));
    t.true(difference <= 2e-7, `${name}: ${difference}`);
  }
});

test.serial('the weights all trainers have come back bit for bit, also from a step that breaks off', (t) => {
  const { replica, model, begin, run } = startTrainer(t);
  const before = [replica.weightsSha256(), tf.memory().numTensors] as const;
  const { contribution, lossSum, tokens } = run(FIRST);
  t.deepEqual(replica.weightsSha256(), before[0]);
  t.is(contribution.size, replica.slots.length);
  t.is(
    tokens,
    FIRST.flat().reduce((sum, { labels }) => sum + unmaskedRows(labels).length, 0),
  );
  t.true(lossSum > 0);
  const kept = tf.memory().numTensors;
  const [fine] = FIRST[0] as [TokenBatch];
  const broken = begin([[fine], [fine, { ...fine, ids: fine.ids.map(() => MODEL.vocabSize) }]], { step: 2 });
  broken.computeGradients(model);
  t.throws(() => broken.contributeHeld(), { message: /not in the vocabulary/ });
  t.deepEqual(replica.weightsSha256(), before[0]);
  broken.dispose();
  broken.dispose();
  t.is(tf.memory().numTensors, kept);
  const again = run(FIRST, { step: 2 });
  t.notDeepEqual(again.contribution, contribution, 'its moments go on');
  t.is(tf.memory().numTensors, kept);
});

test.serial(
  'a step that does not count leaves the moments as they were; one that counts has counted its steps',
  (t) => {
    const { replica, model, locals, begin, run, sent } = startTrainer(t);
    const countOf = () => (locals.get(replica.slots[1]!)['count'] as Tensor).dataSync()[0];
    run(FIRST);
    t.is(countOf(), 3);
    const contributions = [1, 2].map(() => {
      const work = begin(SECOND, { step: 2 });
      work.computeGradients(model);
      work.contributeHeld();
      const values = [...sent.values()].map(({ bytes }) => bytes);
      sent.clear();
      locals.decide(2, false);
      t.is(countOf(), 3);
      return values;
    });
    t.deepEqual(contributions[0], contributions[1]);
    run(SECOND.slice(0, 2), { step: 3 });
    t.is(countOf(), 5);
  },
);

test.serial('local steps without a token are left out, and without any there is nothing to send', (t) => {
  const { replica, locals, run } = startTrainer(t);
  const [batch] = FIRST[0] as [TokenBatch];
  const masked = { ...batch, labels: batch.labels.map(() => -100) };
  const { tokens, contribution } = run([[masked], [masked]]);
  t.deepEqual([tokens, contribution.size], [0, 0]);
  run([[masked], [batch], [masked]], { step: 2 });
  t.is((locals.get(replica.slots[1]!)['count'] as Tensor).dataSync()[0], 1);
});

test.serial(
  'a refresh has sketches of the first gradient at the shared weights, then all steps go in the new bases',
  (t) => {
    const { replica, model, locals, sent, sketches, output, task, begin } = startTrainer(t);
    const projected = replica.slots.filter(hasBasis).map(({ index }) => index);
    const work = begin(FIRST, { refreshSlots: projected });
    work.computeGradients(model);
    t.is(sent.size, 0, 'nothing has moved yet');
    work.sendSketches(1, projected, 1, new Map());
    const plain = new StepWork(
      { ...task, refreshSlots: projected, batches: FIRST[0]! },
      replica,
      new LocalStates(),
      { ...output, sketch: (slot, _round, values) => t.deepEqual(sketches.get(slot.index), values.slice()) },
    );
    plain.computeGradients(model);
    sent.clear();
    plain.sendSketches(1, projected, 1, new Map());
    plain.dispose();

    const fresh = bases(replica.slots, 100);
    replica.installBases(1, fresh, [], (change) => locals.carry(change, CARRY));
    work.contributeHeld();
    const refreshed = new Map(sent);
    t.is(refreshed.size, replica.slots.length);
    sent.clear();
    const other = startTrainer(t);
    other.replica.installBases(1, bases(replica.slots, 100), []);
    const { contribution } = other.run(FIRST);
    for (const [index, { values }] of contribution) {
      const got = refreshed.get(index)!.values;
      const scale = Math.max(...values.map(Math.abs));
      t.true(
        Math.max(...values.map((value, i) => Math.abs(value - got[i]!))) <= 1e-4 * scale,
        `slot ${index}`,
      );
    }
  },
);

test.serial(
  'what a trainer keeps moves to a new basis and goes on from a checkpoint with the same bits',
  (t) => {
    for (const optimizer of ['adamw', 'adamw-8bit']) {
      const { replica, locals, run } = startTrainer(t, `optimizer.name=${optimizer}`, 'method.rank=8');
      run(FIRST);
      replica.installBases(2, bases(replica.slots, 50), [], (change) => locals.carry(change, CARRY));
      const projected = replica.slots.find(hasBasis)!;
      t.is((locals.get(projected)['count'] as Tensor).dataSync()[0], 3);

      const other = startTrainer(t, `optimizer.name=${optimizer}`, 'method.rank=8');
      other.replica.installBases(2, bases(replica.slots, 50), []);
      const values = locals.clone(replica.slots).map((value) => {
        if (value instanceof Uint8Array) return value.slice();
        const array = (value as Tensor).dataSync().slice() as Float32Array;
        tf.dispose(value as Tensor);
        return array;
      });
      const names = localTensors(replica.slots).map(({ name }) => name);
      other.locals.restore(replica.slots, new Map(names.map((name, i) => [name, values[i]!])));
      const [one, two] = [run(SECOND, { step: 2 }), other.run(SECOND, { step: 2 })];
      t.deepEqual(one.contribution, two.contribution);
    }
  },
);

test.serial('what 4 bits round away of a displacement is kept: sent and kept are all that it moved', (t) => {
  // Wide enough for payloads that are not f32 anyway: R of the mlp is [160, 32].
  const wide = tinyConfig({ hiddenSize: 64, intermediateSize: 160, numHiddenLayers: 1, headDim: 16 });
  const batches = [[tinyBatch(wide, 2)], [tinyBatch(wide, 2, 7, 3)]];
  const [rounded, exact] = ['int4', 'f32'].map((codec) =>
    startOn(t, wide, tinyRun('local_steps.count=2', 'method.rank=32', `wire.codec=${codec}`).config),
  ) as [Trainer, Trainer];
  const { contribution, tokens } = rounded.run(batches);
  const { contribution: whole } = exact.run(batches);
  const share = tokens / rounded.task.stepTokens;
  const slots = rounded.replica.slots.filter(carriesSums);
  t.true(slots.length >= 3);
  for (const slot of slots) {
    const residual = (rounded.locals.get(slot)['residual'] as Tensor).dataSync();
    const { values, codec } = contribution.get(slot.index)!;
    t.is(codec, 'int4');
    t.true(residual.some((value) => value !== 0));
    const want = whole.get(slot.index)!.values;
    const difference = Math.max(
      ...values.map((value, i) => Math.abs(value + residual[i]! - share * want[i]!)),
    );
    t.true(difference < 1e-7, `${slot.name}: ${difference}`);
  }
});
