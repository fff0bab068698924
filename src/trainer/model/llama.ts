/**
 * The Llama: forward and backward by hand, layer by layer. Backward runs from the head to the
 * embedding and hands out each weight gradient as soon as it is known, so that at most one layer's
 * gradients exist at a time. Works on whatever engine tfjs-core has been given.
 */
import * as tf from '@tensorflow/tfjs-core';
import { product } from '../../galore/product.ts';
import { llamaTensors, type LlamaConfig } from '../../model/llama-config.ts';
import { checkBatch, checkTokens, unmaskedRows, type Batch, type Tokens } from './batch.ts';
import type { KeyValueCache } from './key-value-cache.ts';
import { handOut } from './layers/emit.ts';
import type { LossSum, Model, ModelOptions, OnGradient, Wants } from './model.ts';
import { causalMask, type CausalMask } from './layers/causal-mask.ts';
import {
  decoderLayerBackward,
  decoderLayerForward,
  decoderLayerRecompute,
  decoderLayerWithCache,
  type DecoderContext,
  type DecoderLayerSaved,
  type DecoderLayerWeights,
} from './layers/decoder-layer.ts';
import { forwardLayers, savedOf, type Keep, type KeptLayer } from './layer-stack.ts';
import { embeddingBackward, embeddingForward } from './layers/embedding.ts';
import { headLoss, headLossAndGradients } from './layers/head-loss.ts';
import { rmsNormBackward, rmsNormForward } from './layers/rms-norm.ts';
import { rotaryTables, type RotaryTables } from './layers/rotary.ts';
import { TensorScope } from './tensor-scope.ts';
import type { WeightStore } from './weights.ts';

export type { Batch, TokenBatch, Tokens } from './batch.ts';
export type { LossSum, OnGradient } from './model.ts';

export type LlamaOptions = ModelOptions;

const EMBEDDING = 'model.embed_tokens.weight';

/** A Llama over weights it does not own. */
export class LlamaModel implements Model {
  readonly config: LlamaConfig;
  readonly weights: WeightStore;
  readonly #options: LlamaOptions;
  #constants: Constants | undefined;

  /** @throws TensorShapeError if `weights` lacks a tensor of the model or has it in another shape */
  constructor(config: LlamaConfig, weights: WeightStore, options: LlamaOptions) {
    weights.requireShapes(llamaTensors(config));
    this.config = config;
    this.weights = weights;
    this.#options = options;
  }

  /**
   * Runs forward and backward once. `onGradient` receives the gradient of `gradientScale` times the
   * loss sum for every weight: head, final norm, layers from the last to the first, embedding. With tied
   * embeddings there is one gradient for both uses, which comes last.
   */
  forwardBackward(
    batch: Batch,
    gradientScale: number,
    onGradient: OnGradient,
    wants: Wants = () => true,
  ): LossSum {
    checkBatch(batch, this.config.vocabSize);
    const { numHiddenLayers, tieWordEmbeddings, vocabSize } = this.config;
    const emit = (name: string, gradient: tf.Tensor): void => {
      if (wants(name)) handOut(onGradient, name, gradient);
      else gradient.dispose();
    };
    using scope = new TensorScope();
    const keep = this.#options.recompute ? 'inputs' : 'intermediates';
    const { context, ids, x, kept } = this.#forward(batch, keep, scope);

    const rows = unmaskedRows(batch.labels);
    const { losses, dHead, dNorm, ...head } = this.#head(
      x,
      batch.labels,
      rows,
      gradientScale,
      wants(this.#headName),
    );
    for (const tensor of [losses, dHead, dNorm]) scope.hold(tensor);
    let dx = scope.hold(head.dx);
    scope.free(x);
    if (!tieWordEmbeddings) emit('lm_head.weight', scope.release(dHead));
    emit('model.norm.weight', scope.release(dNorm));

    for (let layer = numHiddenLayers - 1; layer >= 0; layer--) {
      const weights = this.#layer(layer);
      const recompute = (input: tf.Tensor2D) => decoderLayerRecompute(input, weights, context);
      const saved = savedOf(kept[layer], recompute, scope);
      const fullName = (name: string): string => `model.layers.${layer}.${name}`;
      const dInput = decoderLayerBackward(
        ...([dx, weights, context, saved] as const),
        (name, gradient) => emit(fullName(name), gradient),
        (name) => wants(fullName(name)),
      );
      scope.free(dx);
      scope.free(saved);
      dx = scope.hold(dInput);
    }
    const done = { lossSum: sumOf(losses), tokens: rows.length };
    if (!wants(EMBEDDING)) return done;
    const dEmbedding = tf.tidy(() => {
      const gradient = embeddingBackward(ids, dx, vocabSize);
      return tieWordEmbeddings ? tf.add(gradient, dHead) : gradient;
    });
    if (tieWordEmbeddings) scope.free(dHead); // otherwise the callback's
    emit(EMBEDDING, dEmbedding);
    return done;
  }

