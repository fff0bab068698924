import test, { type ExecutionContext } from 'ava';
import '@tensorflow/tfjs-node-gpu';
import * as tf from '@tensorflow/tfjs-core';
import { identity } from '../../../src/galore/parametrisation/identity.ts';
import { kaimingUniform, lora, loraScaling } from '../../../src/galore/parametrisation/lora.ts';
import {
  isRenewed,
  parameterTable,
  type MadeTensor,
  type Parametrisation,
} from '../../../src/galore/parametrisation/parametrisation.ts';
import { relora } from '../../../src/galore/parametrisation/relora.ts';
import { product } from '../../../src/galore/product.ts';
import { buildSlots, describeSlots, sizeOf, type TensorSpec } from '../../../src/galore/slot.ts';
import { derive, randomNormal } from '../../../src/random.ts';
import { slotOptions } from '../../helpers/slot-options.ts';

const METHOD = {
  lora_alpha: 6,
  use_rslora: false,
  target_modules: ['q_proj'],
  modules_to_save: ['score'],
  merge_every: 4,
  prune_ratio: 0.5,
};
const RANK = 2;
const MODEL: readonly TensorSpec[] = [
  { name: 'model.embed_tokens.weight', shape: [7, 4] },
  { name: 'model.layers.0.q_proj.weight', shape: [5, 4] },
  { name: 'model.layers.0.q_proj.bias', shape: [5] },
  { name: 'model.norm.weight', shape: [4] },
  { name: 'score.weight', shape: [3, 4] },
];
const ENGINE = { tf, product };

const MAPS: Readonly<Record<string, Parametrisation>> = {
  lora: lora({ rank: RANK, method: METHOD }),
  'lora, rslora': lora({ rank: RANK, method: { ...METHOD, use_rslora: true } }),
  relora: relora({ rank: RANK, method: METHOD }),
};

for (const [name, parametrisation] of Object.entries(MAPS)) {
  test(`${name}: the pullback is the adjoint of the map, by finite differences`, (t) => {
    const { made } = parameterTable(MODEL, parametrisation);
    t.true(made.size > 0);
    for (const tensor of made.values()) isAdjoint(t, parametrisation, tensor);
  });
}

/** <G, W(θ + h d) - W(θ - h d)> / 2h against the pulled back gradient, number by number of every part. */
function isAdjoint(t: ExecutionContext, parametrisation: Parametrisation, made: MadeTensor): void {
  const values = made.parts.map((part, i) => numbers(i, part.shape));
  const gradient = numbers(99, made.tensor.shape);
  const lossAt = (parts: readonly Float32Array[]): number => {
    const tensors = parts.map((part, i) => tf.tensor(part, [...made.parts[i]!.shape]));
    const w = parametrisation.materialise({ made, values: tensors, engine: ENGINE });
    t.deepEqual(w.shape, [...made.tensor.shape]);
    const loss = w.dataSync<'float32'>().reduce((sum, value, i) => sum + value * gradient[i]!, 0);
    tf.dispose([w, ...tensors]);
    return loss;
  };
  const tensors = values.map((part, i) => tf.tensor(part, [...made.parts[i]!.shape]));
  const g = tf.tensor(gradient, [...made.tensor.shape]);
  const before = tf.memory().numTensors;
  const pulled = parametrisation.pullback(g, { made, values: tensors, engine: ENGINE });
  t.is(tf.memory().numTensors, before + pulled.filter((one) => one !== null).length);
  const h = 1e-2; // the maps are of second degree: the central difference is exact but for rounding
  made.parts.forEach((part, i) => {
    const own = pulled[i] ?? null;
    t.is(own !== null, part.isTrained, part.name);
    if (own === null) return;
    t.deepEqual(own.shape, [...part.shape]);
    own.dataSync<'float32'>().forEach((slope, at) => {
      const moved = (by: number): Float32Array[] =>
        values.map((value, j) => (j === i ? value.map((x, k) => (k === at ? x + by : x)) : value));
      const difference = (lossAt(moved(h)) - lossAt(moved(-h))) / (2 * h);
      t.true(Math.abs(slope - difference) < 2e-3, `${part.name}[${at}]: ${slope}, ${difference}`);
    });
  });
  tf.dispose([g, ...tensors, ...pulled.flatMap((one) => one ?? [])]);
}

test('with B = 0, as it begins, LoRA is the base, and A has no gradient', (t) => {
  const parametrisation = MAPS['lora']!;
  const made = parameterTable(MODEL, parametrisation).made.get('model.layers.0.q_proj.weight')!;
  const [base, a, b] = made.parts as [MadeTensor['parts'][0], MadeTensor['parts'][0], MadeTensor['parts'][0]];
  const w0 = numbers(1, base.shape);
  const values = [
    tf.tensor(w0, [...base.shape]),
    tf.tensor(parametrisation.initialise(a, 3), [...a.shape]),
    tf.tensor(parametrisation.initialise(b, 3), [...b.shape]),
  ];
  const input = { made, values, engine: ENGINE };
  t.deepEqual(parametrisation.materialise(input).dataSync(), w0);
  const [, dA, dB] = parametrisation.pullback(tf.ones([...base.shape]), input);
  t.true(dA!.dataSync<'float32'>().every((value) => value === 0));
  t.true(dB!.dataSync<'float32'>().some((value) => value !== 0));
});

