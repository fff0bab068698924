/**
 * The encoder with its classification head: forward and backward by hand, layer by layer, as the Llama's. Padding
 * is left out (packing.ts). Backward runs from the head to the embedding, hands out each weight gradient as soon as
 * it is known, and ends with the last one that is wanted. Works on whatever engine tfjs-core has been given.
 */
import assert from 'node:assert/strict';
import * as tf from '@tensorflow/tfjs-core';
import { bertTensors, headNames, longestText, type BertConfig } from '../../model/bert-config.ts';
import { checkClassBatch, type Batch, type ClassBatch } from './batch.ts';
import {
  classify,
  classLoss,
  headBackward,
  poolForward,
  type ClassificationHead,
  type HeadNames,
  type HeadSaved,
} from './layers/classification-head.ts';
import {
  encoderEmbeddingBackward,
  encoderEmbeddingForward,
  type EncoderEmbeddingWeights,
} from './layers/encoder-embedding.ts';
import {
  encoderLayerBackward,
  encoderLayerForward,
  type EncoderContext,
  type EncoderLayerSaved,
  type EncoderLayerWeights,
} from './layers/encoder-layer.ts';
import { forwardLayers, savedOf, type Keep, type KeptLayer } from './layer-stack.ts';
import { handOut } from './layers/emit.ts';
import type { LayerNormSaved, LayerNormWeights } from './layers/layer-norm.ts';
import type { LinearWeights } from './layers/linear.ts';
import { pack, type PackedTokens } from './layers/packing.ts';
import type { LossSum, Model, ModelOptions, OnGradient, Wants } from './model.ts';
import { TensorScope } from './tensor-scope.ts';
import type { WeightStore } from './weights.ts';

/** A BERT or RoBERTa over weights it does not own. */
export class BertModel implements Model {
  readonly config: BertConfig;
  readonly weights: WeightStore;
  readonly #options: ModelOptions;
  readonly #headNames: HeadNames;

  /** @throws TensorShapeError if `weights` lacks a tensor of the model or has it in another shape */
  constructor(config: BertConfig, weights: WeightStore, options: ModelOptions) {
    weights.requireShapes(bertTensors(config));
    this.config = config;
    this.weights = weights;
    this.#options = options;
    const isMean = config.pooling === 'mean';
    this.#headNames = isMean ? { dense: '', out: 'classifier' } : headNames(config.modelType);
  }

  forwardBackward(
    batch: Batch,
    gradientScale: number,
    onGradient: OnGradient,
    wants: Wants = () => true,
  ): LossSum {
    checkClassBatch(batch, this.config);
    using scope = new TensorScope();
    const { context, tokens, x, kept, embedding } = this.#forward(
      batch,
      this.#options.recompute ? 'inputs' : 'intermediates',
      scope,
    );
    const head = this.#head();
    const saved = scope.hold(poolForward(x, head.dense, context.packing));
    const { lossSum, texts, correct, dLogits } = this.#lossOf(saved, batch.classes, gradientScale);
    const { modelType, numHiddenLayers, hiddenSize } = this.config;
    const end = this.#lastWanted(wants);
    const below = (prefix: string) => ({
      wants: (name: string) => wants(`${prefix}${name}`),
      emit: (name: string, gradient: tf.Tensor) => handOut(onGradient, `${prefix}${name}`, gradient),
    });
    const done = { lossSum, tokens: texts, correct };

