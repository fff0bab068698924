import test from 'ava';
import { factorOf, numbersOf, product, productFactor } from '../../../src/galore/product.ts';
import { matrix, multiply, transpose, type Matrix } from '../../../src/galore/matrix.ts';
import { derive, randomNormal } from '../../../src/random.ts';
import { openHandles } from '../../../src/trainer/engine/binding.ts';
import { methodPlan } from '../../../src/galore/method.ts';
import { buildSlots, basisShape, hasBasis, payloadShape, type Slot } from '../../../src/galore/slot.ts';
import { firstState, ruleFor } from '../../../src/galore/optimizer/rules.ts';
import { METHODS, OPTIMIZERS } from '../../../src/config/schema.ts';
import { hyperparametersOf } from '../../../src/trainer/hyperparameters.ts';
import { resolve, MINIMAL } from '../../config/parse.ts';
import { orthonormalMatrix } from '../../galore/matrices.ts';
import { valuesOf } from '../../galore/run-rule.ts';
import { matrixOf, tensorOf, tf, type Tensor, type Tensor2D } from '../../galore/tensors.ts';
import { tinyBatch, tinyConfig, tinyModel } from '../../helpers/tiny-llama.ts';

const { installBf16Products } = await import('../../../src/trainer/engine/bf16-products.ts');

// TensorFlow multiplies bf16 on every processor, on most of them slowly: these tests need no instructions.

function random(rows: number, cols: number, label: string): Matrix {
  const key = derive(5, label);
  return matrix(
    rows,
    cols,
    Float32Array.from({ length: rows * cols }, (_, i) => randomNormal(key, i)),
  );
}

/** The nearest number with 8 significant bits, ties to even. */
function toBf16(x: number): number {
  const bits = new Uint32Array(new Float32Array([x]).buffer);
  bits[0] = (bits[0]! + 0x7fff + ((bits[0]! >>> 16) & 1)) & 0xffff0000;
  return new Float32Array(bits.buffer)[0]!;
}

function gradientsOf(t: Parameters<typeof tinyModel>[0]): { lossSum: number; gradients: Float32Array[] } {
  const config = tinyConfig();
  const gradients: Float32Array[] = [];
  const { lossSum } = tinyModel(t, config).forwardBackward(tinyBatch(config), 1, (_, gradient) => {
    const numbers = numbersOf(gradient);
    gradients.push(Float32Array.from(numbers.dataSync()));
    numbers.dispose();
  });
  return { lossSum, gradients };
}

/** Two steps and a change of basis of a slot, as every trainer of a run does them from the same records. */
function updatesOf(slot: Slot, config: ReturnType<typeof resolve>): unknown {
  const rule = ruleFor(slot.rule);
  const hyper = { ...hyperparametersOf(config), learningRate: 0.01 };
  const [rows, cols] = hasBasis(slot) ? basisShape(slot) : [0, 0];
  const half = slot.policy === 'two-sided' ? rows / 2 : rows;
  const basisOf = (label: string): Tensor2D => {
    const { values } = orthonormalMatrix(half, cols, label);
    return tf.tensor2d(Float32Array.from(half === rows ? values : [...values, ...values]), [rows, cols]);
  };
  tf.engine().startScope();
  try {
    let weight: Tensor = tensorOf(random(24, 24, 'weight'));
    let state = firstState(slot, 0);
    let basis = hasBasis(slot) && slot.rule !== 'ldadam' ? basisOf('old') : null;
    for (const step of [1, 2]) {
      const [m, n] = payloadShape(slot, step);
      const payload = tensorOf(random(m!, n!, `payload ${step}`));
      const next = rule.step({ slot, weight, payload, state, basis, hyper: { ...hyper, step } });
      ({ weight, state } = next);
      basis = next.basis ?? basis;
    }
    if (hasBasis(slot) && basis !== null) {
      const change = { oldBasis: basis, newBasis: basisOf('new'), side: slot.side };
      const { betas } = hyper;
      state = rule.carry({ slot, state, change, moments: 'rotate', completedSteps: 2, betas });
    }
    return [Array.from(weight.dataSync()), valuesOf(state)];
  } finally {
    tf.engine().endScope();
  }
}

/** Of every method with every optimizer; weights decay. */
function everyUpdate(): ReadonlyMap<string, unknown> {
  const updates = new Map<string, unknown>();
  for (const method of METHODS) {
    for (const optimizer of OPTIMIZERS) {
      const config = resolve(MINIMAL, 'optimizer.weight_decay=0.1');
      const plan = methodPlan({
        local_steps: config.local_steps,
        method: { ...config.method, name: method },
        optimizer: { ...config.optimizer, name: optimizer },
      });
      const options = { ...plan, rank: 4, projType: 'std', targetModules: ['w'] } as const;
      const [slot] = buildSlots([{ name: 'w', shape: [24, 24] }], options);
      updates.set(`${method} ${optimizer}`, updatesOf(slot!, config));
    }
  }
  return updates;
}

let f32Updates: ReadonlyMap<string, unknown>;

test.serial('without bf16 a product is the f32 product, and a factor is the tensor itself', (t) => {
  const [a, b] = [random(7, 33, 'a'), random(33, 5, 'b')].map(tensorOf) as [Tensor2D, Tensor2D];
  const before = tf.memory().numTensors;
  tf.tidy(() => t.deepEqual(product(factorOf(a), b).dataSync(), tf.matMul(a, b).dataSync()));
  t.is(tf.memory().numTensors, before);
  tf.dispose([a, b]);
});

