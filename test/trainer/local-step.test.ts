import test from 'ava';
import { ADAMW_KERNEL, hasFusedAdamw } from '../../src/galore/fused-adamw.ts';
import { buildSlots } from '../../src/galore/slot.ts';
import { llamaTensors } from '../../src/model/llama-config.ts';
import { OTHER_RULES } from '../galore/apply-update.ts';
import { tf } from '../galore/tensors.ts';
import { slotOptions } from '../helpers/slot-options.ts';
import { tinyBatch, tinyConfig, tinyModel } from '../helpers/tiny-llama.ts';

const { LocalStep } = await import('../../src/trainer/local-step.ts');
const { installAdamwKernel } = await import('../../src/trainer/engine/adamw-kernel.ts');

const config = tinyConfig();
const batch = tinyBatch(config);
const HYPER = {
  learningRate: 0.01,
  betas: [0.9, 0.99],
  eps: 1e-8,
  weightDecay: 0,
  scale: 0.25,
  semantics: 'torch',
  ...OTHER_RULES,
} as const;

for (const method of ['galore', 'full'] as const) {
  test.serial(
    `steps lower the loss and leave no tensor, the same with and without the kernel (${method})`,
    (t) => {
      const groups = [{ match: ['mlp', 'lm_head'], scale: 0.1 }];
      const slots = buildSlots(llamaTensors(config), { ...slotOptions(method, 4), groups });
      const lossesOf = (): number[] => {
        const model = tinyModel(t, config);
        const before = tf.memory().numTensors;
        const local = new LocalStep(model, slots, HYPER);
        const held = tf.memory().numTensors;
        const losses = Array.from({ length: 5 }, () => local.run(batch));
        t.is(tf.memory().numTensors, held);
        local.dispose();
        t.is(tf.memory().numTensors, before);
        return losses;
      };
      if (hasFusedAdamw()) tf.unregisterKernel(ADAMW_KERNEL, 'tensorflow');
      const plain = lossesOf();
      installAdamwKernel(tf);
      const fused = lossesOf();
      t.true(plain[4]! < plain[0]!, plain.join());
      for (const [step, loss] of plain.entries()) t.true(Math.abs(loss - fused[step]!) < 1e-5);
    },
  );
}

test.serial('power slots with int8 buffers lower the loss, frozen ones stay, and no tensor is left', (t) => {
  const options = { ...slotOptions('galore', 4), policy: 'power', rule: 'power' } as const;
  const groups = [{ match: ['lm_head'], policy: 'frozen' as const }];
  const slots = buildSlots(llamaTensors(config), { ...options, groups });
  const model = tinyModel(t, config);
  const weights = tf.memory().numTensors;
  const local = new LocalStep(model, slots, HYPER);
  const head = model.weights.get('lm_head.weight').dataSync().slice();
  const held = tf.memory().numTensors;
  const losses = Array.from({ length: 8 }, () => local.run(batch));
  t.true(losses[7]! < losses[0]!, losses.join());
  t.deepEqual(model.weights.get('lm_head.weight').dataSync(), head);
  t.is(tf.memory().numTensors, held);
  local.dispose();
  t.is(tf.memory().numTensors, weights);
});

test.serial('the state is two moments a slot, and a basis where it is projected', (t) => {
  const slots = buildSlots(llamaTensors(config), slotOptions('galore', 4));
  const local = new LocalStep(tinyModel(t, config), slots, HYPER);
  // Dense: embedding and head 19 x 16, five norms of 16. Projected, in each of two layers: q and o
  // 16 x 16 (R 16 x 4, P 16 x 4), k and v 8 x 16 (R 4 x 16, P 8 x 4), gate and up 24 x 16 (R 24 x 4,
  // P 16 x 4), down 16 x 24 (R 4 x 24, P 16 x 4).
  const moments = 2 * 19 * 16 + 5 * 16 + 2 * (2 * 64 + 2 * 64 + 2 * 96 + 96);
  const bases = 2 * (2 * 64 + 2 * 32 + 2 * 64 + 64);
  t.deepEqual(local.bytesOf(slots), { stateBytes: 4 * 2 * moments, basisBytes: 4 * bases });
  t.is(local.arrayBytes, 0);
  local.dispose();
});
