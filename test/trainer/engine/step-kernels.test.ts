/** The addon's own operations against the tensor operations of model/passes.ts, which other tests check by hand. */
import test, { type ExecutionContext } from 'ava';
import { factorOf, numbersOf } from '../../../src/galore/product.ts';
import { derive, randomNormal } from '../../../src/random.ts';
import { openHandles } from '../../../src/trainer/engine/binding.ts';
import { causalMask } from '../../../src/trainer/model/layers/causal-mask.ts';
import { tf, type Tensor } from '../../galore/tensors.ts';

const { installBf16Products } = await import('../../../src/trainer/engine/bf16-products.ts');
const { installStepKernels } = await import('../../../src/trainer/engine/step-kernels.ts');
const passes = await import('../../../src/trainer/model/passes.ts');

/** Two sizes: one thread, and all of them. No width is a multiple of a vector register's. */
const ROWS = [3, 150] as const;
const WIDTH = 301;

function random(shape: readonly number[], label: string, deviation = 1): Tensor {
  const key = derive(11, label);
  const size = shape.reduce((product, length) => product * length, 1);
  return tf.tensor(
    Float32Array.from({ length: size }, (_, i) => deviation * randomNormal(key, i)),
    [...shape],
  );
}

function factor(shape: readonly number[], label: string, deviation?: number): Tensor {
  return tf.tidy(() => factorOf(random(shape, label, deviation)));
}

/** Every pass on numbers of its own, with all its results. */
function everyPass(rows: number): Readonly<Record<string, Record<string, Tensor>>> {
  const matrix = [rows, WIDTH] as const;
  const [a, b, c] = (['a', 'b', 'c'] as const).map((label) => factor(matrix, label, 3)) as [
    Matrix,
    Matrix,
    Matrix,
  ];
  const mask = causalMask(1, 0, WIDTH);
  const square = [1, 2, WIDTH, WIDTH] as const;
  const [scores, products] = [factor(square, 's', 4), factor(square, 'p')] as [Heads, Heads];
  const softmax = passes.softmaxParts(scores, tf.tensor2d(mask.values, mask.shape));
  const delta = random([1, 2, WIDTH, 1], 'delta') as Heads;
  const [x, dy, weight] = [random(matrix, 'x'), random(matrix, 'dy'), random([WIDTH], 'w')] as [
    Matrix,
    Matrix,
    Vector,
  ];
  const norm = passes.rmsNorm(x, weight, 1e-5);
  const labels = Int32Array.from({ length: rows }, (_, row) => (row * 17) % WIDTH);
  return {
    crossEntropy: { ...passes.crossEntropy(a, labels) },
    softmax,
    softmaxGradient: { dScores: passes.softmaxGradient(softmax.exponentials, products, delta) },
    swiglu: { activation: passes.swiglu(a, b) },
    swigluGradient: { ...passes.swigluGradient(c, a, b) },
    rmsNorm: norm,
    rmsNormGradient: { ...passes.rmsNormGradient(dy, x, weight, norm.inverse) },
  };
}

type Vector = ReturnType<typeof tf.tensor1d>;
type Matrix = ReturnType<typeof tf.tensor2d>;
type Heads = ReturnType<typeof tf.tensor4d>;

function numbersOfPasses(rows: number): Map<string, Float32Array> {
  const numbers = new Map<string, Float32Array>();
  tf.tidy(() => {
    for (const [pass, results] of Object.entries(everyPass(rows))) {
      for (const [name, tensor] of Object.entries(results)) {
        numbers.set(`${pass}.${name}`, Float32Array.from(numbersOf(tensor).dataSync()));
      }
    }
  });
  return numbers;
}

/** Each number within `tolerance` of its size or, where numbers cancel, of a hundredth of the largest. */
function assertNear(
  t: ExecutionContext,
  got: Map<string, Float32Array>,
  want: Map<string, Float32Array>,
  tolerance: number,
): void {
  t.deepEqual([...got.keys()], [...want.keys()]);
  for (const [name, expected] of want) {
    const actual = got.get(name)!;
    t.is(actual.length, expected.length, name);
    const largest = expected.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
    const worst = expected.reduce(
      (most, x, i) => Math.max(most, Math.abs(actual[i]! - x) / Math.max(Math.abs(x), largest / 100)),
      0,
    );
    t.true(worst < tolerance, `${name}: ${worst}`);
  }
}

test.serial('one pass gives what tensor operations give, in f32 and in bf16', (t) => {
  const expected = ROWS.map(numbersOfPasses);
  installBf16Products(tf);
  const expectedBf16 = ROWS.map(numbersOfPasses);
  installStepKernels(tf);
  const before = tf.memory().numTensors;
  const gotBf16 = ROWS.map(numbersOfPasses);
  t.deepEqual(ROWS.map(numbersOfPasses), gotBf16, 'the same call gives the same bytes');
  // The precision is that of the factors: without bf16 products they are f32.
  for (const name of ['GaloreFactor', 'GaloreNumbers', 'GaloreProduct'])
    tf.unregisterKernel(name, 'tensorflow');
  const got = ROWS.map(numbersOfPasses);
  t.is(tf.memory().numTensors, before);
  t.is(openHandles(), 0);
  ROWS.forEach((_, index) => {
    assertNear(t, got[index]!, expected[index]!, 5e-5);
    // Both are rounded to 8 bits: a difference of one in the last of them.
    assertNear(t, gotBf16[index]!, expectedBf16[index]!, 2 ** -7);
  });
});

test.serial('what is not a number stays none', (t) => {
  const results = tf.tidy(() => {
    const spoiled = tf.tensor2d([1, Number.NaN, 2, 3, 4, 5], [2, 3]);
    return numbersOf(passes.swiglu(spoiled, spoiled)).arraySync() as number[][];
  });
  t.deepEqual(
    results.map((row) => row.map(Number.isNaN)),
    [
      [false, true, false],
      [false, false, false],
    ],
  );
  const { sums } = tf.tidy(() => {
    const result = passes.crossEntropy(tf.tensor2d([1, Number.NaN, 2, 3], [2, 2]), Int32Array.of(0, 1));
    return { sums: [...result.sums.dataSync()] };
  }) as unknown as { sums: number[] };
  t.deepEqual(sums.map(Number.isNaN), [true, false]);
});

test.serial('shapes that do not fit are refused and leave nothing behind', (t) => {
  const before = tf.memory().numTensors;
  const [a, b] = [tf.zeros([2, 3]), tf.zeros([2, 4])] as [Matrix, Matrix];
  t.throws(() => passes.swiglu(a, b), { message: /gate and up of one shape/ });
  t.is(openHandles(), 0);
  tf.dispose([a, b]);
  t.is(tf.memory().numTensors, before);
});
