import test from 'ava';
import '@tensorflow/tfjs-node-gpu';
import * as tf from '@tensorflow/tfjs-core';
import { TensorShapeError } from '../../../src/errors.ts';
import { llamaTensors, type LlamaConfig } from '../../../src/model/llama-config.ts';
import { derive, randomUint32 } from '../../../src/random.ts';
import { IGNORED_LABEL, type TokenBatch } from '../../../src/trainer/model/batch.ts';
import { LlamaModel, type LlamaOptions } from '../../../src/trainer/model/llama.ts';
import { WeightStore } from '../../../src/trainer/model/weights.ts';
import { plainLogits, plainLossSum } from '../../helpers/plain-llama.ts';
import { tinyBatch, tinyConfig, tinyModel, tinyWeights } from '../../helpers/tiny-llama.ts';

const SHAPES: Readonly<Record<string, Partial<LlamaConfig>>> = {
  'grouped queries, untied head': {},
  'grouped queries, tied embeddings': { tieWordEmbeddings: true },
  'one key-value head': { numKeyValueHeads: 1, numHiddenLayers: 1 },
  'a key-value head per query head': { numKeyValueHeads: 4 },
  'a head dimension that is not hidden_size / heads': { headDim: 6 },
  'three layers and an odd intermediate size': { numHiddenLayers: 3, intermediateSize: 17 },
};

for (const [title, fields] of Object.entries(SHAPES)) {
  test(`gradients equal finite differences of a plain double-precision model: ${title}`, (t) => {
    const config = tinyConfig(fields);
    const values = tinyWeights(config);
    const batch = tinyBatch(config);
    const gradients = gradientsOf(tinyModel(t, config, { recompute: true, lossChunk: 4 }, values), batch);
    const plain = new Map([...values].map(([name, array]) => [name, Float64Array.from(array)]));
    for (const { name } of llamaTensors(config)) {
      const weight = plain.get(name) as Float64Array;
      const gradient = gradients.get(name) as Float32Array;
      const key = derive(3, name);
      for (let sample = 0; sample < 3; sample++) {
        const at = randomUint32(key, sample) % weight.length;
        const difference = centralDifference(weight, at, () => plainLossSum(config, plain, batch));
        const got = gradient[at] as number;
        t.true(
          Math.abs(got - difference) < 2e-5 + 2e-5 * Math.abs(difference),
          `${name}[${at}]: ${got} instead of ${difference}`,
        );
      }
    }
  });

  test(`loss and logits equal the plain model: ${title}`, (t) => {
    const config = tinyConfig(fields);
    const values = tinyWeights(config);
    const batch = tinyBatch(config);
    const model = tinyModel(t, config, { recompute: false, lossChunk: 3 }, values);
    const plain = new Map([...values].map(([name, array]) => [name, Float64Array.from(array)]));
    const expected = plainLossSum(config, plain, batch);
    t.true(Math.abs(model.loss(batch).lossSum - expected) < 1e-5 * expected);
    const logits = model.logits(batch);
    t.deepEqual(logits.shape, [batch.sequences, batch.length, config.vocabSize]);
    const rows = [...batch.ids.subarray(0, batch.length)];
    const want = plainLogits(config, plain, rows).flatMap((row) => [...row]);
    const got = logits.dataSync();
    logits.dispose();
    t.true(want.every((value, i) => Math.abs(value - (got[i] as number)) < 1e-4));
  });
}

test('recompute and the chunk size change no loss and hardly a gradient', (t) => {
  const config = tinyConfig();
  const batch = tinyBatch(config);
  const reference = runOf(tinyModel(t, config), batch);
  for (const lossChunk of [0, 1, 4, 1000]) {
    for (const recompute of [false, true]) {
      const run = runOf(tinyModel(t, config, { recompute, lossChunk }), batch);
      t.true(Math.abs(run.lossSum - reference.lossSum) < 1e-5);
      for (const [name, gradient] of reference.gradients) {
        const other = run.gradients.get(name) as Float32Array;
        t.true(
          gradient.every((value, i) => Math.abs(value - (other[i] as number)) < 1e-5),
          name,
        );
      }
    }
  }
});

test('the same call gives the same bytes', (t) => {
  const config = tinyConfig({ hiddenSize: 64, headDim: 16, intermediateSize: 96, vocabSize: 300 });
  const batch = tinyBatch(config, 6, 30);
  const model = tinyModel(t, config, { recompute: false, lossChunk: 50 });
  const [first, second] = [runOf(model, batch), runOf(model, batch)];
  t.deepEqual(first, second);
});

