/** The classifier in plain double precision, one text and one number at a time, for tests. */
import { headNames, type BertConfig } from '../../src/model/bert-config.ts';
import type { ClassBatch } from '../../src/trainer/model/batch.ts';

type Weights = ReadonlyMap<string, Float64Array>;
type Rows = Float64Array[];

/** The loss summed over the texts whose class is known. */
export function plainClassLossSum(config: BertConfig, weights: Weights, batch: ClassBatch): number {
  let sum = 0;
  batch.classes.forEach((label, text) => {
    if (label < 0) return;
    const logits = plainClassLogits(config, weights, batch, text);
    sum += Math.log(logits.reduce((total, logit) => total + Math.exp(logit), 0)) - logits[label]!;
  });
  return sum;
}

/** The logits of one text of the batch. */
export function plainClassLogits(
  config: BertConfig,
  weights: Weights,
  { ids, types, lengths, length }: ClassBatch,
  text: number,
): Float64Array {
  const own = { ids, types, start: text * length, tokens: lengths[text]! };
  const hidden = encode(config, weights, own);
  const dense = (name: string, x: Float64Array): Float64Array => linear(weights, name, x);
  if (config.pooling === 'mean') {
    const mean = hidden[0]!.map((_, at) => hidden.reduce((sum, row) => sum + row[at]!, 0) / hidden.length);
    return dense('classifier', mean);
  }
  const { dense: first, out } = headNames(config.modelType);
  return dense(out, dense(first, hidden[0]!).map(Math.tanh));
}

interface Text {
  readonly ids: Int32Array;
  readonly types: Int32Array | undefined;
  readonly start: number;
  readonly tokens: number;
}

function encode(config: BertConfig, weights: Weights, { ids, types, start, tokens }: Text): Rows {
  const { modelType, hiddenSize: width, padTokenId, layerNormEps: eps } = config;
  const embedding = (name: string, index: number): Float64Array =>
    weights.get(`${modelType}.embeddings.${name}.weight`)!.subarray(index * width, (index + 1) * width);
  const norm = (name: string, x: Float64Array): Float64Array =>
    layerNorm(weights, `${modelType}.${name}`, x, eps);
  let x: Rows = Array.from({ length: tokens }, (_, at) => {
    const position = modelType === 'roberta' ? at + padTokenId + 1 : at;
    const [word, place, type] = [
      embedding('word_embeddings', ids[start + at]!),
      embedding('position_embeddings', position),
      embedding('token_type_embeddings', types?.[start + at] ?? 0),
    ];
    return norm(
      'embeddings',
      word.map((value, i) => value + place[i]! + type[i]!),
    );
  });
  for (let layer = 0; layer < config.numHiddenLayers; layer++) {
    const prefix = `encoder.layer.${layer}`;
    const dense = (name: string, row: Float64Array): Float64Array =>
      linear(weights, `${modelType}.${prefix}.${name}`, row);
    const attended = attend(config, x, dense);
    x = x.map((row, at) => {
      const middle = norm(
        `${prefix}.attention.output`,
        add(row, dense('attention.output.dense', attended[at]!)),
      );
      const activation = dense('intermediate.dense', middle).map(gelu);
      return norm(`${prefix}.output`, add(middle, dense('output.dense', activation)));
    });
  }
  return x;
}

function attend(
  { hiddenSize, numAttentionHeads: heads }: BertConfig,
  x: Rows,
  dense: (name: string, row: Float64Array) => Float64Array,
): Rows {
  const size = hiddenSize / heads;
  const [queries, keys, values] = ['query', 'key', 'value'].map((part) =>
    x.map((row) => dense(`attention.self.${part}`, row)),
  ) as [Rows, Rows, Rows];
  return queries.map((query) => {
    const out = new Float64Array(hiddenSize);
    for (let head = 0; head < heads; head++) {
      const part = (row: Float64Array): Float64Array => row.subarray(head * size, (head + 1) * size);
      const scores = keys.map((key) => Math.exp(dot(part(query), part(key)) / Math.sqrt(size)));
      const total = scores.reduce((sum, score) => sum + score, 0);
      values.forEach((value, at) =>
        part(value).forEach((number, i) => (out[head * size + i]! += (scores[at]! / total) * number)),
      );
    }
    return out;
  });
}

function linear(weights: Weights, name: string, x: Float64Array): Float64Array {
  const [weight, bias] = [weights.get(`${name}.weight`)!, weights.get(`${name}.bias`)!];
  return bias.map((value, row) => value + dot(weight.subarray(row * x.length, (row + 1) * x.length), x));
}

function layerNorm(weights: Weights, name: string, x: Float64Array, eps: number): Float64Array {
  const mean = x.reduce((sum, value) => sum + value, 0) / x.length;
  const variance = x.reduce((sum, value) => sum + (value - mean) ** 2, 0) / x.length;
  const [weight, bias] = [weights.get(`${name}.LayerNorm.weight`)!, weights.get(`${name}.LayerNorm.bias`)!];
  return x.map((value, at) => ((value - mean) / Math.sqrt(variance + eps)) * weight[at]! + bias[at]!);
}

function gelu(h: number): number {
  return (h * (1 + erf(h * Math.SQRT1_2))) / 2;
}

/** By its power series, good to 1e-9 for the arguments of these tests. */
export function erf(x: number): number {
  let term = x;
  let sum = x;
  for (let n = 1; n < 200 && Math.abs(term) > 1e-15; n++) {
    term *= -(x * x) / n;
    sum += term / (2 * n + 1);
  }
  return (2 / Math.sqrt(Math.PI)) * sum;
}

function dot(a: Float64Array, b: Float64Array): number {
  return a.reduce((sum, value, at) => sum + value * b[at]!, 0);
}

function add(a: Float64Array, b: Float64Array): Float64Array {
  return a.map((value, at) => value + b[at]!);
}
