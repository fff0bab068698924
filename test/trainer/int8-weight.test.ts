import test, { type ExecutionContext } from 'ava';
import { quantiseWeight, restoreWeight } from '../../src/galore/int8-weight.ts';
import { buildSlots, type Slot } from '../../src/galore/slot.ts';
import { llamaTensors } from '../../src/model/llama-config.ts';
import { OTHER_RULES } from '../galore/apply-update.ts';
import { tf, type Tensor } from '../galore/tensors.ts';
import { slotOptions } from '../helpers/slot-options.ts';
import { tinyBatch, tinyConfig, tinyModel, tinyWeights } from '../helpers/tiny-llama.ts';

const { Int8Weight } = await import('../../src/trainer/int8-weight.ts');
const { LocalStep } = await import('../../src/trainer/local-step.ts');
const { LlamaModel } = await import('../../src/trainer/model/llama.ts');
const { WeightStore } = await import('../../src/trainer/model/weights.ts');

const config = tinyConfig();
const batch = tinyBatch(config);
const HYPER = {
  learningRate: 0.02,
  betas: [0.9, 0.99],
  eps: 1e-8,
  weightDecay: 0,
  scale: 0.5,
  semantics: 'torch',
  ...OTHER_RULES,
} as const;

function slotsFor(weights: 'f32' | 'int8', targetModules = ['attn', 'mlp']): readonly Slot[] {
  const options = { ...slotOptions('galore', 4), rule: 'adamw-8bit', plainRule: 'adamw-8bit' } as const;
  return buildSlots(llamaTensors(config), { ...options, targetModules, weights });
}

/** The tiny model with the weights of these slots as int8; `made` has every tensor that was made of one. */
function int8Model(
  t: ExecutionContext,
  slots: readonly Slot[],
  options = { recompute: false, lossChunk: 0 },
) {
  const made: Tensor[] = [];
  const values = tinyWeights(config);
  const rounded = new Map(values);
  const weights = WeightStore.fromArrays(
    slots.map(({ name, shape, weights: kept }) => {
      if (kept === undefined) return { name, shape, values: Float32Array.from(values.get(name)!) };
      const source = new Int8Weight(shape, quantiseWeight(values.get(name)!, null));
      rounded.set(name, restoreWeight(source.codes));
      const materialise = (): Tensor => {
        const tensor = source.materialise();
        made.push(tensor);
        return tensor;
      };
      return { name, source: { shape, bytes: source.bytes, materialise } };
    }),
  );
  t.teardown(() => weights.dispose());
  return { model: new LlamaModel(config, weights, options), made, rounded };
}

for (const recompute of [false, true]) {
  test.serial(
    `a model of int8 weights is the model of the numbers they stand for (recompute: ${recompute})`,
    (t) => {
      const slots = slotsFor('int8', ['attn', 'mlp', 'embed_tokens', 'lm_head']);
      const options = { recompute, lossChunk: 0 };
      const { model, made, rounded } = int8Model(t, slots, options);
      const plain = tinyModel(t, config, options, rounded);
      const gradients = (of: typeof model): [number, Map<string, Float32Array>] => {
        const found = new Map<string, Float32Array>();
        const { lossSum } = of.forwardBackward(batch, 1, (name, gradient) => {
          found.set(name, Float32Array.from(gradient.dataSync()));
          // Seven matrices of a layer, or embedding or head beside what was asked for before.
          t.true(made.filter((tensor) => !tensor.isDisposed).length <= 8, name);
        });
        return [lossSum, found];
      };
      const before = tf.memory().numTensors;
      t.deepEqual(gradients(model), gradients(plain));
      t.is(model.loss(batch).lossSum, plain.loss(batch).lossSum);
      t.true(made.length >= 14 * 3, 'made anew for forward and backward and loss');
      t.true(made.every((tensor) => tensor.isDisposed));
      t.is(tf.memory().numTensors, before);
    },
  );
}

test.serial('training with int8 weights stays near training with f32 weights, and they stay int8', (t) => {
  const losses = (['f32', 'int8'] as const).map((kept) => {
    const slots = slotsFor(kept);
    const { model } = int8Model(t, slots);
    const local = new LocalStep(model, slots, HYPER);
    const before = tf.memory().numTensors;
    const seen = Array.from({ length: 10 }, () => local.run(batch));
    t.is(tf.memory().numTensors, before);
    for (const { name, shape } of slots.filter(({ weights }) => weights === 'int8')) {
      const count = shape.reduce((a, b) => a * b);
      t.is(model.weights.bytesOf(name), count + 8 * Math.ceil(count / 256));
    }
    local.dispose();
    return seen;
  });
  const [f32, int8] = losses as [number[], number[]];
  t.log(f32[0], f32.at(-1), int8.at(-1));
  t.true(f32.at(-1)! < f32[0]! - 0.5, 'it learns');
  t.true(
    Math.abs(int8.at(-1)! - f32.at(-1)!) < 0.1 * (f32[0]! - f32.at(-1)!),
    `${int8.at(-1)} ${f32.at(-1)}`,
  );
});
