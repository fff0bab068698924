/**
 * Writes the curves of a run for TensorBoard: one event file in `tensorboard/` of the run directory. It follows
 * metrics.jsonl and evaluations.jsonl: a run that goes on goes on in its file, without a step twice, and what the file
 * lacks of the lines that are there is written first. A disk that fails costs the curves, not the run. SHELL.
 */
import { mkdir, open, readdir, readFile, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { writeFully } from '../files/positional.ts';
import { explaining } from '../files/system-error.ts';
import type { Logger } from '../log.ts';
import { firstRecord, readEvents, scalarRecord, type Scalar } from '../view/tensorboard.ts';
import type { MetricsLine } from './store/metrics-log.ts';
import { TENSORBOARD_DIR } from './store/run-directory.ts';

/** TensorBoard knows its files by this word. */
const FILE_PATTERN = /^events\.out\.tfevents\.\d+\.galore$/;

/** What a line of metrics.jsonl gives, by tag. */
const TRAIN_TAGS: Readonly<Record<string, string>> = {
  loss: 'train/loss',
  learningRate: 'train/learning_rate',
  gradientNorm: 'train/gradient_norm',
  tokens: 'train/tokens',
  seconds: 'time/step_seconds',
  waitSeconds: 'time/wait_seconds',
  bytesUp: 'traffic/up_bytes',
  bytesDown: 'traffic/down_bytes',
  trainers: 'swarm/trainers',
};
const EVALUATION_TAGS: Readonly<Record<string, string>> = {
  loss: 'validation/loss',
  perplexity: 'validation/perplexity',
  accuracy: 'validation/accuracy',
};

export class TensorBoardLog {
  readonly #handle: FileHandle;
  readonly #path: string;
  readonly #logger: Logger;
  readonly #wallNowMs: () => number;
  #end: number;
  readonly #lastSteps: Record<'train' | 'evaluation', number>;
  #queue: Uint8Array[] = [];
  #writing: Promise<void> | null = null;
  #hasFailed = false;

  private constructor(
    { path, handle, end }: { path: string; handle: FileHandle; end: number },
    lastSteps: Record<'train' | 'evaluation', number>,
    logger: Logger,
    wallNowMs: () => number,
  ) {
    this.#path = path;
    this.#handle = handle;
    this.#end = end;
    this.#lastSteps = lastSteps;
    this.#logger = logger;
    this.#wallNowMs = wallNowMs;
  }

  /**
   * Opens or makes the file of a run that has committed `committedStep` steps; events of later ones are cut off.
   * @throws OperatingError when the system refuses
   */
  static async open(
    dir: string,
    committedStep: number,
    logger: Logger,
    wallNowMs: () => number = () => Date.now(),
  ): Promise<TensorBoardLog> {
    const folder = join(dir, TENSORBOARD_DIR);
    const files = await explaining(
      `write ${folder}`,
      mkdir(folder, { recursive: true }).then(() => readdir(folder)),
    );
    const [name] = files.filter((each) => FILE_PATTERN.test(each)).sort();
    const fresh = `events.out.tfevents.${Math.floor(wallNowMs() / 1000)}.galore`;
    const path = join(folder, name ?? fresh);
    const handle = await explaining(`write ${path}`, open(path, name === undefined ? 'wx+' : 'r+'));
    try {
      const bytes = await explaining(`read ${path}`, readFile(path));
      const lastSteps = { train: 0, evaluation: 0 };
      let end = 0;
      for (const event of readEvents(bytes)) {
        if (event.step > committedStep) break;
        end = event.end;
        const [{ tag } = { tag: '' }] = event.scalars;
        if (tag !== '') lastSteps[tag.startsWith('validation/') ? 'evaluation' : 'train'] = event.step;
      }
      await explaining(`write ${path}`, handle.truncate(end));
      const log = new TensorBoardLog({ path, handle, end }, lastSteps, logger, wallNowMs);
      if (end === 0) log.#add(firstRecord(wallNowMs() / 1000));
      return log;
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  /** A line of metrics.jsonl, in order. */
  addStep(line: MetricsLine): void {
    this.#addLine('train', TRAIN_TAGS, line);
  }

  /** A line of evaluations.jsonl, in order. */
  addEvaluation(line: MetricsLine): void {
    this.#addLine('evaluation', EVALUATION_TAGS, line);
  }

  /** Writes what is not written and closes the file. */
  async close(): Promise<void> {
    await this.#writing;
    await this.#handle.close();
  }

  #addLine(kind: 'train' | 'evaluation', tags: Readonly<Record<string, string>>, line: MetricsLine): void {
    if (line.step <= this.#lastSteps[kind]) return;
    this.#lastSteps[kind] = line.step;
    // Of a line restored from the journal nobody knows times and bytes.
    const isRestored = line['restored'] === true;
    const scalars = Object.entries(tags).flatMap(([field, tag]): Scalar[] => {
      const value = line[field];
      if (typeof value !== 'number' || (isRestored && /^(time|traffic)\//.test(tag))) return [];
      return [{ tag, value }];
    });
    const wallSeconds = this.#wallNowMs() / 1000;
    if (scalars.length > 0) this.#add(scalarRecord({ wallSeconds, step: line.step, scalars }));
  }

  #add(bytes: Uint8Array): void {
    if (this.#hasFailed) return;
    this.#queue.push(bytes);
    this.#writing ??= this.#write().finally(() => (this.#writing = null));
  }

  async #write(): Promise<void> {
    try {
      while (this.#queue.length > 0) {
        const bytes = Buffer.concat(this.#queue);
        this.#queue = [];
        await writeFully(this.#handle, bytes, this.#end);
        this.#end += bytes.length;
      }
    } catch (error) {
      // The file stays a beginning of the curves; the next start writes the rest.
      this.#hasFailed = true;
      this.#queue = [];
      const text = `${this.#path} is given up until the next start: ${(error as Error).message}`;
      this.#logger.warn('tensorboard.failed', {}, text);
    }
  }
}
