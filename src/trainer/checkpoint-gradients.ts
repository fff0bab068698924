/** Gradients of a model in a folder, for measurements: one batch of text, and another one before it. SHELL. */
import * as tf from '@tensorflow/tfjs-core';
import { join } from 'node:path';
import { DataError } from '../errors.ts';
import { dataOptions, prepareDataset, type Dataset, type OnProgress } from '../files/dataset.ts';
import { numbersOf } from '../galore/product.ts';
import { toBatches } from './batches.ts';
import type { LlamaModel } from './model/llama.ts';
import type { GradientPair } from './measure-refresh.ts';
import { openLanguageModel, type ModelFolder } from './open-model.ts';

/** Which gradients. */
export interface CheckpointGradientsRequest {
  readonly folder: ModelFolder;
  /** Text or JSONL files or a folder of them; null: the text of the run. */
  readonly dataPath: string | null;
  /** Number of the layer, from 0, whose matrices are taken. */
  readonly layer: number;
  readonly cacheDir: string;
  readonly threads: number;
  readonly onProgress: OnProgress;
}

const SEQUENCE_LENGTH = 128;
const BATCH_SEQUENCES = 16;

/**
 * The gradients of the attention and MLP matrices of one layer, each with that of the batch before; the caller
 * disposes them. @throws DataError, ConfigError, EngineError, OperatingError
 */
export async function checkpointGradients(
  request: CheckpointGradientsRequest,
): Promise<readonly GradientPair[]> {
  using opened = await openLanguageModel(request.folder, request.threads);
  const dataset = await openDataset(request);
  try {
    if (dataset.train.count < 2 * BATCH_SEQUENCES) {
      const wanted = `${2 * BATCH_SEQUENCES} sequences of ${SEQUENCE_LENGTH} tokens are needed`;
      throw new DataError(request.folder.path, `the text has ${dataset.train.count} sequences; ${wanted}`);
    }
    const earlier = await gradientsOf(opened.model, dataset, 0, request.layer);
    const now = await gradientsOf(opened.model, dataset, BATCH_SEQUENCES, request.layer);
    if (now.size === 0) {
      throw new DataError(request.folder.path, `the model has no layer ${request.layer}`);
    }
    return [...now].map(([name, gradient]) => ({ name, gradient, earlier: earlier.get(name)! }));
  } finally {
    await dataset.close();
  }
}

function openDataset({
  folder,
  dataPath,
  cacheDir,
  onProgress,
}: CheckpointGradientsRequest): Promise<Dataset> {
  const options = { seqLen: SEQUENCE_LENGTH, onProgress };
  if (dataPath === null && folder.config !== null) {
    const { data, tokenizer } = folder.config;
    const tokens = data.cache_dir ?? join(cacheDir, 'tokens');
    return prepareDataset({ ...options, data: dataOptions(data), tokenizer, cacheDir: tokens });
  }
  return prepareDataset({
    ...options,
    cacheDir: join(cacheDir, 'tokens'),
    data: { path: dataPath ?? folder.path, format: 'auto', validation_fraction: 0 },
    tokenizer: { type: 'file', path: folder.path, vocab_size: 257 },
  });
}

async function gradientsOf(
  model: LlamaModel,
  dataset: Dataset,
  start: number,
  layer: number,
): Promise<ReadonlyMap<string, tf.Tensor2D>> {
  const indices = Array.from({ length: BATCH_SEQUENCES }, (_, i) => start + i);
  const { tokens, mask } = await dataset.train.read(indices);
  const length = SEQUENCE_LENGTH + 1;
  const sequences = { positions: indices, length, tokens, mask: mask ?? new Uint8Array(0) };
  const [batch] = toBatches(sequences, BATCH_SEQUENCES);
  const gradients = new Map<string, tf.Tensor2D>();
  model.forwardBackward(batch!, 1 / (BATCH_SEQUENCES * SEQUENCE_LENGTH), (name, gradient) => {
    if (!name.includes(`layers.${layer}.`) || gradient.shape.length !== 2) return;
    gradients.set(name, tf.keep(numbersOf(gradient)) as tf.Tensor2D);
  });
  return gradients;
}
