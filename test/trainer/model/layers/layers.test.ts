/** Layers on numbers worked out by hand. */
import test, { type ExecutionContext } from 'ava';
import '@tensorflow/tfjs-node-gpu';
import * as tf from '@tensorflow/tfjs-core';
import { attend } from '../../../../src/trainer/model/layers/attention.ts';
import { causalMask } from '../../../../src/trainer/model/layers/causal-mask.ts';
import { classLoss } from '../../../../src/trainer/model/layers/classification-head.ts';
import { embeddingBackward, embeddingForward } from '../../../../src/trainer/model/layers/embedding.ts';
import { headLoss, headLossAndGradients } from '../../../../src/trainer/model/layers/head-loss.ts';
import { layerNormBackward, layerNormForward } from '../../../../src/trainer/model/layers/layer-norm.ts';
import { gatherRows, pack, spread } from '../../../../src/trainer/model/layers/packing.ts';
import { rmsNormBackward, rmsNormForward } from '../../../../src/trainer/model/layers/rms-norm.ts';
import { rotateBackward, rotateForward, rotaryTables } from '../../../../src/trainer/model/layers/rotary.ts';
import { swigluActivate, swigluBackward, swigluOutput } from '../../../../src/trainer/model/layers/swiglu.ts';
import { gelu, geluGradient } from '../../../../src/trainer/model/passes.ts';
import { TensorScope } from '../../../../src/trainer/model/tensor-scope.ts';
import { tinyConfig } from '../../../helpers/tiny-llama.ts';

function near(got: tf.Tensor, want: readonly number[]): boolean {
  const values = got.dataSync();
  return (
    values.length === want.length && want.every((value, i) => Math.abs(value - (values[i] ?? NaN)) < 1e-6)
  );
}

/** Runs a test in a tidy and asserts that only what forward and backward return is made. */
function layerTest(title: string, run: (t: ExecutionContext) => void): void {
  test(title, (t) => {
    const before = tf.memory().numTensors;
    tf.tidy(() => run(t));
    t.is(tf.memory().numTensors, before);
  });
}

layerTest('RMSNorm divides by the root of the mean square and multiplies by the weight', (t) => {
  // x = [3, 4], mean of squares 12.5, plus eps 0.06 = 12.56; weights 2 and 0.5
  const root = Math.sqrt(12.56);
  const weight = tf.tensor1d([2, 0.5]);
  const { y, saved } = rmsNormForward(tf.tensor2d([[3, 4]]), weight, 0.06);
  t.true(near(y, [6 / root, 2 / root]));
  // dy = [1, 0]: dx0 = 2/root - 3·(2·3/2)/root³, dx1 = -4·(2·3/2)/root³; dw = [3/root, 0]
  const { dx, dWeight } = rmsNormBackward(tf.tensor2d([[1, 0]]), weight, saved);
  t.true(near(dx, [2 / root - 9 / root ** 3, -12 / root ** 3]));
  t.true(near(dWeight, [3 / root, 0]));
});

layerTest('RMSNorm sums the weight gradient over rows', (t) => {
  // rows of equal numbers normalise to 1 (eps is nothing beside 4 and 9)
  const weight = tf.tensor1d([1, 1]);
  const { saved } = rmsNormForward(tf.tensor2d([[2, 2], [3, 3]]), weight, 1e-12); // prettier-ignore
  const { dWeight } = rmsNormBackward(tf.tensor2d([[1, 10], [100, 1000]]), weight, saved); // prettier-ignore
  t.true(near(dWeight.div(1000), [0.101, 1.01]));
});

layerTest('rotary turns dimension i with dimension i + half by position times frequency', (t) => {
  // headDim 4, theta 100: frequencies 1 and 100^(-1/2) = 0.1; one query head and one key head, positions 5 and 6
  const config = tinyConfig({ numAttentionHeads: 1, numKeyValueHeads: 1, headDim: 4, ropeTheta: 100 });
  const tables = rotaryTables(config, 5, 2);
  const [cos, sin] = [tf.tensor3d(tables.cos, tables.shape), tf.tensor3d(tables.sin, tables.shape)];
  const x = tf.tensor4d([1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 2, 4]);
  const turn = ([a, b, c, d]: readonly [number, number, number, number], p: number): number[] => [
    a * Math.cos(p) - c * Math.sin(p),
    b * Math.cos(0.1 * p) - d * Math.sin(0.1 * p),
    c * Math.cos(p) + a * Math.sin(p),
    d * Math.cos(0.1 * p) + b * Math.sin(0.1 * p),
  ];
  const key = [...turn([1, 2, 3, 4], 5), ...turn([5, 6, 7, 8], 6)];
  const query = key.map((value) => value / 2); // 1/sqrt(4) is in the tables of the query heads
  const turned = rotateForward(x, cos, sin);
  t.true(
    near(
      turned.div(10),
      [...query, ...key].map((value) => value / 10),
    ),
  );
  // rotation keeps lengths: turning back the turned keys gives x, the queries get the scale twice
  const back = rotateBackward(turned, cos, sin);
  const scales = tf.tensor4d([0.25, 1], [1, 2, 1, 1]);
  t.true(
    near(
      back.sub(x.mul(scales)).div(10),
      Array.from({ length: 16 }, () => 0),
    ),
  );
});

