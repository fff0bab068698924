/**
 * A Llama forward pass in plain loops and double precision, written from the formulas alone: slow,
 * short, and the judge of the fast one. Sequences are computed one at a time.
 */
import type { LlamaConfig } from '../../src/model/llama-config.ts';
import { IGNORED_LABEL, type TokenBatch } from '../../src/trainer/model/batch.ts';

export type PlainWeights = ReadonlyMap<string, Float64Array>;

type Rows = readonly Float64Array[];

/** Loss summed over the labelled positions. */
export function plainLossSum(config: LlamaConfig, weights: PlainWeights, batch: TokenBatch): number {
  let lossSum = 0;
  for (let row = 0; row < batch.sequences; row++) {
    const part = [row * batch.length, (row + 1) * batch.length] as const;
    const logits = plainLogits(config, weights, [...batch.ids.subarray(...part)]);
    batch.labels.subarray(...part).forEach((label, position) => {
      if (label === IGNORED_LABEL) return;
      const line = logits[position] ?? new Float64Array();
      const greatest = Math.max(...line);
      const sum = line.reduce((total, logit) => total + Math.exp(logit - greatest), 0);
      lossSum += Math.log(sum) + greatest - (line[label] ?? NaN);
    });
  }
  return lossSum;
}

/** Logits of one sequence, a row per position. */
export function plainLogits(config: LlamaConfig, weights: PlainWeights, ids: readonly number[]): Rows {
  const { hiddenSize, headDim, numAttentionHeads: heads, numKeyValueHeads: keyValueHeads } = config;
  const weight = (name: string): Float64Array => weights.get(name) ?? new Float64Array();
  const embedding = weight('model.embed_tokens.weight');
  let x: Rows = ids.map((id) => embedding.slice(id * hiddenSize, (id + 1) * hiddenSize));
  for (let layer = 0; layer < config.numHiddenLayers; layer++) {
    const of = (name: string): Float64Array => weight(`model.layers.${layer}.${name}.weight`);
    const h = norm(x, of('input_layernorm'), config.rmsNormEps);
    const q = rotate(linear(h, of('self_attn.q_proj')), config);
    const k = rotate(linear(h, of('self_attn.k_proj')), config);
    const v = linear(h, of('self_attn.v_proj'));
    const attended = q.map((query, position) => {
      const out = new Float64Array(heads * headDim);
      for (let head = 0; head < heads; head++) {
        const source = Math.floor(head / (heads / keyValueHeads)) * headDim;
        const scores = k
          .slice(0, position + 1)
          .map((key) => dot(query, head * headDim, key, source, headDim) / Math.sqrt(headDim));
        const greatest = Math.max(...scores);
        const exponentials = scores.map((score) => Math.exp(score - greatest));
        const sum = exponentials.reduce((total, value) => total + value, 0);
        exponentials.forEach((value, at) => {
          for (let i = 0; i < headDim; i++) {
            out[head * headDim + i]! += (value / sum) * v[at]![source + i]!;
          }
        });
      }
      return out;
    });
    x = add(x, linear(attended, of('self_attn.o_proj')));
    const h2 = norm(x, of('post_attention_layernorm'), config.rmsNormEps);
    const up = linear(h2, of('mlp.up_proj'));
    const gated = linear(h2, of('mlp.gate_proj')).map((row, position) =>
      row.map((gate, i) => (gate / (1 + Math.exp(-gate))) * up[position]![i]!),
    );
    x = add(x, linear(gated, of('mlp.down_proj')));
  }
  const head = config.tieWordEmbeddings ? embedding : weight('lm_head.weight');
  return linear(norm(x, weight('model.norm.weight'), config.rmsNormEps), head);
}

function linear(rows: Rows, matrix: Float64Array): Rows {
  return rows.map((row) =>
    Float64Array.from({ length: matrix.length / row.length }, (_, out) =>
      dot(row, 0, matrix, out * row.length, row.length),
    ),
  );
}

function norm(rows: Rows, weight: Float64Array, eps: number): Rows {
  return rows.map((row) => {
    const mean = dot(row, 0, row, 0, row.length) / row.length;
    return row.map((value, i) => (value / Math.sqrt(mean + eps)) * weight[i]!);
  });
}

/** Dimension i of a head turns with dimension i + headDim/2. */
function rotate(rows: Rows, { headDim, ropeTheta }: LlamaConfig): Rows {
  const half = headDim / 2;
  return rows.map((row, position) =>
    row.map((value, at) => {
      const i = at % headDim;
      const angle = position * ropeTheta ** ((-2 * (i % half)) / headDim);
      const partner = i < half ? -row[at + half]! : row[at - half]!;
      return value * Math.cos(angle) + partner * Math.sin(angle);
    }),
  );
}

function add(a: Rows, b: Rows): Rows {
  return a.map((row, at) => row.map((value, i) => value + b[at]![i]!));
}

function dot(a: Float64Array, atA: number, b: Float64Array, atB: number, length: number): number {
  let sum = 0;
  for (let i = 0; i < length; i++) sum += a[atA + i]! * b[atB + i]!;
  return sum;
}
