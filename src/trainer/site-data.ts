/**
 * The data of a site: read, tokenised and kept where the trainer runs. Nothing here is meant to be sent: not
 * the texts, not their tokens, not names of files, and not the notices and errors, which quote them.
 */
import { mkdir } from 'node:fs/promises';
import { explainWriteFailure } from '../files/cache-folder.ts';
import { prepareDataset, type OnProgress, type SequenceSource } from '../files/dataset.ts';
import { siteOrder } from '../files/order.ts';
import { readSequences } from '../files/sequences.ts';
import type { Tokenizer } from '../files/tokenizer.ts';
import type { Sequences } from '../protocol/messages.ts';

/** What `openSiteData` needs. */
export interface SiteDataOptions {
  /** A file or folder: JSONL of {"text", "label"} to classify, else whatever data.path may be. */
  readonly path: string;
  /** What errors call `path`; `--data` unless given. */
  readonly pathField?: string;
  readonly task: { readonly labels?: readonly string[] | undefined };
  /** The run's. */
  readonly tokenizer: Tokenizer;
  readonly seqLen: number;
  /** Share that is held out here, by the hash of its content. */
  readonly validationFraction: number;
  /** Where tokens are kept; made readable by its user alone if it does not exist. */
  readonly cacheDir: string;
  readonly skipBadLines: boolean;
  /** The run's. */
  readonly seed: number;
  readonly onProgress: OnProgress;
}

/** A site's data, open for training. */
export interface SiteData {
  /** Examples to train on: labelled ones, or sequences of `seqLen`. */
  readonly trainExamples: number;
  /** Tokens of these, without padding. */
  readonly trainTokens: number;
  readonly validationExamples: number;
  /** What the site's user should know, one sentence each. They name files: not to be sent. */
  readonly notices: readonly string[];
  /** The sequences of all `localSteps` optimizer steps of step `step` (from 1), `batch` each, in order. */
  sequencesOf(step: number, localSteps: number, batch: number): Promise<Sequences>;
  /** What is held out, `batch` sequences at a time; nothing where nothing is. */
  validation(batch: number): AsyncGenerator<Sequences, void, void>;
  close(): Promise<void>;
}

/**
 * Opens a site's data, tokenising them first where that has not been done.
 * @throws DataError, ConfigError for files or settings that cannot be used; OperatingError for the disk.
 */
export async function openSiteData(options: SiteDataOptions): Promise<SiteData> {
  const { path, pathField = '--data', task, validationFraction, seqLen, seed, ...rest } = options;
  await explainWriteFailure(rest.cacheDir, () => mkdir(rest.cacheDir, { recursive: true, mode: 0o700 }));
  const dataset = await prepareDataset({
    ...rest,
    seqLen,
    pathField,
    data: { path, format: 'auto', validation_fraction: validationFraction },
    labels: task.labels,
  });
  const { train, validation, trainTokens, notices } = dataset;
  const orderOf = siteOrder(seed, train.count);
  return {
    trainExamples: train.count,
    trainTokens,
    validationExamples: validation?.count ?? 0,
    notices,
    sequencesOf(step, localSteps, batch) {
      // The places of local steps follow each other, so those of a step are those of one large batch.
      const indices = orderOf(step - 1, localSteps * batch);
      const first = (step - 1) * localSteps * batch;
      return readSequences(
        train,
        indices,
        indices.map((_, i) => first + i),
        seqLen,
      );
    },
    validation: (batch) => inOrder(validation, batch, seqLen),
    close: () => dataset.close(),
  };
}

async function* inOrder(
  source: SequenceSource | null,
  batch: number,
  seqLen: number,
): AsyncGenerator<Sequences, void, void> {
  const count = source?.count ?? 0;
  for (let start = 0; start < count; start += batch) {
    const indices = Array.from({ length: Math.min(batch, count - start) }, (_, i) => start + i);
    yield readSequences(source!, indices, indices, seqLen);
  }
}
