/** Moments of local steps that all trainers average: local_steps.moments: averaged. */
import test from 'ava';
import { carriesSums, momentsIn, payloadShape, sizeOf, type Slot } from '../../src/galore/slot.ts';
import type { TokenBatch } from '../../src/trainer/model/batch.ts';
import type { LlamaModel } from '../../src/trainer/model/llama.ts';
import { tinyRun } from '../coordinator/tiny-run.ts';
import { tf, type Tensor } from '../galore/tensors.ts';
import { tinyBatch, tinyConfig, tinyWeights } from '../helpers/tiny-llama.ts';
import { commit, MODEL, startOn, startTrainer, type Trainer } from './displacing.ts';

const { momentsToSend, withMeans } = await import('../../src/galore/moment-average.ts');

const AVERAGED = (first: number, second: number): string =>
  `local_steps={count: 3, moments: averaged, moment_periods: [${first}, ${second}]}`;
const BATCHES = Array.from({ length: 30 }, (_, i) => [tinyBatch(MODEL, 1 + (i % 2), 7, 10 + i)]);

/** The batches of a step of three local steps. */
const batchesOf = (step: number, trainer = 0): TokenBatch[][] =>
  BATCHES.slice(6 * step + 3 * trainer).slice(0, 3);

function keptBy({ locals, replica }: Trainer): Map<string, number[]> {
  const entries = replica.slots.flatMap((slot) =>
    Object.entries(locals.get(slot)).map(
      ([kind, value]) => [`${kind}/${slot.name}`, [...(value as Tensor).dataSync()]] as [string, number[]],
    ),
  );
  return new Map(entries);
}

function countOf({ locals, replica }: Trainer): number {
  return (locals.get(replica.slots[1]!)['count'] as Tensor).dataSync()[0]!;
}

for (const settings of [[], ['optimizer={name: sgd, lr: 0.05}'], ['local_steps.outer=nesterov']] as const) {
  test.serial(
    `one trainer computes the same bits with averaged moments as with local ones ${settings.join()}`,
    (t) => {
      const averaged = startTrainer(t, AVERAGED(1, 2), ...settings);
      const local = startTrainer(t, ...settings);
      const before = tf.memory().numTensors;
      for (const step of [1, 2, 3]) {
        for (const trainer of [averaged, local])
          commit(trainer, step, [trainer.run(batchesOf(step), { step })]);
        t.deepEqual(averaged.replica.weightsSha256(), local.replica.weightsSha256());
        if (step === 1) t.true(tf.memory().numTensors > before);
      }
      t.deepEqual(keptBy(averaged), keptBy(local));
      const kept = tf.memory().numTensors;
      commit(averaged, 4, [averaged.run(batchesOf(4), { step: 4 })]);
      t.is(tf.memory().numTensors, kept, 'nothing is left behind');
    },
  );
}

/** A model whose loss is half the squared distance of each weight to a target that the first token decides. */
function parabola({ replica }: Trainer): LlamaModel {
  const forwardBackward: LlamaModel['forwardBackward'] = ({ ids }, _scale, take) => {
    for (const slot of replica.slots) {
      const gradient = tf.tidy(() => tf.sub(replica.weights.get(slot.name), targetOf(ids)));
      take(slot.name, gradient);
      gradient.dispose();
    }
    return { lossSum: 1 } as ReturnType<LlamaModel['forwardBackward']>;
  };
  return { forwardBackward } as LlamaModel;
}

const targetOf = (ids: Int32Array): number => Math.sin(ids[0]!);

/** What one number of a weight becomes, in f64: Adam as torch has it, steps and exchanges in plain loops. */
class Reference {
  readonly moments: { m: number; v: number; t: number }[];
  weight: number;
  readonly #rate: number;

  constructor(weight: number, trainers: number, rate: number) {
    this.weight = weight;
    this.#rate = rate;
    this.moments = Array.from({ length: trainers }, () => ({ m: 0, v: 0, t: 0 }));
  }