test('gradients come from the head to the embedding, each once', (t) => {
  const layer = (n: number): string[] =>
    [
      'mlp.down_proj',
      'mlp.up_proj',
      'mlp.gate_proj',
      'post_attention_layernorm',
      'self_attn.o_proj',
      'self_attn.q_proj',
      'self_attn.k_proj',
      'self_attn.v_proj',
      'input_layernorm',
    ].map((name) => `model.layers.${n}.${name}.weight`);
  const order = (tieWordEmbeddings: boolean): string[] => {
    const config = tinyConfig({ tieWordEmbeddings });
    return [...gradientsOf(tinyModel(t, config), tinyBatch(config)).keys()];
  };
  const common = ['model.norm.weight', ...layer(1), ...layer(0), 'model.embed_tokens.weight'];
  t.deepEqual(order(false), ['lm_head.weight', ...common]);
  t.deepEqual(order(true), common);
});

test('a gradient is disposed after the callback unless it was kept', (t) => {
  const config = tinyConfig();
  const model = tinyModel(t, config);
  const before = tf.memory().numTensors;
  const kept: tf.Tensor[] = [];
  const left: tf.Tensor[] = [];
  model.forwardBackward(tinyBatch(config), 1, (name, gradient) => {
    if (name.endsWith('norm.weight')) kept.push(tf.keep(gradient));
    else if (name.endsWith('q_proj.weight')) kept.push(tf.clone(gradient));
    else left.push(gradient);
  });
  t.true(left.every((gradient) => gradient.isDisposed));
  t.true(kept.every((gradient) => gradient.dataSync().length > 0));
  t.is(tf.memory().numTensors, before + kept.length);
  tf.dispose(kept);
});

test('what the callback makes is its own: no tidy of the model disposes it', (t) => {
  const config = tinyConfig({ tieWordEmbeddings: true });
  const model = tinyModel(t, config, { recompute: true, lossChunk: 2 });
  const before = tf.memory().numTensors;
  const made: tf.Tensor[] = [];
  model.forwardBackward(tinyBatch(config), 1, (_, gradient) => made.push(tf.square(gradient)));
  t.true(made.every((tensor) => !tensor.isDisposed));
  t.is(tf.memory().numTensors, before + made.length);
  tf.dispose(made);
});

test('the number of tensors is the same before and after every call', (t) => {
  for (const recompute of [false, true]) {
    for (const tieWordEmbeddings of [false, true]) {
      const config = tinyConfig({ tieWordEmbeddings });
      const model = tinyModel(t, config, { recompute, lossChunk: 4 });
      const before = tf.memory().numTensors;
      for (const length of [7, 3]) {
        model.forwardBackward(tinyBatch(config, 2, length), 1, () => {});
        t.is(tf.memory().numTensors, before);
        model.loss(tinyBatch(config, 2, length));
        t.is(tf.memory().numTensors, before);
        model.logits(tinyBatch(config, 2, length)).dispose();
        t.is(tf.memory().numTensors, before);
      }
    }
  }
});

test('a callback that throws leaves no tensor behind', (t) => {
  for (const tieWordEmbeddings of [false, true]) {
    const config = tinyConfig({ tieWordEmbeddings });
    for (const { name: culprit } of llamaTensors(config)) {
      for (const recompute of [false, true]) {
        const model = tinyModel(t, config, { recompute, lossChunk: 0 });
        const before = tf.memory().numTensors;
        const error = new Error('no more');
        const call = (): unknown =>
          model.forwardBackward(tinyBatch(config), 1, (name) => {
            if (name === culprit) throw error;
          });
        t.is(t.throws(call), error);
        t.is(tf.memory().numTensors, before, culprit);
      }
    }
  }
});

test('a weight may be replaced in the callback that receives its gradient', (t) => {
  const config = tinyConfig({ tieWordEmbeddings: true });
  const batch = tinyBatch(config);
  const expected = gradientsOf(tinyModel(t, config), batch);
  const model = tinyModel(t, config);
  model.forwardBackward(batch, 1, (name, gradient) => {
    t.deepEqual(gradient.dataSync<'float32'>(), expected.get(name));
    model.weights.set(name, tf.zerosLike(model.weights.get(name)));
  });
});