layerTest('the causal mask hides later keys, for each query head of a group', (t) => {
  const hidden = -Infinity;
  t.deepEqual([...causalMask(1, 0, 3).values], [0, hidden, hidden, 0, 0, hidden, 0, 0, 0]);
  t.deepEqual(causalMask(2, 1, 2), {
    shape: [4, 3],
    values: Float32Array.of(0, 0, hidden, 0, 0, 0, 0, 0, hidden, 0, 0, 0),
  });
});

layerTest('attention averages the values a query may see by its scores', (t) => {
  // one head of one dimension, scores ln 1, ln 3: weights 1/4, 3/4 for the second query
  const mask = causalMask(1, 0, 2);
  const { attended } = attend(
    {
      query: tf.tensor4d([1, 1], [1, 1, 2, 1]),
      key: tf.tensor4d([0, Math.log(3)], [1, 1, 2, 1]),
      value: tf.tensor4d([8, 4], [1, 1, 2, 1]),
    },
    tf.tensor2d(mask.values, mask.shape),
  );
  t.true(near(attended, [8, 0.25 * 8 + 0.75 * 4]));
});

layerTest('attention survives scores of a thousand', (t) => {
  const mask = causalMask(1, 0, 2);
  const { attended } = attend(
    {
      query: tf.tensor4d([1000, -1000], [1, 1, 2, 1]),
      key: tf.tensor4d([1, 2], [1, 1, 2, 1]),
      value: tf.tensor4d([8, 4], [1, 1, 2, 1]),
    },
    tf.tensor2d(mask.values, mask.shape),
  );
  t.true(near(attended, [8, 8]));
});

layerTest('SwiGLU multiplies silu of the gate with the up projection', (t) => {
  // one of everything: h = 2, gate 0.5, up 3, down 10: g = 1, u = 6, σ(1) = s, a = 6s, y = 60s
  const s = 1 / (1 + Math.exp(-1));
  const weights = { gate: tf.tensor2d([[0.5]]), up: tf.tensor2d([[3]]), down: tf.tensor2d([[10]]) };
  const saved = swigluActivate(tf.tensor2d([[2]]), weights);
  t.true(near(swigluOutput(saved, weights).div(10), [6 * s]));
  // dy = 0.1: da = 1, du = silu(1) = s, dg = 6·silu'(1) = 6·(s + s(1 − s)); dh = 3·du + 0.5·dg
  const slope = s + s * (1 - s);
  const gradients = new Map<string, tf.Tensor>();
  const dInput = swigluBackward(tf.tensor2d([[0.1]]), weights, saved, (name, gradient) => {
    gradients.set(name, gradient);
  });
  t.true(near(dInput, [3 * s + 0.5 * 6 * slope]));
  t.true(near(gradients.get('mlp.down_proj.weight') as tf.Tensor, [0.1 * 6 * s]));
  t.true(near(gradients.get('mlp.up_proj.weight') as tf.Tensor, [2 * s]));
  t.true(near((gradients.get('mlp.gate_proj.weight') as tf.Tensor).div(10), [1.2 * slope]));
});

layerTest('an embedding gradient sums over the places of a token', (t) => {
  const ids = tf.tensor1d([2, 0, 2], 'int32');
  const x = embeddingForward(ids, tf.tensor2d([[1, 2], [3, 4], [5, 6]])); // prettier-ignore
  t.true(near(x, [5, 6, 1, 2, 5, 6]));
  const dx = tf.tensor2d([[1, 0], [0, 1], [10, 100]]); // prettier-ignore
  t.true(near(embeddingBackward(ids, dx, 3), [0, 1, 0, 0, 11, 100]));
});

layerTest(
  'the loss is minus the log probability, its gradient the probability minus one at the label',
  (t) => {
    // logits ln 1, ln 3 for h = 1; label 0 has probability 1/4
    const weight = tf.tensor2d([[0], [Math.log(3)]]);
    const hidden = tf.tensor2d([[1]]);
    t.true(near(headLoss(hidden, weight, Int32Array.of(0), 0), [Math.log(4)]));
    const { losses, dHidden, dWeight } = headLossAndGradients(hidden, weight, Int32Array.of(0), 0, 2);
    t.true(near(losses, [Math.log(4)]));
    t.true(near(dWeight, [2 * (0.25 - 1), 2 * 0.75]));
    t.true(near(dHidden, [2 * 0.75 * Math.log(3)]));
  },
);