test.serial('before bf16 is installed: what every rule makes of the same payloads', (t) => {
  f32Updates = everyUpdate();
  t.is(f32Updates.size, METHODS.length * OPTIMIZERS.length);
});

test.serial('in bf16 the loss and the gradients of a model are those of f32 up to the rounding', (t) => {
  const exact = gradientsOf(t);
  installBf16Products(tf);
  const before = tf.memory().numTensors;
  const rounded = gradientsOf(t);
  t.deepEqual(gradientsOf(t).gradients, rounded.gradients, 'the same call gives the same bytes');
  t.is(openHandles(), 0);
  t.true(tf.memory().numTensors > before, 'the weights of two models');
  t.true(Math.abs(rounded.lossSum / exact.lossSum - 1) < 0.01, `${rounded.lossSum} for ${exact.lossSum}`);
  t.not(rounded.lossSum, exact.lossSum);
  for (const [index, gradient] of exact.gradients.entries()) {
    const other = rounded.gradients[index]!;
    const distance = Math.hypot(...gradient.map((x, i) => x - other[i]!)) / Math.hypot(...gradient);
    t.true(distance < 0.1, `gradient ${index} is ${distance} away`);
  }
});

test.serial('the factors are rounded to bf16, the sum is not, and the result is rounded once', (t) => {
  for (const [transposeA, transposeB] of [
    [false, false],
    [true, false],
    [false, true],
    [true, true],
  ] as const) {
    const [a, b] = [random(7, 300, 'a'), random(300, 5, 'b')];
    const [x, y] = [transposeA ? transpose(a) : a, transposeB ? transpose(b) : b].map(tensorOf) as [
      Tensor2D,
      Tensor2D,
    ];
    const before = tf.memory().numTensors;
    const result = product(x, y, transposeA, transposeB);
    const expected = multiply(
      matrix(7, 300, a.values.map(toBf16)),
      matrix(300, 5, b.values.map(toBf16)),
    ).values;
    const { values } = matrixOf(result);
    t.is(result.dtype, 'float32');
    // Half a unit in the eighth bit, and the rounding of a sum of 300 terms in f32.
    values.forEach((value, i) => {
      t.true(Math.abs(value - expected[i]!) <= 2 ** -8 * Math.abs(expected[i]!) + 1e-4);
      t.is(toBf16(value), value);
    });
    t.is(openHandles(), 0);
    t.is(tf.memory().numTensors, before + 1);
    tf.dispose([x, y, result]);
  }
});

test.serial('a factor gives the product of the tensor it was made of, for as long as it lives', (t) => {
  const before = tf.memory().numTensors;
  const [a, b] = [random(9, 16, 'a'), random(16, 4, 'b')].map(tensorOf) as [Tensor2D, Tensor2D];
  const direct = product(a, b);
  const factor = factorOf(a);
  const clone = tf.clone(factor);
  t.deepEqual(factor.shape, [9, 16]);
  tf.dispose([a, factor]);
  const later = product(clone, b);
  t.deepEqual(later.dataSync(), direct.dataSync());
  const square = product(clone, clone, false, true);
  t.deepEqual(square.shape, [9, 9]);
  t.is(openHandles(), 0);
  tf.dispose([b, clone, direct, later, square]);
  t.is(tf.memory().numTensors, before);
});

test.serial('a product that stays a factor has the numbers of one that does not', (t) => {
  const before = tf.memory().numTensors;
  const [a, b] = [random(9, 16, 'a'), random(16, 4, 'b')].map(tensorOf) as [Tensor2D, Tensor2D];
  const expected = product(a, b);
  const factor = productFactor(a, b);
  const [first, again] = [numbersOf(factor), numbersOf(expected)];
  expected.dispose();
  t.deepEqual(first.dataSync(), again.dataSync());
  t.is(openHandles(), 0);
  tf.dispose([a, b, factor, first, again]);
  t.is(tf.memory().numTensors, before);
});

test.serial('what a product makes and drops does not stay in memory', (t) => {
  const a = tf.fill([1024, 1024], 1) as Tensor2D; // 2 MB as a factor
  const run = (): void => tf.dispose([product(a, a), factorOf(a)]);
  run();
  const before = process.memoryUsage.rss();
  for (let round = 0; round < 50; round++) run();
  const grown = process.memoryUsage.rss() - before;
  t.true(grown < 100e6, `${grown} bytes more after 50 products that made 600 MB`);
  t.is(openHandles(), 0);
  a.dispose();
});

test.serial('shapes that do not fit leave nothing behind', (t) => {
  const [a, b] = [random(3, 4, 'a'), random(3, 4, 'b')].map(tensorOf) as [Tensor2D, Tensor2D];
  const before = tf.memory().numTensors;
  t.throws(() => product(a, b));
  t.is(openHandles(), 0);
  t.is(tf.memory().numTensors, before);
  tf.dispose([a, b]);
});

test.serial('a trainer in bf16 makes the same bytes of the same records as one in f32', (t) => {
  for (const [name, update] of everyUpdate()) t.deepEqual(update, f32Updates.get(name), name);
});