test('gradients are linear in the scale and add up over micro-batches', (t) => {
  const config = tinyConfig();
  const model = tinyModel(t, config);
  const batch = tinyBatch(config, 4);
  const whole = gradientsOf(model, batch, 1);
  const scaled = gradientsOf(model, batch, 0.25);
  const parts = [0, 1].map((half) => gradientsOf(model, partOf(batch, half * 2, half * 2 + 2), 1));
  for (const [name, gradient] of whole) {
    gradient.forEach((value, i) => {
      const sum = parts.reduce((total, part) => total + (part.get(name)?.[i] ?? NaN), 0);
      t.true(Math.abs(sum - value) < 1e-4 * Math.max(1, Math.abs(value)), name);
      t.true(
        Math.abs(4 * (scaled.get(name)?.[i] ?? NaN) - value) < 1e-5 * Math.max(1, Math.abs(value)),
        name,
      );
    });
  }
});

test('positions labelled -100 count neither in the loss nor in the gradients', (t) => {
  const config = tinyConfig();
  const model = tinyModel(t, config);
  const batch = tinyBatch(config, 2, 6);
  // All labels of the second sequence ignored: the result is that of the first sequence alone.
  const labels = batch.labels.map((label, i) => (i < 6 ? label : IGNORED_LABEL));
  const masked = runOf(model, { ...batch, labels });
  const first = runOf(model, partOf(batch, 0, 1));
  t.is(masked.tokens, first.tokens);
  t.true(Math.abs(masked.lossSum - first.lossSum) < 1e-5);
  for (const [name, gradient] of first.gradients) {
    const other = masked.gradients.get(name) as Float32Array;
    t.true(
      gradient.every((value, i) => Math.abs(value - (other[i] as number)) < 1e-5),
      name,
    );
  }
});

test('a batch without a label has loss 0 of 0 tokens and zero gradients for every weight', (t) => {
  const config = tinyConfig({ tieWordEmbeddings: true });
  const model = tinyModel(t, config, { recompute: false, lossChunk: 4 });
  const batch = { ...tinyBatch(config), labels: new Int32Array(21).fill(IGNORED_LABEL) };
  const { gradients, ...loss } = runOf(model, batch);
  t.deepEqual(loss, { lossSum: 0, tokens: 0 });
  t.deepEqual(model.loss(batch), { lossSum: 0, tokens: 0 });
  t.is(gradients.size, llamaTensors(config).length);
  for (const [name, gradient] of gradients)
    t.true(
      gradient.every((value) => Object.is(Math.abs(value), 0)),
      name,
    );
});

test('later tokens do not reach earlier logits', (t) => {
  const config = tinyConfig();
  const model = tinyModel(t, config);
  const [a, b] = [Int32Array.of(3, 1, 4, 1, 5), Int32Array.of(3, 1, 4, 9, 2)].map((ids) => {
    const logits = model.logits({ ids, sequences: 1, length: 5 });
    const values = [...logits.dataSync()];
    logits.dispose();
    return values;
  }) as [number[], number[]];
  t.deepEqual(a.slice(0, 3 * config.vocabSize), b.slice(0, 3 * config.vocabSize));
  t.notDeepEqual(a.slice(3 * config.vocabSize), b.slice(3 * config.vocabSize));
});

test.serial('with loss_chunk no tensor has more rows of logits than the chunk', async (t) => {
  const config = tinyConfig({ vocabSize: 301 });
  const batch = tinyBatch(config, 4, 8);
  const widest = async (lossChunk: number): Promise<number> => {
    const model = tinyModel(t, config, { recompute: false, lossChunk });
    let rows = 0;
    await tf
      .profile(() => {
        model.forwardBackward(batch, 1, () => {});
        return tf.scalar(0);
      })
      .then(({ kernels }) => {
        for (const { outputShapes } of kernels) {
          for (const shape of outputShapes) {
            if (shape.at(-1) === config.vocabSize) rows = Math.max(rows, shape.at(-2) ?? 0);
          }
        }
      });
    return rows;
  };
  t.is(await widest(0), batch.labels.filter((label) => label !== IGNORED_LABEL).length);
  t.is(await widest(5), 5);
});

test('with recompute only the inputs of the layers are held when backward begins', (t) => {
  const config = tinyConfig({ numHiddenLayers: 3 });
  const batch = tinyBatch(config, 4, 8);
  const bytesAtHead = (recompute: boolean): number => {
    const model = tinyModel(t, config, { recompute, lossChunk: 0 });
    const before = tf.memory().numBytes;
    let held = 0;
    model.forwardBackward(batch, 1, (name) => {
      if (name === 'lm_head.weight') held = tf.memory().numBytes - before;
    });
    return held;
  };
  const rows = 4 * 8 * config.hiddenSize * 4; // bytes of one [N, D]
  const constants = (2 * 6 * 8 * 4 + 2 * 8 * 8 + 4 * 8) * 4; // tables, mask, ids
  const head = (2 * 19 * 16 + 16 + 32) * 4; // lm_head gradient, norm gradient, row losses: at most
  t.true(bytesAtHead(true) <= 4 * rows + constants + head); // three inputs and dx
  t.true(bytesAtHead(false) > 20 * rows);
});

