/** The held-out loss of a model in a folder, measured here: no coordinator, no run going on. SHELL. */
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { DataError } from '../errors.ts';
import {
  dataOptions,
  prepareDataset,
  type Dataset,
  type OnProgress,
  type SequenceSource,
} from '../files/dataset.ts';
import { readSequences } from '../files/sequences.ts';
import { toBatches } from './batches.ts';
import type { ReadyDevice } from './engine/ready-device.ts';
import { isClassifier } from '../model/model-config.ts';
import { addLosses, measureLoss, type LossSum } from './model/model.ts';
import { openModel, type AnyModel, type ModelFolder } from './open-model.ts';

/** What is to be measured. */
export interface EvaluationRequest {
  readonly folder: ModelFolder;
  /** Text or JSONL files or a folder of them, all used; null: what the run held out. */
  readonly dataPath: string | null;
  readonly sequenceLength: number;
  /** At most this many sequences; 0: all. */
  readonly maxSequences: number;
  readonly batchSequences: number;
  readonly cacheDir: string;
  readonly threads: number;
  readonly device?: ReadyDevice | undefined;
  readonly onProgress: OnProgress;
  readonly onNotice: (text: string) => void;
}

/** What came of it. */
export interface EvaluationResult {
  readonly loss: number; // nats per token, or per text of a classifier
  readonly perplexity: number;
  /** Share of texts whose class was told; of a classifier alone. */
  readonly accuracy?: number;
  /** Or texts of a classifier. */
  readonly tokens: number;
  readonly sequences: number;
}

/** Measures a model. @throws DataError, ConfigError, EngineError, OperatingError */
export type EvaluateModel = (request: EvaluationRequest) => Promise<EvaluationResult>;

export const evaluateModel: EvaluateModel = async (request) => {
  const { folder, onNotice } = request;
  using opened = await openModel(folder, request.threads, request.device);
  const { config } = opened.model;
  const dataset = await openDataset(request, isClassifier(config) ? config.labels : undefined);
  try {
    for (const text of dataset.notices) onNotice(text);
    if (dataset.tokenizer.json !== opened.tokenizer.json) {
      const reason = 'has the text changed since the run began? --data PATH measures any text';
      throw new DataError(
        folder.path,
        `the text of the run now gives another tokenizer than ${folder.path} has: ${reason}`,
      );
    }
    const source = request.dataPath === null ? dataset.validation : dataset.train;
    if (source === null || source.count === 0) {
      const what = request.dataPath ?? 'the held-out text of the run';
      throw new DataError(what, `${what} has less than one sequence of ${request.sequenceLength} tokens`);
    }
    return await measure(opened.model, source, request);
  } finally {
    await dataset.close();
  }
};

function openDataset(request: EvaluationRequest, labels: readonly string[] | undefined): Promise<Dataset> {
  const { folder, dataPath, cacheDir, onProgress } = request;
  const options = { seqLen: request.sequenceLength, labels, onProgress };
  if (dataPath === null && folder.config !== null) {
    const { data, tokenizer } = folder.config;
    return prepareDataset({
      ...options,
      data: dataOptions(data),
      tokenizer,
      cacheDir: data.cache_dir ?? join(cacheDir, 'tokens'),
    });
  }
  return prepareDataset({
    ...options,
    cacheDir: join(cacheDir, 'tokens'),
    data: { path: dataPath ?? folder.path, format: 'auto', validation_fraction: 0 },
    tokenizer: { vocab_size: 257, ...(folder.tokenizer ?? { type: 'file', path: folder.path }) },
  });
}

async function measure(
  model: AnyModel,
  source: SequenceSource,
  { maxSequences, batchSequences, sequenceLength, onProgress }: EvaluationRequest,
): Promise<EvaluationResult> {
  const count = maxSequences === 0 ? source.count : Math.min(maxSequences, source.count);
  const parts: LossSum[] = [];
  for (let start = 0; start < count; start += batchSequences) {
    onProgress('measuring', start / count);
    const indices = Array.from({ length: Math.min(batchSequences, count - start) }, (_, i) => start + i);
    const sequences = await readSequences(source, indices, indices, sequenceLength);
    parts.push(measureLoss(model, toBatches(sequences, batchSequences)));
    await setImmediate(); // the engine blocks: let signals in
  }
  const { lossSum, tokens, correct = 0 } = addLosses(parts);
  const loss = lossSum / tokens;
  const accuracy = isClassifier(model.config) ? { accuracy: correct / tokens } : {};
  return { loss, perplexity: Math.exp(loss), ...accuracy, tokens, sequences: count };
}
