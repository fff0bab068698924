/** What federated learning does with local steps, through the code of a trainer: unequal sites, FedProx, fresh moments. */
import test from 'ava';
import { sharesOf } from '../../src/coordinator/weights.ts';
import { scaleOf } from '../../src/galore/step-rule.ts';
import { hasLocalState } from '../../src/galore/feedback/local-state.ts';
import { tf } from '../galore/tensors.ts';
import { tinyBatch, tinyWeights } from '../helpers/tiny-llama.ts';
import { commit, MODEL, startTrainer, trainedAlone, weightsOf } from './displacing.ts';

/** 3, 3 and 1 local steps with 20, 25 and 5 targets. */
const SITES = [[1, 2, 1], [2, 1, 2], [1]].map((counts, site) =>
  counts.map((sequences, step) => [tinyBatch(MODEL, sequences, 7, 10 * site + step)]),
);

const OPTIMIZERS = [
  '{name: adamw}',
  '{name: adamw-8bit}',
  '{name: sgd, lr: 0.2}',
  '{name: sgd, momentum: 0, lr: 0.2}',
];

for (const method of ['galore', 'two-sided', 'full']) {
  for (const optimizer of OPTIMIZERS) {
    const settings = [`method.name=${method}`, `optimizer=${optimizer}`];
    test.serial(
      `the mean displacement of unequal sites is the mean of their weights: ${method}, ${optimizer}`,
      (t) => {
        const alone = SITES.map((batches) => trainedAlone(t, batches.flat(), settings));
        for (const weight of [{}, { weight: 1 }]) {
          const trainers = SITES.map(() => startTrainer(t, ...settings));
          const parts = trainers.map((trainer, i) => trainer.run(SITES[i]!));
          t.deepEqual(
            parts.map(({ tokens }) => tokens),
            [20, 25, 5],
          );
          const shares = sharesOf(parts.map(({ tokens }) => ({ tokens, ...weight })));
          const [first] = trainers;
          commit(first!, 1, parts, shares);
          const start = tinyWeights(MODEL);
          for (const [name, values] of weightsOf(first!.replica.weights)) {
            const own = alone.map((weights) => weights.get(name)!);
            let difference = 0;
            let moved = 0;
            for (const [i, value] of values.entries()) {
              const mean = own.reduce((sum, weights, site) => sum + shares[site]! * weights[i]!, 0);
              difference = Math.max(difference, Math.abs(value - mean));
              moved = Math.max(moved, Math.abs(value - start.get(name)![i]!));
            }
            t.true(moved > 2e-5, `${name} moved by ${moved}`);
            t.true(difference <= 1e-6, `${name}: ${difference}`);
          }
        }
      },
    );
  }
}

for (const method of ['galore', 'two-sided', 'full']) {
  test.serial(
    `the proximal term holds a step back by lr mu times how far the one before it has come: ${method}`,
    (t) => {
      // D1 = -lr a g1 and D2 = D1 - lr a (g2 + mu D1), a the slot's scale: both have the same g2, for D1 is the same.
      const [mu, lr] = [3, 0.05];
      const settings = [`method.name=${method}`, `optimizer={name: sgd, momentum: 0, lr: ${lr}}`];
      const two = SITES[0]!.slice(0, 2);
      const once = startTrainer(t, ...settings).run(two.slice(0, 1)).contribution;
      const free = startTrainer(t, ...settings).run(two).contribution;
      const trainer = startTrainer(t, ...settings, `local_steps.proximal_mu=${mu}`);
      const before = tf.memory().numTensors;
      const held = trainer.run(two).contribution;
      t.is(tf.memory().numTensors, before);
      for (const slot of trainer.replica.slots) {
        const [d1, d2, got] = [once, free, held].map((sent) => sent.get(slot.index)!.values) as [
          Float32Array,
          Float32Array,
          Float32Array,
        ];
        const factor = lr * mu * scaleOf(slot, { scale: trainer.config.method.scale });
        const size = Math.max(...d1.map(Math.abs));
        t.true(size > 0);
        const worst = Math.max(...got.map((value, i) => Math.abs(value - (d2[i]! - factor * d1[i]!))));
        t.true(worst <= 1e-5 * size, `${slot.name}: ${worst} of ${size}`);
      }
    },
  );
}

for (const optimizer of ['adamw', 'adamw-8bit']) {
  test.serial(`with fresh moments a step is as the first one, and nothing is kept: ${optimizer}`, (t) => {
    const settings = [`optimizer.name=${optimizer}`, 'local_steps.moments=reset'];
    const trainer = startTrainer(t, ...settings);
    t.false(trainer.replica.slots.some(hasLocalState));
    const before = tf.memory().numTensors;
    const first = trainer.run(SITES[0]!).contribution;
    t.is(tf.memory().numTensors, before);
    t.deepEqual(trainer.locals.clone(trainer.replica.slots), []);
    t.deepEqual(trainer.run(SITES[0]!, { step: 2 }).contribution, first);
    const kept = startTrainer(t, `optimizer.name=${optimizer}`);
    t.deepEqual(kept.run(SITES[0]!).contribution, first, 'the first step is the same either way');
    t.notDeepEqual(kept.run(SITES[0]!, { step: 2 }).contribution, first);
  });
}
