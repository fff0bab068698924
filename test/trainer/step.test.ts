import test, { type ExecutionContext } from 'ava';
import { codecFor } from '../../src/galore/codec/codec.ts';
import {
  heldOut,
  joinColumns,
  refreshPlan,
  sketchPlan,
  warmStart,
  type RefreshPlan,
} from '../../src/galore/projection/sketch.ts';
import {
  basisShape,
  hasBasis,
  matrixShape,
  payloadShape,
  sizeOf,
  type ProjectedSlot,
} from '../../src/galore/slot.ts';
import type { TokenBatch } from '../../src/trainer/model/batch.ts';
import { unmaskedRows } from '../../src/trainer/model/batch.ts';
import type { StepOutput, StepTask } from '../../src/trainer/step.ts';
import { tinyRun } from '../coordinator/tiny-run.ts';
import { orthonormalMatrix } from '../galore/matrices.ts';
import { tf, type Tensor2D } from '../galore/tensors.ts';
import { tinyBatch, tinyConfig, tinyWeights } from '../helpers/tiny-llama.ts';

const { LocalStates } = await import('../../src/trainer/local-states.ts');
const { Replica } = await import('../../src/trainer/replica.ts');
const { StepWork } = await import('../../src/trainer/step.ts');
const { LlamaModel } = await import('../../src/trainer/model/llama.ts');

const MODEL = tinyConfig();
const { config, shape, projected } = tinyRun();
const { slots } = shape;
const DENSE = slots.map(({ index }) => index).filter((index) => !projected.includes(index));

function bases(label: string) {
  return new Map(
    projected.map((index) => {
      const [rows, columns] = basisShape(slots[index] as ProjectedSlot);
      const values = Float32Array.from(orthonormalMatrix(rows, columns, label, index).values);
      return [index, { codec: 'f32' as const, bytes: new Uint8Array(values.buffer) }];
    }),
  );
}

function firstState() {
  return new Map([...tinyWeights(MODEL)].map(([name, values]) => [`weights/${name}`, values]));
}

interface Sent {
  readonly slot: number;
  readonly round: number;
  readonly values: Float32Array;
}

function outputTo(sent: Sent[]): StepOutput {
  return {
    contribution: (slot, codec, bytes) =>
      sent.push({ slot: slot.index, round: 0, values: codecFor(codec).decode(bytes, bytes.length / 4) }),
    sketch: (slot, round, values) => sent.push({ slot: slot.index, round, values: values.slice() }),
  };
}

/** A trainer's model with bases, and what its steps send. */
function startTrainer(t: ExecutionContext) {
  const replica = new Replica(slots, firstState(), config);
  replica.installBases(1, bases('p'), []);
  t.teardown(() => replica.dispose());
  const model = new LlamaModel(MODEL, replica.weights, { recompute: false, lossChunk: 0 });
  const locals = new LocalStates();
  t.teardown(() => locals.dispose());
  const sent: Sent[] = [];
  const begin = (batches: readonly TokenBatch[], fields: Partial<StepTask> = {}) =>
    new StepWork(
      {
        step: 2,
        seed: 1,
        trainerId: 'a',
        refreshSlots: [],
        flushSlots: [],
        codecs: shape.codecs,
        stepTokens: config.batch_size * config.seq_len,
        refresh: shape.refresh,
        slots,
        batches,
        ...fields,
      },
      replica,
      locals,
      outputTo(sent),
    );
  return { replica, locals, model, sent, begin };
}

const BATCH = tinyBatch(MODEL, 4);
const CARRY = { moments: 'transport', betas: [0.9, 0.99] } as const;

/** The same sequences in micro-batches of one. */
function oneByOne({ ids, labels, sequences, length }: TokenBatch): TokenBatch[] {
  return Array.from({ length: sequences }, (_, i) => ({
    ids: ids.slice(i * length, (i + 1) * length),
    labels: labels.slice(i * length, (i + 1) * length),
    sequences: 1,
    length,
  }));
}

test.serial('every slot is sent once, as soon as its gradient is complete, and no tensor is left', (t) => {
  const { model, sent, begin } = startTrainer(t);
  const before = tf.memory().numTensors;
  const work = begin([BATCH]);
  work.computeGradients(model);
  t.deepEqual(
    sent.map(({ slot }) => slot).sort((a, b) => a - b),
    slots.map(({ index }) => index),
  );
  t.is(work.tokens, unmaskedRows(BATCH.labels).length);
  t.true(work.lossSum > 0);
  t.is(tf.memory().numTensors, before);
});