  /** A step: the targets and the share of each trainer; null: it has no part. */
  step(targets: readonly (readonly number[] | null)[], shares: readonly number[]): void {
    const moved = this.moments.map((kept, i) => {
      let displacement = 0;
      for (const target of targets[i] ?? []) {
        const gradient = this.weight + displacement - target;
        kept.t += 1;
        kept.m = 0.9 * kept.m + 0.1 * gradient;
        kept.v = 0.99 * kept.v + 0.01 * gradient ** 2;
        const [m, v] = [kept.m / (1 - 0.9 ** kept.t), kept.v / (1 - 0.99 ** kept.t)];
        displacement -= (this.#rate * m) / (Math.sqrt(v) + 1e-8);
      }
      return displacement;
    });
    this.weight += shares.reduce((sum, share, i) => sum + share * moved[i]!, 0);
  }

  /** The mean of what the moments say of the gradients, as moments of `count` local steps. */
  average(kind: 'm' | 'v', beta: number, shares: readonly number[], count: number): number {
    const corrected = this.moments.map((kept, i) =>
      shares[i] === 0 ? 0 : kept[kind] / (1 - beta ** kept.t),
    );
    return (1 - beta ** count) * shares.reduce((sum, share, i) => sum + share * corrected[i]!, 0);
  }
}

/** What `numbers` are relative to the largest of `wanted`, at most. */
function worst(numbers: readonly number[], wanted: readonly number[]): number {
  const scale = Math.max(...wanted.map(Math.abs));
  return Math.max(...numbers.map((value, i) => Math.abs(value - wanted[i]!))) / scale;
}

test.serial(
  'two trainers with averaged moments follow the formula, also one that is new and counts less',
  (t) => {
    const settings = [
      AVERAGED(1, 1),
      'method={name: full, preset: recommended}',
      'optimizer={lr: 0.01, betas: [0.9, 0.99]}',
    ];
    const trainers = [startTrainer(t, ...settings), startTrainer(t, ...settings)] as const;
    const models = trainers.map(parabola);
    const slot = trainers[0].replica.slots[1]!;
    const first = [...tinyWeights(MODEL).get(slot.name)!];
    const references = first.map((weight) => new Reference(weight, 2, 0.01));
    for (const step of [1, 2, 3, 4]) {
      // The second one comes in step 3 and then has taken fewer local steps; what it took from the records before is gone.
      const isNew = step === 3;
      if (isNew) trainers[1].locals.dispose();
      const present = step < 3 ? [0] : [0, 1];
      const parts = present.map((i) => {
        const work = trainers[i]!.begin(batchesOf(step, i), { step });
        work.computeGradients(models[i]!);
        work.contributeHeld();
        trainers[i]!.locals.decide(step, true);
        const contribution = new Map(trainers[i]!.sent);
        trainers[i]!.sent.clear();
        return { tokens: work.tokens, lossSum: 0, contribution };
      });
      const total = parts.reduce((sum, { tokens }) => sum + tokens, 0);
      const shares = trainers.map((_, i) =>
        present.includes(i) ? parts[present.indexOf(i)]!.tokens / total : 0,
      );
      if (present.length === 2) t.true(shares[0] !== shares[1], 'they weigh differently');
      trainers.forEach((trainer) => commit(trainer, step, parts));
      t.deepEqual(trainers[0].replica.weightsSha256(), trainers[1].replica.weightsSha256());
      t.deepEqual(keptBy(trainers[0]), keptBy(trainers[1]), 'all trainers hold the same moments');
      t.is(countOf(trainers[1]), 3 * step);
      for (const reference of references) {
        if (isNew) Object.assign(reference.moments[1]!, { m: 0, v: 0, t: 0 });
        const targets = [0, 1].map((i) =>
          present.includes(i) ? batchesOf(step, i).map(([batch]) => targetOf(batch!.ids)) : null,
        );
        reference.step(targets, shares);
        const m = reference.average('m', 0.9, shares, 3 * step);
        const v = reference.average('v', 0.99, shares, 3 * step);
        for (const kept of reference.moments) Object.assign(kept, { m, v, t: 3 * step });
      }
      const kept = keptBy(trainers[1]);
      const difference = [
        worst(
          [...trainers[0].replica.weights.get(slot.name).dataSync()],
          references.map(({ weight }) => weight),
        ),
        ...(['m', 'v'] as const).map((kind) =>
          worst(
            kept.get(`${kind}/${slot.name}`)!,
            references.map(({ moments }) => moments[0]![kind]),
          ),
        ),
      ];
      // A few roundings of f32 (6e-8) in a step.
      t.true(Math.max(...difference) < 2e-6, difference.join());
    }
  },
);

const SLOT: Slot = {
  ...{ name: 'w', index: 0, shape: [2], policy: 'dense', rule: 'outer', inner: 'adamw' },
  averaged: {
    moments: [
      { kind: 'm', period: 1 },
      { kind: 'v', period: 2 },
    ],
    codec: 'f32',
  },
};
const OPTIONS = { betas: [0.9, 0.99], localSteps: 4 } as const;

/** What t steps of Adam make of one gradient. */
const momentsOf = (gradient: number, t: number) => ({
  m: tf.tensor1d([0, gradient * (1 - 0.9 ** t)]),
  v: tf.tensor1d([0, gradient ** 2 * (1 - 0.99 ** t)]),
});

test('moments of few local steps and of many have the mean of what they say of the gradient', (t) => {
  t.deepEqual(
    [1, 2, 3].map((step) => momentsIn(SLOT, step)),
    [['m'], ['m', 'v'], ['m']],
  );
  const sent = [5, 800].map((count) =>
    momentsToSend(SLOT, momentsOf(3, count), { step: 200, count, share: 1 }, OPTIONS).map(
      (x) => x.dataSync()[1]!,
    ),
  );
  const wanted = [3 * (1 - 0.9 ** 800), 9 * (1 - 0.99 ** 800)];
  for (const moments of sent) t.true(worst(moments, wanted) < 1e-6);
});

test('a first moment that comes alone goes with the second moment that a trainer has, or has not', (t) => {
  const means = (mean: number) => new Map([['m', tf.tensor1d([0, mean])] as const]);
  const keep = (count: number) => ({ ...momentsOf(3, count), count: tf.tensor1d([count]) });
  const [fresh, some, all] = [0, 5, 12].map((count) => {
    const { m, count: after } = withMeans(SLOT, keep(count), means(2), 3, OPTIONS);
    return [(m as Tensor).dataSync()[1]!, (after as Tensor).dataSync()[0]!] as const;
  });
  t.deepEqual(fresh, [0, 0]);
  t.deepEqual(all, [2, 12]);
  t.is(some![1], 5);
  t.true(Math.abs(some![0] - (2 * (1 - 0.9 ** 5)) / (1 - 0.9 ** 12)) < 1e-6);
});

test('a first moment that comes alone is held within what some gradients with that second moment can have made', (t) => {
  // Gradients in the ratio b1 / b2 from one to the next make the most of it, by the equality of Cauchy and Schwarz.
  const [b1, b2] = OPTIONS.betas;
  const gradients = Array.from({ length: 12 }, (_, i) => (b1 / b2) ** (12 - i));
  const m = gradients.reduce((sum, g) => b1 * sum + (1 - b1) * g, 0);
  const v = gradients.reduce((sum, g) => b2 * sum + (1 - b2) * g * g, 0);
  const kept = { m: tf.zeros([6]), v: tf.tensor1d([v, v, v, v, 0, 0]), count: tf.tensor1d([12]) };
  const means = new Map([['m', tf.tensor1d([m, -m, 1.5 * m, -9 * m, m, 0])] as const]);
  const held = withMeans({ ...SLOT, shape: [6] }, kept, means, 3, OPTIONS)['m'] as Tensor;
  const want = [m, -m, m, -m, 0, 0];
  t.true(
    [...held.dataSync()].every((value, i) => Math.abs(value - want[i]!) <= 1.1e-3 * m),
    held.toString(),
  );
  t.deepEqual([...held.dataSync().slice(0, 2)], [...Float32Array.of(m, -m)], 'what is possible stays');
});

test('a second moment below zero counts as zero', (t) => {
  const means = new Map([['m', tf.tensor1d([1, 1])] as const, ['v', tf.tensor1d([-4, 4])] as const]);
  const { v, count } = withMeans(SLOT, { ...momentsOf(3, 0), count: tf.tensor1d([0]) }, means, 2, OPTIONS);
  t.deepEqual([...(v as Tensor).dataSync()], [0, 4]);
  t.is((count as Tensor).dataSync()[0], 8);
});

test.serial(
  'a trainer that has no part in a step takes its means, one whose contribution came to nothing too',
  (t) => {
    const [a, b] = [startTrainer(t, AVERAGED(1, 2)), startTrainer(t, AVERAGED(1, 2))];
    for (const step of [1, 2]) {
      const part = a.run(batchesOf(step), { step });
      const late = b.begin(batchesOf(step, 1), { step });
      late.computeGradients(b.model);
      late.contributeHeld();
      b.locals.decide(step, false);
      for (const trainer of [a, b]) commit(trainer, step, [part]);
      if (step === 1) t.is(countOf(b), 0, 'a first moment is nothing without a second');
    }
    t.is(countOf(b), 6);
    t.deepEqual(keptBy(a), keptBy(b));
  },
);

test.serial('moments of slots with feedback are means whatever the share, and each keeps 8 bits', (t) => {
  // Wide enough for payloads that are not f32 anyway.
  const wide = tinyConfig({ hiddenSize: 64, intermediateSize: 160, numHiddenLayers: 1, headDim: 16 });
  const [rounded, exact] = ['int4', 'f32'].map((codec) => {
    const settings = ['method.rank=32', 'method.feedback=payload', `wire.codec=${codec}`];
    return startOn(t, wide, tinyRun(AVERAGED(1, 1), ...settings).config);
  }) as [Trainer, Trainer];
  const batches = [3, 4, 5].map((seed) => [tinyBatch(wide, 2, 7, seed)]);
  const [part, whole] = [rounded.run(batches), exact.run(batches)];
  const share = part.tokens / rounded.task.stepTokens;
  t.true(share < 1 / 2, 'some are masked, and other trainers are missing');
  commit(rounded, 1, [part]);
  commit(exact, 1, [whole]);
  const [got, wanted] = [keptBy(rounded), keptBy(exact)];
  for (const slot of rounded.replica.slots.filter(carriesSums)) {
    const { codec, values } = part.contribution.get(slot.index)!;
    const size = values.length / 3;
    t.deepEqual([codec, size], ['bf16', sizeOf(payloadShape(slot, 1))]);
    for (const kind of ['m', 'v']) {
      const [near, right] = [got, wanted].map((kept) => kept.get(`${kind}/${slot.name}`)!) as [
        number[],
        number[],
      ];
      t.true(right.some((value) => value !== 0));
      t.true(
        right.every((value, i) => Math.abs(near[i]! - value) <= Math.abs(value) / 255),
        `${kind} of ${slot.name}`,
      );
    }
    const residual = got.get(`residual/${slot.name}`)!;
    const moved = [...whole.contribution.get(slot.index)!.values.subarray(0, size)];
    t.true(
      worst(
        residual.map((value, i) => value + values[i]!),
        moved,
      ) < 1e-6,
      'what is not sent is kept',
    );
  }
});