test('while gradients are handed out, no more than one matrix gradient and one layer is alive', (t) => {
  const config = tinyConfig({ numHiddenLayers: 6, hiddenSize: 64, headDim: 16, intermediateSize: 256 });
  const batch = tinyBatch(config, 1, 2);
  const model = tinyModel(t, config, { recompute: true, lossChunk: 0 });
  const layerBytes = llamaTensors(config)
    .filter(({ name }) => name.startsWith('model.layers.0.'))
    .reduce((total, { shape }) => total + 4 * shape.reduce((a, b) => a * b, 1), 0);
  const before = tf.memory().numBytes;
  let most = 0;
  model.forwardBackward(batch, 1, () => {
    most = Math.max(most, tf.memory().numBytes - before);
  });
  t.true(most < layerBytes, `${most} bytes alive; a layer's gradients have ${layerBytes}`);
});

test('tokens, labels and shapes that do not fit are refused before anything is computed', (t) => {
  const config = tinyConfig();
  const model = tinyModel(t, config);
  const batch = tinyBatch(config);
  const run = (changes: Partial<TokenBatch>) => (): unknown =>
    model.forwardBackward({ ...batch, ...changes }, 1, () => {});
  t.throws(run({ sequences: 2 }), {
    instanceOf: TensorShapeError,
    message: /21 token ids are not 2 sequences of 7/,
  });
  t.throws(run({ labels: batch.labels.subarray(1) }), { instanceOf: TensorShapeError });
  t.throws(run({ ids: batch.ids.map((id, i) => (i === 4 ? 19 : id)) }), {
    instanceOf: RangeError,
    message: 'token id 19 at position 4 is not in the vocabulary of 19',
  });
  t.throws(run({ labels: batch.labels.map((label, i) => (i === 2 ? -1 : label)) }), {
    instanceOf: RangeError,
  });
  t.throws(() => model.logits({ ids: new Int32Array(), sequences: 0, length: 0 }), {
    instanceOf: TensorShapeError,
  });
});

test('a model is not made of weights that are missing or have another shape', (t) => {
  const config = tinyConfig();
  const specs = llamaTensors(config);
  const store = (tensors: typeof specs): WeightStore => {
    const weights = WeightStore.fromArrays(
      tensors.map(({ name, shape }) => ({
        name,
        shape,
        values: new Float32Array(shape.reduce((a, b) => a * b, 1)),
      })),
    );
    t.teardown(() => weights.dispose());
    return weights;
  };
  const options: LlamaOptions = { recompute: false, lossChunk: 0 };
  t.throws(() => new LlamaModel(config, store(specs.slice(0, -1)), options), {
    instanceOf: TensorShapeError,
    message: /no weight named lm_head.weight/,
  });
  const turned = specs.map((spec) => ({ ...spec, shape: spec.shape.toReversed() }));
  t.throws(() => new LlamaModel(config, store(turned), options), {
    instanceOf: TensorShapeError,
    message: 'model.embed_tokens.weight is [16, 19]; the model needs [19, 16]',
  });
});

interface Run {
  readonly lossSum: number;
  readonly tokens: number;
  readonly gradients: Map<string, Float32Array>;
}

function runOf(model: LlamaModel, batch: TokenBatch, gradientScale = 1): Run {
  const gradients = new Map<string, Float32Array>();
  const loss = model.forwardBackward(batch, gradientScale, (name, gradient) => {
    gradients.set(name, Float32Array.from(gradient.dataSync()));
  });
  return { ...loss, gradients };
}

function gradientsOf(model: LlamaModel, batch: TokenBatch, gradientScale = 1): Map<string, Float32Array> {
  return runOf(model, batch, gradientScale).gradients;
}

function partOf({ ids, labels, length }: TokenBatch, from: number, to: number): TokenBatch {
  const part = [from * length, to * length] as const;
  return { ids: ids.slice(...part), labels: labels.slice(...part), sequences: to - from, length };
}

function centralDifference(weight: Float64Array, at: number, loss: () => number): number {
  const step = 1e-5;
  const value = weight[at] as number;
  weight[at] = value + step;
  const above = loss();
  weight[at] = value - step;
  const below = loss();
  weight[at] = value;
  return (above - below) / (2 * step);
}