test.serial('micro-batches change nothing but the rounding', (t) => {
  const { model, sent, begin } = startTrainer(t);
  begin([BATCH]).computeGradients(model);
  const whole = new Map(sent.splice(0).map(({ slot, values }) => [slot, values]));
  const before = tf.memory().numTensors;
  begin(oneByOne(BATCH)).computeGradients(model);
  t.is(tf.memory().numTensors, before);
  t.is(sent.length, slots.length);
  for (const { slot, values } of sent) {
    const expected = whole.get(slot)!;
    const scale = Math.max(...expected.map(Math.abs));
    const difference = Math.max(...values.map((x, i) => Math.abs(x - expected[i]!)));
    t.true(difference <= 1e-5 * scale, `slot ${slot}: ${difference} of ${scale}`);
  }
});

test.serial(
  'slots under refresh are held back until their new bases are there, then sent with these',
  (t) => {
    const { replica, model, sent, begin } = startTrainer(t);
    const before = tf.memory().numTensors;
    const work = begin(oneByOne(BATCH), { refreshSlots: projected });
    work.computeGradients(model);
    t.deepEqual(
      sent.map(({ slot }) => slot).sort((a, b) => a - b),
      DENSE,
    );
    t.is(tf.memory().numTensors - before, projected.length, 'one gradient a slot is held');
    sent.length = 0;
    work.sendSketches(1, projected, 1, new Map());
    for (const { slot, round, values } of sent.splice(0)) {
      t.is(round, 1);
      t.is(4 * values.length, shape.sizes[slot]!.sketches[0]!.totalBytes);
    }
    t.is(tf.memory().numTensors - before, projected.length);
    replica.installBases(2, bases('q'), []);
    work.contributeHeld();
    t.is(tf.memory().numTensors, before);
    const refreshed = new Map(sent.splice(0).map(({ slot, values }) => [slot, values]));
    t.deepEqual(
      [...refreshed.keys()].sort((a, b) => a - b),
      projected,
    );
    begin(oneByOne(BATCH)).computeGradients(model);
    for (const { slot, values } of sent.filter((item) => projected.includes(item.slot))) {
      const scale = Math.max(...values.map(Math.abs));
      const difference = Math.max(...values.map((x, i) => Math.abs(x - refreshed.get(slot)![i]!)));
      t.true(difference <= 1e-5 * scale, `slot ${slot}`);
    }
  },
);

test.serial('a dense slot with a basis is sketched under refresh, and its gradient sent whole', (t) => {
  const { config: fira, shape: whole } = tinyRun('method.name=fira');
  const based = whole.slots.filter(hasBasis).map(({ index }) => index);
  const { locals, model, sent, begin } = startTrainer(t);
  const replica = new Replica(whole.slots, firstState(), fira);
  t.teardown(() => replica.dispose());
  const before = tf.memory().numTensors;
  const work = new StepWork(
    { ...begin([BATCH]).task, step: 1, refreshSlots: based, slots: whole.slots },
    replica,
    locals,
    outputTo(sent),
  );
  work.computeGradients(model);
  t.deepEqual(sent.splice(0).length, whole.slots.length - based.length);
  work.sendSketches(1, based, 1, new Map());
  for (const { slot, values } of sent.splice(0)) {
    t.is(4 * values.length, whole.sizes[slot]!.sketches[0]!.totalBytes);
  }
  work.contributeHeld();
  t.deepEqual(
    sent.toSorted((a, b) => a.slot - b.slot).map(({ slot, values }) => [slot, values.length]),
    based.map((slot) => [slot, sizeOf(whole.slots[slot]!.shape)]),
  );
  t.is(tf.memory().numTensors, before);
});

test.serial('a step that is given up at any point leaves no tensor, and can be begun anew', (t) => {
  const { model, sent, begin } = startTrainer(t);
  const before = tf.memory().numTensors;
  const refreshed = begin(oneByOne(BATCH), { refreshSlots: projected });
  refreshed.computeGradients(model);
  refreshed.dispose();
  t.is(tf.memory().numTensors, before);
  const [first, second] = oneByOne(BATCH) as [TokenBatch, TokenBatch];
  const broken = begin([first, { ...second, ids: second.ids.map(() => MODEL.vocabSize) }]);
  t.throws(() => broken.computeGradients(model), { message: /not in the vocabulary/ });
  broken.dispose();
  broken.dispose();
  t.is(tf.memory().numTensors, before);
  sent.length = 0;
  begin([BATCH]).computeGradients(model);
  const once = sent.splice(0);
  begin([BATCH]).computeGradients(model);
  t.deepEqual(sent, once);
});