  /** The loss of a batch, without gradients. */
  loss(batch: Batch): LossSum {
    checkBatch(batch, this.config.vocabSize);
    const rows = unmaskedRows(batch.labels);
    if (rows.length === 0) return { lossSum: 0, tokens: 0 };
    using scope = new TensorScope();
    const { x } = this.#forward(batch, 'nothing', scope);
    const losses = scope.hold(
      tf.tidy(() => {
        const hidden = this.#finalNorm(pickRows(x, rows)).y;
        return headLoss(hidden, this.#headWeight(), pickLabels(batch.labels, rows), this.#options.lossChunk);
      }),
    );
    return { lossSum: sumOf(losses), tokens: rows.length };
  }

  /** The logits of every position, [sequences, length, vocab]; the caller disposes them. */
  logits(tokens: Tokens): tf.Tensor3D {
    checkTokens(tokens, this.config.vocabSize);
    using scope = new TensorScope();
    const { x } = this.#forward(tokens, 'nothing', scope);
    return tf.tidy(() => {
      const logits = product(this.#finalNorm(x).y, this.#headWeight(), false, true);
      return tf.reshape(logits, [tokens.sequences, tokens.length, this.config.vocabSize]);
    });
  }

  /**
   * The logits after the last of `ids`, tokens that follow those `cache` has seen, which the cache
   * remembers from then on. [vocab]; the caller disposes them.
   */
  nextLogits(ids: Int32Array, cache: KeyValueCache): tf.Tensor1D {
    const tokens: Tokens = { ids, sequences: 1, length: ids.length };
    checkTokens(tokens, this.config.vocabSize);
    using scope = new TensorScope();
    const context = this.#context(tokens, cache.length, scope);
    return tf.tidy(() => {
      let x = embeddingForward(tf.tensor1d(ids, 'int32'), this.#embedding()); // [S, D]
      for (let layer = 0; layer < this.config.numHiddenLayers; layer++) {
        const y = decoderLayerWithCache(x, this.#layer(layer), context, cache, layer);
        x.dispose();
        x = y;
      }
      const last = tf.slice(x, [ids.length - 1, 0], [1, -1]);
      return tf.squeeze(product(this.#finalNorm(last).y, this.#headWeight(), false, true), [0]);
    });
  }

  /** Runs the layers. Everything it leaves belongs to `scope`. */
  #forward(tokens: Tokens, keep: Keep, scope: TensorScope): ForwardResult {
    const context = this.#context(tokens, 0, scope);
    const ids = scope.hold(tf.tensor1d(tokens.ids, 'int32'));
    const embedded = scope.hold(embeddingForward(ids, this.#embedding())); // [N, D]
    const layerAt = (layer: number) => {
      const weights = this.#layer(layer);
      return (input: tf.Tensor2D) => decoderLayerForward(input, weights, context);
    };
    const { x, kept } = forwardLayers(embedded, this.config.numHiddenLayers, layerAt, keep, scope);
    return { context, ids, x, kept };
  }

  /** Final norm, head and loss, forward and backward, over the rows that have a loss. */
  #head(
    x: tf.Tensor2D,
    labels: Int32Array,
    rows: Int32Array,
    gradientScale: number,
    isWeightWanted: boolean,
  ): HeadGradients {
    return tf.tidy(() => {
      if (rows.length === 0) {
        return {
          losses: tf.zeros<tf.Rank.R1>([1]),
          dx: tf.zerosLike(x),
          dNorm: tf.zeros<tf.Rank.R1>([this.config.hiddenSize]),
          dHead: tf.zerosLike(this.#headWeight()),
        };
      }
      const norm = this.#finalNorm(pickRows(x, rows));
      const { losses, dHidden, dWeight } = headLossAndGradients(
        norm.y,
        this.#headWeight(),
        pickLabels(labels, rows),
        this.#options.lossChunk,
        gradientScale,
        isWeightWanted,
      );
      const back = rmsNormBackward(dHidden, this.#normWeight(), norm.saved);
      return { losses, dx: unpickRows(back.dx, rows, labels.length), dNorm: back.dWeight, dHead: dWeight };
    });
  }

  /** Rotary tables and mask as tensors of `scope`. The arrays are made once per length. */
  #context(tokens: Tokens, offset: number, scope: TensorScope): DecoderContext {
    const { numAttentionHeads: heads, numKeyValueHeads: keyValueHeads, headDim, rmsNormEps } = this.config;
    const { sequences, length } = tokens;
    scope.atEnd(() => this.weights.release());
    if (this.#constants?.offset !== offset || this.#constants.length !== length) {
      const rotary = rotaryTables(this.config, offset, length);
      this.#constants = { offset, length, rotary, mask: causalMask(heads / keyValueHeads, offset, length) };
    }
    const { rotary, mask } = this.#constants;
    return {
      shape: { sequences, length, heads, keyValueHeads, headDim },
      tables: scope.hold({
        cos: tf.tensor3d(rotary.cos, rotary.shape),
        sin: tf.tensor3d(rotary.sin, rotary.shape),
        mask: tf.tensor2d(mask.values, mask.shape),
      }),
      eps: rmsNormEps,
    };
  }

  /** The weights of a layer, good until those of another are asked for or the scope of the call ends. */
  #layer(layer: number): DecoderLayerWeights {
    this.weights.release();
    const matrix = (name: string): tf.Tensor2D => this.#weight(`model.layers.${layer}.${name}.weight`);
    const vector = (name: string): tf.Tensor1D => this.#weight(`model.layers.${layer}.${name}.weight`);
    return {
      inputNorm: vector('input_layernorm'),
      attention: {
        query: matrix('self_attn.q_proj'),
        key: matrix('self_attn.k_proj'),
        value: matrix('self_attn.v_proj'),
        output: matrix('self_attn.o_proj'),
      },
      postAttentionNorm: vector('post_attention_layernorm'),
      mlp: { gate: matrix('mlp.gate_proj'), up: matrix('mlp.up_proj'), down: matrix('mlp.down_proj') },
    };
  }

  #finalNorm(x: tf.Tensor2D): ReturnType<typeof rmsNormForward> {
    return rmsNormForward(x, this.#normWeight(), this.config.rmsNormEps);
  }

  #embedding(): tf.Tensor2D {
    return this.#weight(EMBEDDING);
  }

  #normWeight(): tf.Tensor1D {
    return this.#weight('model.norm.weight');
  }

  #headWeight(): tf.Tensor2D {
    return this.#weight(this.#headName);
  }

  get #headName(): string {
    return this.config.tieWordEmbeddings ? EMBEDDING : 'lm_head.weight';
  }

  /** Shapes were checked by the constructor and cannot change. */
  #weight<T extends tf.Tensor>(name: string): T {
    return this.weights.get(name) as T;
  }
}

interface ForwardResult {
  readonly context: DecoderContext;
  readonly ids: tf.Tensor1D; // [N]
  readonly x: tf.Tensor2D; // [N, D], the last layer's output
  readonly kept: readonly KeptLayer<DecoderLayerSaved>[];
}

interface HeadGradients {
  readonly losses: tf.Tensor1D; // one per row that has a loss
  readonly dx: tf.Tensor2D; // [N, D]
  readonly dNorm: tf.Tensor1D; // [D]
  readonly dHead: tf.Tensor2D; // [V, D]
}

/** Arrays of the last length used. */
interface Constants {
  readonly offset: number;
  readonly length: number;
  readonly rotary: RotaryTables;
  readonly mask: CausalMask;
}

function pickRows(x: tf.Tensor2D, rows: Int32Array): tf.Tensor2D {
  return rows.length === x.shape[0] ? x : tf.gather(x, tf.tensor1d(rows, 'int32'));
}

function pickLabels(labels: Int32Array, rows: Int32Array): Int32Array {
  return rows.length === labels.length ? labels : Int32Array.from(rows, (row) => labels[row] ?? 0);
}

/** The transpose of `pickRows`: zero where nothing was picked. */
function unpickRows(dx: tf.Tensor2D, rows: Int32Array, count: number): tf.Tensor2D {
  return rows.length === count ? dx : tf.unsortedSegmentSum(dx, tf.tensor1d(rows, 'int32'), count);
}

function sumOf(losses: tf.Tensor1D): number {
  return losses.dataSync<'float32'>().reduce((sum, loss) => sum + loss, 0);
}
