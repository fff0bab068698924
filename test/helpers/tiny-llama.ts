/** Small models and batches for tests. */
import type { ExecutionContext } from 'ava';
import { llamaTensors, type LlamaConfig } from '../../src/model/llama-config.ts';
import { sizeOf } from '../../src/galore/slot.ts';
import { derive, randomNormal, randomUint32 } from '../../src/random.ts';
import { IGNORED_LABEL, type TokenBatch } from '../../src/trainer/model/batch.ts';
import { LlamaModel, type LlamaOptions } from '../../src/trainer/model/llama.ts';
import { WeightStore } from '../../src/trainer/model/weights.ts';

/** Two layers, grouped queries, an untied head; any field can be given. */
export function tinyConfig(fields: Partial<LlamaConfig> = {}): LlamaConfig {
  return {
    modelType: 'llama',
    vocabSize: 19,
    hiddenSize: 16,
    intermediateSize: 24,
    numHiddenLayers: 2,
    numAttentionHeads: 4,
    numKeyValueHeads: 2,
    headDim: 4,
    tieWordEmbeddings: false,
    ropeTheta: 100,
    rmsNormEps: 1e-5,
    initializerRange: 0.02,
    maxPositionEmbeddings: 32,
    bosTokenId: null,
    eosTokenId: null,
    ...fields,
  };
}

/** Weights large enough that attention is far from uniform; norm weights are not all one. */
export function tinyWeights(config: LlamaConfig, seed = 1): Map<string, Float32Array> {
  return new Map(
    llamaTensors(config).map(({ name, shape }) => {
      const key = derive(seed, name);
      const [mean, scale] = shape.length === 1 ? [1, 0.2] : [0, 0.4];
      return [
        name,
        Float32Array.from({ length: sizeOf(shape) }, (_, i) => mean + scale * randomNormal(key, i)),
      ];
    }),
  );
}

/** A model over its own copy of the weights, freed at the end of the test. */
export function tinyModel(
  t: ExecutionContext,
  config: LlamaConfig,
  options: LlamaOptions = { recompute: false, lossChunk: 0 },
  values: ReadonlyMap<string, Float32Array> = tinyWeights(config),
): LlamaModel {
  const weights = WeightStore.fromArrays(
    llamaTensors(config).map((spec) => ({ ...spec, values: Float32Array.from(values.get(spec.name) ?? []) })),
  );
  t.teardown(() => weights.dispose());
  return new LlamaModel(config, weights, options);
}

/** Random tokens, each labelled with its successor; the last of a sequence and every fifth have no label. */
export function tinyBatch(config: LlamaConfig, sequences = 3, length = 7, seed = 2): TokenBatch {
  const key = derive(seed, 'tokens');
  const ids = Int32Array.from(
    { length: sequences * length },
    (_, i) => randomUint32(key, i) % config.vocabSize,
  );
  const labels = ids.map((_, i) =>
    (i + 1) % length === 0 || i % 5 === 3 ? IGNORED_LABEL : (ids[i + 1] ?? IGNORED_LABEL),
  );
  return { ids, labels, sequences, length };
}