test.serial('sequences without a label give no tensors and no tokens', (t) => {
  const { model, sent, begin } = startTrainer(t);
  const before = tf.memory().numTensors;
  const work = begin([{ ...BATCH, labels: BATCH.labels.map(() => -100) }], { refreshSlots: projected });
  work.computeGradients(model);
  work.sendSketches(1, projected, 1, new Map());
  work.contributeHeld();
  t.is(work.tokens, 0);
  t.deepEqual(sent, []);
  t.is(tf.memory().numTensors, before);
});

/** A B, or A'B, row-major. */
function times(a: Float32Array, b: Float32Array, rows: number, isTransposed: boolean): number[] {
  // a is [rows, columns]; b has as many rows as a has columns (rows, transposed).
  const columns = a.length / rows;
  const [height, inner] = isTransposed ? [columns, rows] : [rows, columns];
  const width = b.length / inner;
  return Array.from({ length: height * width }, (_, at) => {
    const [i, j] = [Math.floor(at / width), at % width];
    let sum = 0;
    for (let k = 0; k < inner; k++)
      sum += a[isTransposed ? k * columns + i : i * columns + k]! * b[k * width + j]!;
    return sum;
  });
}

test.serial(
  'a warm start begins with the old basis, and the last round measures with held-out columns',
  (t) => {
    const { replica, model, sent, begin } = startTrainer(t);
    const sketches = (refresh: RefreshPlan, round: number, factors = new Map<number, Float32Array>()) => {
      const work = begin([BATCH], { refreshSlots: projected, refresh });
      work.computeGradients(model);
      sent.length = 0;
      work.sendSketches(round, projected, 9, factors);
      work.dispose();
      return new Map(sent.splice(0).map(({ slot, values }) => [slot, values]));
    };
    const exact = sketches(refreshPlan({ type: 'exact', oversample: 0, power_iterations: 0 }), 1);
    const options = { type: 'sketch', oversample: 2, power_iterations: 1 } as const;
    const warm = refreshPlan({ ...options, warm_start: true, held_out_columns: 3 });
    const second = sketches(warm, 2);
    const factors = new Map(
      projected.map((index) => {
        const [rows, columns] = sketchPlan(slots[index] as ProjectedSlot, 3, warm).factorShape!;
        return [index, Float32Array.from(orthonormalMatrix(rows, columns, 'factor', index).values)];
      }),
    );
    const last = sketches(warm, 3, factors);
    for (const index of projected) {
      const slot = slots[index] as ProjectedSlot;
      const a = exact.get(index)!; // [d, e]
      const [rows] = basisShape(slot);
      const old = replica.basis(slot).dataSync() as Float32Array;
      const start = warmStart(9, 2, slot, old, rows, slot.rank + 2);
      const [e] = sketchPlan(slot, 3, warm).factorShape!;
      const right = joinColumns(factors.get(index)!, heldOut(9, 2, slot, e, 3), e);
      const pairs: [Float32Array, number[]][] = [
        [second.get(index)!, times(a, start, rows, true)],
        [last.get(index)!, times(a, right, rows, false)],
      ];
      for (const [given, wanted] of pairs) {
        t.is(given.length, wanted.length);
        const scale = Math.max(...wanted.map(Math.abs));
        t.true(
          wanted.every((value, i) => Math.abs(value - given[i]!) <= 1e-4 * scale),
          `slot ${index}`,
        );
      }
    }
    const work = begin([BATCH], { refreshSlots: projected, refresh: warm });
    work.computeGradients(model);
    t.throws(() => work.sendSketches(3, projected, 9, new Map()), { message: /for round 3 has not come/ });
    work.dispose();
  },
);