layerTest('chunks of rows give the same loss and gradients, the last one shorter', (t) => {
  const weight = tf.tensor2d([[1, 2], [-1, 0.5], [0, 1]]); // prettier-ignore
  const hidden = tf.tensor2d([[1, 0], [0, 1], [1, 1], [2, -1], [0.5, 0.5]]); // prettier-ignore
  const labels = Int32Array.of(0, 1, 2, 1, 0);
  const whole = headLossAndGradients(hidden, weight, labels, 0, 1);
  for (const chunk of [1, 2, 3, 5, 9]) {
    const parts = headLossAndGradients(hidden, weight, labels, chunk, 1);
    t.true(near(parts.losses, [...whole.losses.dataSync()]));
    t.true(near(parts.dHidden, [...whole.dHidden.dataSync()]));
    t.true(near(parts.dWeight, [...whole.dWeight.dataSync()]));
    t.true(near(headLoss(hidden, weight, labels, chunk), [...whole.losses.dataSync()]));
  }
});

layerTest('a loss of a thousand nats is exact and its gradient finite', (t) => {
  const weight = tf.tensor2d([[0], [1000]]);
  const { losses, dWeight } = headLossAndGradients(tf.tensor2d([[1]]), weight, Int32Array.of(0), 0, 1);
  t.true(near(losses, [1000]));
  t.true(near(dWeight, [-1, 1]));
});

layerTest('LayerNorm takes mean and deviation away, then multiplies and adds', (t) => {
  // x = [1, 5]: mean 3, variance 4, plus eps 5 = 9: x̂ = [-2/3, 2/3]
  const weights = { weight: tf.tensor1d([3, 6]), bias: tf.tensor1d([10, 20]) };
  const { y, saved } = layerNormForward(tf.tensor2d([[1, 5]]), weights, 5);
  t.true(near(y, [8, 24]));
  // dy = [1, 0]: g = [3, 0], mean(g) = 1.5, mean(g·x̂) = -1; dx = (g - 1.5 + x̂) / 3; dw = [-2/3, 0]; db = dy
  const { dx, dWeight, dBias } = layerNormBackward(tf.tensor2d([[1, 0]]), weights.weight, saved);
  t.true(near(dx, [(1.5 - 2 / 3) / 3, (-1.5 + 2 / 3) / 3]));
  t.true(near(dWeight, [-2 / 3, 0]));
  t.true(near(dBias, [1, 0]));
});

layerTest('GELU is x times the share of the normal distribution below it', (t) => {
  // Φ(1) = 0.8413447461, φ(1) = 0.2419707245; the bias brings x to -1, 0 and 1
  const [x, bias] = [tf.tensor2d([[-2, 0, 5]]), tf.tensor1d([1, 0, -4])];
  t.true(near(gelu(x, bias), [-(1 - 0.8413447461), 0, 0.8413447461]));
  const dx = geluGradient(tf.tensor2d([[1, 2, 10]]), x, bias);
  t.true(near(dx.div(10), [(0.1586552539 - 0.2419707245) / 10, 0.1, 0.8413447461 + 0.2419707245]));
});

layerTest('packing leaves padding out and puts zeros back in its place', (t) => {
  using scope = new TensorScope();
  const texts = {
    ids: Int32Array.of(7, 8, 0, 9, 0, 0),
    lengths: Int32Array.of(2, 1),
    sequences: 2,
    length: 3,
  };
  const { packing, tokens } = pack({ ...texts, types: Int32Array.of(0, 1, 1, 0, 1, 1) }, scope);
  t.deepEqual(tokens, {
    ids: Int32Array.of(7, 8, 9),
    positions: Int32Array.of(0, 1, 0),
    types: Int32Array.of(0, 1, 0),
  });
  t.deepEqual([packing.rows, packing.length], [3, 2]);
  const hidden = -Infinity;
  t.deepEqual([...packing.mask.dataSync()], [0, 0, 0, 0, 0, hidden, 0, hidden]);
  const rows = tf.tensor2d([[1, 2], [3, 4], [5, 6]]); // prettier-ignore
  const places = spread(rows, packing);
  t.deepEqual([...places.dataSync()], [1, 2, 3, 4, 5, 6, 0, 0]);
  t.deepEqual([...gatherRows(places, packing).dataSync()], [1, 2, 3, 4, 5, 6]);
  // Without padding nothing is moved, and types that are all 0 need not be looked up.
  const full = pack({ ...texts, lengths: Int32Array.of(3, 3), types: new Int32Array(6) }, scope);
  t.is(full.tokens.types, null);
  t.is(spread(rows, full.packing), rows);
});

test('the loss of classes is the logarithm of their share; of equal logits the first counts', (t) => {
  // shares 1/4 and 3/4 of the first text; the second is unknown; the third has equal logits
  const logits = Float32Array.of(0, Math.log(3), 5, 5, 1, 1);
  const { lossSum, texts, correct, dLogits } = classLoss(logits, Int32Array.of(1, -1, 0), 0.5);
  t.true(Math.abs(lossSum - (Math.log(4 / 3) + Math.log(2))) < 1e-6);
  t.deepEqual([texts, correct], [2, 2]);
  const want = [0.125, -0.125, 0, 0, -0.25, 0.25];
  t.true(want.every((value, i) => Math.abs(value - dLogits[i]!) < 1e-6));
  t.is(classLoss(Float32Array.of(1, 1), Int32Array.of(1), 1).correct, 0);
});
