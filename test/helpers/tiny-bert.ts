/** Small classifiers and batches for tests. */
import type { ExecutionContext } from 'ava';
import { sizeOf } from '../../src/galore/slot.ts';
import { bertTensors, type BertConfig } from '../../src/model/bert-config.ts';
import { derive, randomNormal, randomUint32 } from '../../src/random.ts';
import type { ClassBatch } from '../../src/trainer/model/batch.ts';
import { BertModel } from '../../src/trainer/model/bert.ts';
import { WeightStore } from '../../src/trainer/model/weights.ts';

/** Two layers of two heads, three classes; any field can be given. */
export function tinyBertConfig(fields: Partial<BertConfig> = {}): BertConfig {
  return {
    modelType: 'bert',
    vocabSize: 17,
    hiddenSize: 8,
    intermediateSize: 12,
    numHiddenLayers: 2,
    numAttentionHeads: 2,
    maxPositionEmbeddings: 12,
    typeVocabSize: 2,
    layerNormEps: 1e-5,
    initializerRange: 0.02,
    padTokenId: 1,
    bosTokenId: null,
    eosTokenId: null,
    pooling: 'cls',
    labels: ['a', 'b', 'c'],
    ...fields,
  };
}

/** Weights large enough that attention is far from uniform; norms are not all one, biases not zero. */
export function tinyBertWeights(config: BertConfig, seed = 1): Map<string, Float32Array> {
  return new Map(
    bertTensors(config).map(({ name, shape }) => {
      const key = derive(seed, name);
      const [mean, scale] = name.endsWith('LayerNorm.weight') ? [1, 0.2] : [0, 0.4];
      return [
        name,
        Float32Array.from({ length: sizeOf(shape) }, (_, i) => mean + scale * randomNormal(key, i)),
      ];
    }),
  );
}

/** A model over its own copy of the weights, freed at the end of the test. */
export function tinyBert(
  t: ExecutionContext,
  config: BertConfig,
  recompute = false,
  values: ReadonlyMap<string, Float32Array> = tinyBertWeights(config),
): BertModel {
  const weights = WeightStore.fromArrays(
    bertTensors(config).map((spec) => ({ ...spec, values: Float32Array.from(values.get(spec.name)!) })),
  );
  t.teardown(() => weights.dispose());
  return new BertModel(config, weights, { recompute, lossChunk: 0 });
}

/** Random texts of the given lengths in rows of `length`; padding is token 0. */
export function classBatch(
  { vocabSize, labels, typeVocabSize }: BertConfig,
  lengths: readonly number[] = [5, 1, 7],
  { length = 7, hasTypes = false, seed = 2 } = {},
): ClassBatch {
  const key = derive(seed, 'texts');
  const rows = Array.from({ length: lengths.length * length }, (_, i) => i);
  const isReal = (i: number): boolean => i % length < lengths[Math.floor(i / length)]!;
  return {
    ids: Int32Array.from(rows, (i) => (isReal(i) ? randomUint32(key, i) % vocabSize : 0)),
    classes: Int32Array.from(lengths, (_, i) => i % labels.length),
    lengths: Int32Array.from(lengths),
    ...(hasTypes ? { types: Int32Array.from(rows, (i) => i % typeVocabSize) } : {}),
    sequences: lengths.length,
    length,
  };
}