/** A step of a run with the settings, from the first weights; what is sent. */
function startOther(t: ExecutionContext, ...settings: readonly string[]) {
  const run = tinyRun(...settings);
  const replica = new Replica(run.shape.slots, firstState(), run.config);
  t.teardown(() => replica.dispose());
  const { model, locals, sent, begin } = startTrainer(t);
  const { codecs } = run.shape;
  const task = (fields: Partial<StepTask> = {}): StepTask => ({
    ...begin([BATCH], fields).task,
    ...{ slots: run.shape.slots, codecs, stepTokens: 2 * unmaskedRows(BATCH.labels).length },
  });
  const work = (fields: Partial<StepTask> = {}) =>
    new StepWork(task(fields), replica, locals, outputTo(sent));
  const taken = () => new Map(sent.splice(0).map(({ slot, values }) => [slot, values]));
  return { run, replica, model, locals, work, taken };
}

test.serial(
  'with payload feedback a slot under refresh is held, and sends its share and what was kept',
  (t) => {
    const { replica, model, locals, work, taken } = startOther(t, 'method.feedback=payload');
    const plain = startTrainer(t);
    plain.replica.installBases(1, bases('q'), []);
    plain.begin([BATCH]).computeGradients(plain.model);
    const means = new Map(plain.sent.map(({ slot, values }) => [slot, values]));
    const first = work({ step: 1, refreshSlots: projected });
    first.computeGradients(model);
    const early = taken();
    t.false(
      projected.some((index) => early.has(index)),
      'there is no basis yet',
    );
    replica.installBases(1, bases('q'), []);
    first.contributeHeld();
    const sums = taken();
    t.deepEqual(
      [...sums.keys()].sort((a, b) => a - b),
      projected,
    );
    for (const [index, values] of sums) {
      const mean = means.get(index)!;
      t.true(
        values.every((value, i) => Math.abs(value - mean[i]! / 2) < 1e-5),
        `half of the step's tokens: ${index}`,
      );
    }
    // As if the codec had lost all of it.
    const slot = replica.slots[projected[0]!]!;
    const payload = [...(Object.values(locals.get(slot))[0] as ReturnType<typeof tf.zeros>).shape];
    locals.propose(slot, { residual: tf.tensor(sums.get(slot.index)!, payload) });
    locals.decide(1, true);
    work({ step: 2 }).computeGradients(model);
    const later = taken().get(slot.index)!;
    t.true(later.every((value, i) => Math.abs(value - means.get(slot.index)![i]!) < 1e-5));
  },
);

test.serial(
  'sketches of slots that keep whole gradients are of all that is kept, which is then sent',
  (t) => {
    const settings = ['method.feedback=gradient', 'method.feedback_dtype=f32'];
    const { replica, model, locals, work, taken } = startOther(t, ...settings);
    const refresh = refreshPlan({ type: 'exact', oversample: 0, power_iterations: 0 });
    const sketched = (step: number): Map<number, Float32Array> => {
      const one = work({ step, refreshSlots: projected, refresh, batches: oneByOne(BATCH) });
      one.computeGradients(model);
      taken();
      one.sendSketches(1, projected, 1, new Map());
      one.dispose();
      return taken();
    };
    const gradients = sketched(1); // with the share: half of the step's tokens
    replica.installBases(1, bases('p'), [], (change) => locals.carry(change, CARRY));
    work({ step: 1 }).computeGradients(model);
    locals.decide(1, true);
    const held = tf.memory().numTensors;
    taken();
    const [slot] = projected.map((index) => replica.slots[index] as ProjectedSlot);
    const { index, side } = slot!;
    const error = (): Tensor2D => locals.get(slot!)['feedback'] as Tensor2D;
    const kept = error().dataSync<'float32'>().slice() as Float32Array;
    const all = sketched(2).get(index)!;
    const scale = Math.max(...all.map(Math.abs));
    // The exact sketch stands as the basis does: A = G for side left, G' for side right.
    const upright = (values: Float32Array): Float32Array =>
      side === 'left'
        ? values
        : (tf.tidy(() =>
            tf.transpose(tf.tensor2d(values, [...matrixShape(slot!)])).dataSync(),
          ) as Float32Array);
    const [of, first] = [upright(kept), gradients.get(index)!];
    t.true(kept.some((value) => Math.abs(value) > 0.01 * scale));
    t.true(all.every((value, i) => Math.abs(value - of[i]! - first[i]!) < 1e-5 * scale));
    t.deepEqual(error().dataSync(), kept, 'a step that was given up changes nothing');
    const second = work({ step: 2, refreshSlots: projected, refresh });
    second.computeGradients(model);
    replica.installBases(2, bases('q'), [], (change) => locals.carry(change, CARRY));
    t.deepEqual(error().dataSync(), kept, 'no basis is behind it');
    second.contributeHeld();
    locals.decide(2, true);
    t.is(tf.memory().numTensors, held);
    // Sent with the new basis of all that was kept, and nothing of that is left in its subspace.
    const sent = taken().get(index)!;
    const [inside, payload] = tf.tidy(() => {
      const whole = tf.tensor2d(all, [basisShape(slot!)[0], all.length / basisShape(slot!)[0]]);
      const basis = replica.basis(slot!);
      const left = side === 'left' ? error() : tf.transpose(error());
      const product = tf.matMul(basis, whole, true, false);
      return [
        tf.matMul(basis, left, true, false).abs().max().dataSync()[0]!,
        (side === 'left' ? product : tf.transpose(product)).dataSync() as Float32Array,
      ] as unknown as [Tensor2D, Tensor2D];
    }) as unknown as [number, Float32Array];
    t.true(inside < 1e-5 * scale, `${inside} of ${scale}`);
    t.true(sent.every((value, i) => Math.abs(value - payload[i]!) < 1e-5 * scale));
  },
);