test('the slots of LoRA: the base frozen under its own name, adapters dense by the names of peft, heads dense', (t) => {
  const { parts } = parameterTable(MODEL, MAPS['lora']!);
  const slots = buildSlots(parts, slotOptions('full', RANK));
  t.deepEqual(
    slots.map(({ name, policy, shape }) => [name, policy, shape]),
    [
      ['model.embed_tokens.weight', 'frozen', [7, 4]],
      ['model.layers.0.q_proj.weight', 'frozen', [5, 4]],
      ['model.layers.0.q_proj.lora_A.weight', 'dense', [2, 4]],
      ['model.layers.0.q_proj.lora_B.weight', 'dense', [5, 2]],
      ['model.layers.0.q_proj.bias', 'frozen', [5]],
      ['model.norm.weight', 'frozen', [4]],
      ['score.weight', 'dense', [3, 4]],
    ],
  );
  t.deepEqual(
    slots.map(({ index }) => index),
    [0, 1, 2, 3, 4, 5, 6],
  );
  const other = { rank: RANK, method: { ...METHOD, modules_to_save: [] } };
  t.not(
    describeSlots(slots),
    describeSlots(buildSlots(parameterTable(MODEL, lora(other)).parts, slotOptions('full', RANK))),
  );
});

test('without a parametrisation every tensor is a slot', (t) => {
  const { made, parts } = parameterTable(MODEL, identity);
  t.is(made.size, 0);
  t.deepEqual(
    parts.map(({ name, shape }) => ({ name, shape })),
    [...MODEL],
  );
  t.true(parts.every(({ isTrained }) => isTrained));
});

test('targets and saved modules that the model has not, and ranks above a side, are named', (t) => {
  const faultsOf = (method: Partial<typeof METHOD>, rank = RANK): unknown =>
    lora({ rank, method: { ...METHOD, ...method } }).faults!(MODEL).map(({ field, value, allowed }) => [
      field,
      value,
      allowed,
    ]);
  t.deepEqual(faultsOf({}), []);
  t.deepEqual(
    faultsOf({ target_modules: ['q_proj', 'v_proj'] }),
    [],
    'of the usual ones a model need not have all',
  );
  t.deepEqual(faultsOf({ target_modules: ['q_proj', 'x_proj'] }), [
    [
      'method.target_modules',
      'x_proj',
      'no linear layer of the model has that in its name; there are q_proj, score',
    ],
  ]);
  t.like(faultsOf({ target_modules: ['k_proj'] }), [['method.target_modules', 'k_proj']]);
  t.like(faultsOf({ target_modules: ['embed_tokens'] }), [['method.target_modules', 'embed_tokens']]);
  t.deepEqual(faultsOf({ modules_to_save: ['score', 'pool'] }), [
    ['method.modules_to_save', 'pool', 'no tensor of the model has that in its name'],
  ]);
  t.deepEqual(faultsOf({}, 5), [
    ['method.rank', '5', 'it must be at most 4: model.layers.0.q_proj.weight is [5, 4]'],
  ]);
});

test('scaling is lora_alpha / r, with rslora lora_alpha / sqrt(r), and 2 where no alpha is given', (t) => {
  t.is(loraScaling({ lora_alpha: 6, use_rslora: false }, 4), 1.5);
  t.is(loraScaling({ lora_alpha: 6, use_rslora: true }, 4), 3);
  t.is(loraScaling({ lora_alpha: undefined, use_rslora: false }, 16), 2);
});

test('A begins uniform in ±1/sqrt(in), another after each merge and for each name', (t) => {
  const spec = { name: 'a', shape: [8, 400] };
  const values = kaimingUniform(spec, 1, 0);
  t.true(values.every((value) => Math.abs(value) <= 1 / 20));
  const variance = values.reduce((sum, value) => sum + value * value, 0) / values.length;
  t.true(Math.abs(variance - 1 / 1200) < 5e-5, `a third of the squared bound: ${variance}`);
  t.deepEqual(kaimingUniform(spec, 1, 0), values);
  for (const other of [
    kaimingUniform(spec, 1, 1),
    kaimingUniform(spec, 2, 0),
    kaimingUniform({ ...spec, name: 'b' }, 1, 0),
  ]) {
    t.notDeepEqual(other, values);
  }
});

test('ReLoRA merges after every so many steps, LoRA never', (t) => {
  const steps = [1, 2, 3, 4, 5, 8];
  t.deepEqual(
    steps.filter((step) => isRenewed(MAPS['relora']!, step)),
    [4, 8],
  );
  t.deepEqual(
    steps.filter((step) => isRenewed(MAPS['lora']!, step)),
    [],
  );
});

function numbers(label: number, shape: readonly number[]): Float32Array {
  const key = derive(5, 'test', label);
  return Float32Array.from({ length: sizeOf(shape) }, (_, i) => randomNormal(key, i));
}
