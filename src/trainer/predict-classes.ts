/** Tells the classes of texts with the model in a folder. SHELL. */
import { setImmediate } from 'node:timers/promises';
import { exampleEncoder } from '../files/example-encoding.ts';
import { longestText } from '../model/bert-config.ts';
import type { ReadyDevice } from './engine/ready-device.ts';
import { UNKNOWN_CLASS, type ClassBatch } from './model/batch.ts';
import { softmax } from './model/layers/classification-head.ts';
import { openClassifier, type ModelFolder } from './open-model.ts';

/** The texts, and how they are read. */
export interface PredictionRequest {
  readonly folder: ModelFolder;
  readonly texts: readonly string[];
  /** Tokens of a text at most: the end of a longer one is not read. */
  readonly sequenceLength: number;
  readonly batchSequences: number;
  readonly threads: number;
  readonly device?: ReadyDevice | undefined;
  /** Called for each text, in their order. */
  readonly onPrediction: (prediction: Prediction) => void;
}

/** What the model makes of one text. */
export interface Prediction {
  readonly text: string;
  readonly label: string;
  /** By label, in the order of the classes; they add up to 1. */
  readonly probabilities: Readonly<Record<string, number>>;
}

/** Predicts. @throws DataError, ConfigError, EngineError */
export type PredictClasses = (request: PredictionRequest) => Promise<void>;

export const predictClasses: PredictClasses = async (request) => {
  const { texts, batchSequences } = request;
  using opened = await openClassifier(request.folder, request.threads, request.device);
  const { model } = opened;
  const { labels } = model.config;
  const { encode } = exampleEncoder(opened.tokenizer);
  const length = Math.min(request.sequenceLength, longestText(model.config));
  for (let start = 0; start < texts.length; start += batchSequences) {
    const part = texts.slice(start, start + batchSequences);
    const logits = model.logits(batchOf(part.map((text) => encode(text, length))));
    const values = logits.dataSync<'float32'>();
    logits.dispose();
    for (const [index, text] of part.entries()) {
      const row = values.subarray(index * labels.length, (index + 1) * labels.length);
      const { probabilities } = softmax(row);
      const best = row.indexOf(Math.max(...row));
      request.onPrediction({
        text,
        label: labels[best]!,
        probabilities: Object.fromEntries(labels.map((label, at) => [label, probabilities[at]!])),
      });
    }
    await setImmediate(); // the engine blocks: let signals in
  }
};

/** Rows of the longest text's length. */
function batchOf(rows: readonly Int32Array[]): ClassBatch {
  const length = Math.max(...rows.map((row) => row.length));
  const ids = new Int32Array(rows.length * length);
  rows.forEach((row, index) => ids.set(row, index * length));
  return {
    ids,
    classes: new Int32Array(rows.length).fill(UNKNOWN_CLASS),
    lengths: Int32Array.from(rows, (row) => row.length),
    sequences: rows.length,
    length,
  };
}