test.serial('power: a step that is given up leaves no trace, and tall and wide products take turns', (t) => {
  const { run, model, locals, work, taken } = startOther(
    t,
    'method.name=power',
    'method.feedback_dtype=f32',
    'method.param_groups=[{match: [lm_head], policy: frozen}]',
  );
  const { slots: table } = run.shape;
  const head = table.find(({ name }) => name.includes('lm_head'))!;
  work({ step: 1 }).computeGradients(model);
  const once = taken();
  t.false(once.has(head.index), 'nothing of a frozen tensor travels');
  t.is(once.size, table.length - 1);
  const held = tf.memory().numTensors;
  work({ step: 1 }).computeGradients(model);
  t.deepEqual(taken(), once);
  t.is(tf.memory().numTensors, held);
  locals.decide(1, false);
  work({ step: 1 }).computeGradients(model);
  t.deepEqual(taken(), once);
  locals.decide(1, true);
  work({ step: 1 }).computeGradients(model);
  const kept = taken();
  for (const slot of table.filter(({ policy }) => policy === 'power')) {
    t.notDeepEqual(kept.get(slot.index), once.get(slot.index), 'what was kept is sent, too');
  }
  work({ step: 2 }).computeGradients(model);
  for (const [index, values] of taken()) t.is(values.length, sizeOf(payloadShape(table[index]!, 2)));
});

for (const dtype of ['f32', 'int8'] as const) {
  test.serial(
    `delayed: what a power slot has kept (${dtype}) is sent before the gradient of the step`,
    (t) => {
      const { run, model, locals, work, taken } = startOther(
        t,
        'method.name=power',
        `method.feedback_dtype=${dtype}`,
      );
      const { slots: table } = run.shape;
      const power = table.filter(({ policy }) => policy === 'power').map(({ index }) => index);
      work({ step: 1 }).computeGradients(model);
      const exact = taken();
      locals.decide(1, false);
      const before = tf.memory().numTensors;
      const delayed = { step: 1, isDelayed: true };
      work(delayed).computeGradients(model);
      const first = taken();
      t.deepEqual(
        [...first.keys()].slice(0, power.length).toSorted((a, b) => a - b),
        power,
        'they come first',
      );
      t.is(first.size, exact.size);
      for (const [index, values] of first) {
        if (!power.includes(index)) t.deepEqual(values, exact.get(index), 'the others are not delayed');
        else
          t.true(
            values.every((value) => value === 0),
            'nothing is kept yet',
          );
      }
      locals.decide(1, true);
      const held = tf.memory().numTensors;
      // A tall step again: what the step before would have sent, had it not been delayed.
      work(delayed).computeGradients(model);
      const second = taken();
      for (const index of power) {
        const [sent, expected] = [second.get(index)!, exact.get(index)!];
        if (dtype === 'f32') t.deepEqual(sent, expected);
        else t.true(sent.every((value, i) => Math.abs(value - expected[i]!) < 0.02 * norm(expected)));
      }
      locals.decide(1, true);
      t.is(tf.memory().numTensors, held);
      t.true(held - before <= power.length);
    },
  );
}

function norm(values: Float32Array): number {
  return Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
}