    const top = below('');
    const dOut = scope.hold(tf.tensor2d(dLogits, [batch.sequences, this.config.labels.length]));
    let dx = scope.hold(
      headBackward(dOut, head, this.#headNames, context.packing, saved, top.wants, top.emit),
    );
    assert(dx.shape[1] === hiddenSize);
    scope.free(x);
    for (let layer = numHiddenLayers - 1; layer >= Math.max(0, end); layer--) {
      const weights = this.#layer(layer);
      const recompute = (input: tf.Tensor2D) =>
        tf.tidy(() => encoderLayerForward(input, weights, context).saved);
      const own = savedOf(kept[layer], recompute, scope);
      const { wants: wantsOwn, emit } = below(`${modelType}.encoder.layer.${layer}.`);
      const dInput = encoderLayerBackward(dx, weights, context, own, wantsOwn, emit);
      scope.free(dx);
      scope.free(own);
      dx = scope.hold(dInput);
    }
    if (end >= 0) return done;
    const { wants: wantsOwn, emit } = below(`${modelType}.embeddings.`);
    assert(embedding !== null);
    encoderEmbeddingBackward(dx, tokens, this.#embedding(), embedding, wantsOwn, emit);
    return done;
  }

  loss(batch: Batch): LossSum {
    checkClassBatch(batch, this.config);
    using scope = new TensorScope();
    const { context, x } = this.#forward(batch, 'nothing', scope);
    const saved = scope.hold(poolForward(x, this.#head().dense, context.packing));
    const { lossSum, texts, correct } = this.#lossOf(saved, batch.classes, 0);
    return { lossSum, tokens: texts, correct };
  }

  /** The logits of every text, [sequences, classes]; the caller disposes them. */
  logits(batch: ClassBatch): tf.Tensor2D {
    checkClassBatch(batch, this.config);
    using scope = new TensorScope();
    const { context, x } = this.#forward(batch, 'nothing', scope);
    return tf.tidy(() => {
      const head = this.#head();
      return classify(poolForward(x, head.dense, context.packing).pooled, head);
    });
  }

  /** What the classes are told from, [sequences, D]; the caller disposes it. */
  pooled(batch: ClassBatch): tf.Tensor2D {
    checkClassBatch(batch, this.config);
    using scope = new TensorScope();
    const { context, x } = this.#forward(batch, 'nothing', scope);
    return tf.tidy(() => poolForward(x, this.#head().dense, context.packing).pooled);
  }

  #lossOf(saved: HeadSaved, classes: Int32Array, gradientScale: number): ReturnType<typeof classLoss> {
    const logits = tf.tidy(() => classify(saved.pooled, this.#head()).dataSync<'float32'>());
    return classLoss(logits, classes, gradientScale);
  }

  /** Runs the layers. Everything it leaves belongs to `scope`. */
  #forward(batch: ClassBatch, keep: Keep, scope: TensorScope): ForwardResult {
    scope.atEnd(() => this.weights.release());
    const { packing, tokens: packed } = pack(batch, scope);
    this.#checkLength(packing.length);
    const tokens = this.#placed(packed);
    const { numAttentionHeads: heads, layerNormEps: eps, numHiddenLayers } = this.config;
    const context: EncoderContext = { heads, eps, packing };
    const begin = encoderEmbeddingForward(tokens, this.#embedding(), eps);
    scope.hold(begin.y); // [N, D]
    scope.hold(begin.saved);
    if (keep === 'nothing') scope.free(begin.saved);
    const layerAt = (layer: number) => {
      const weights = this.#layer(layer);
      return (input: tf.Tensor2D) => encoderLayerForward(input, weights, context);
    };
    const { x, kept } = forwardLayers(begin.y, numHiddenLayers, layerAt, keep, scope);
    return { context, tokens, x, kept, embedding: keep === 'nothing' ? null : begin.saved };
  }

  /** A RoBERTa counts positions from the one behind the padding token's. */
  #placed(tokens: PackedTokens): PackedTokens {
    const { modelType, padTokenId } = this.config;
    if (modelType === 'bert') return tokens;
    return { ...tokens, positions: tokens.positions.map((position) => position + padTokenId + 1) };
  }

  #checkLength(length: number): void {
    const most = longestText(this.config);
    if (length > most) throw new RangeError(`a text has ${length} tokens; the model has ${most} positions`);
  }

  /** The lowest layer that has a weight whose gradient is wanted; −1: the embedding has; Infinity: only the head. */
  #lastWanted(wants: Wants): number {
    const { modelType, numHiddenLayers } = this.config;
    const prefix = `${modelType}.encoder.layer.`;
    const wanted = bertTensors(this.config).filter(({ name }) => wants(name));
    if (wanted.some(({ name }) => name.startsWith(`${modelType}.embeddings.`))) return -1;
    const layers = wanted.filter(({ name }) => name.startsWith(prefix));
    const lowest = layers.map(({ name }) => Number.parseInt(name.slice(prefix.length), 10));
    return Math.min(numHiddenLayers, ...lowest);
  }

  /** The weights of a layer, good until those of another are asked for or the scope of the call ends. */
  #layer(layer: number): EncoderLayerWeights {
    this.weights.release();
    const linear = (name: string): LinearWeights =>
      this.#linear(`${this.#prefix}encoder.layer.${layer}.${name}`);
    const norm = (name: string): LayerNormWeights => this.#norm(`encoder.layer.${layer}.${name}`);
    return {
      attention: {
        query: linear('attention.self.query'),
        key: linear('attention.self.key'),
        value: linear('attention.self.value'),
        output: linear('attention.output.dense'),
      },
      attentionNorm: norm('attention.output'),
      up: linear('intermediate.dense'),
      down: linear('output.dense'),
      outputNorm: norm('output'),
    };
  }

  #embedding(): EncoderEmbeddingWeights {
    this.weights.release();
    const matrix = (name: string): tf.Tensor2D => this.#weight(`${this.#prefix}embeddings.${name}.weight`);
    return {
      words: matrix('word_embeddings'),
      positions: matrix('position_embeddings'),
      types: matrix('token_type_embeddings'),
      norm: this.#norm('embeddings'),
    };
  }

  #head(): ClassificationHead {
    const { dense, out } = this.#headNames;
    return { dense: dense === '' ? null : this.#linear(dense), out: this.#linear(out) };
  }

  #linear(name: string): LinearWeights {
    return { weight: this.#weight(`${name}.weight`), bias: this.#weight(`${name}.bias`) };
  }

  #norm(name: string): LayerNormWeights {
    const part = `${this.#prefix}${name}.LayerNorm`;
    return { weight: this.#weight(`${part}.weight`), bias: this.#weight(`${part}.bias`) };
  }

  get #prefix(): string {
    return `${this.config.modelType}.`;
  }

  /** Shapes were checked by the constructor and cannot change. */
  #weight<T extends tf.Tensor>(name: string): T {
    return this.weights.get(name) as T;
  }
}

interface ForwardResult {
  readonly context: EncoderContext;
  readonly tokens: PackedTokens;
  readonly x: tf.Tensor2D; // [N, D], the last layer's output
  readonly kept: readonly KeptLayer<EncoderLayerSaved>[];
  readonly embedding: LayerNormSaved | null;
}
