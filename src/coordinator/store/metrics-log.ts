/**
 * metrics.jsonl: one JSON object a line, one line for each committed step, in order of step. Written
 * for people and plots; nothing is restored from it.
 */
import { open } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { readFully, writeFully } from '../../files/positional.ts';
import { explaining, systemErrorCode } from '../../files/system-error.ts';

const PIECE_BYTES = 256 * 1024;
/** A longer line is not one of ours. */
const MAX_LINE_BYTES = 1024 * 1024;
const NEWLINE = 0x0a;

/** A line of metrics: at least the step, usually many numbers more. */
export interface MetricsLine {
  readonly step: number;
  readonly [field: string]: unknown;
}

/** A line as found in the file. `value` is null when it is not a JSON object with a step. */
interface FoundLine {
  readonly value: MetricsLine | null;
  /** Where it ends, its newline included. */
  readonly end: number;
}

export class MetricsLog {
  readonly path: string;
  readonly #handle: FileHandle;
  #end: number;
  #lastStep: number;
  readonly #onLine: (line: MetricsLine) => void;
  #idle: Promise<unknown> = Promise.resolve();

  private constructor(
    path: string,
    handle: FileHandle,
    end: number,
    lastStep: number,
    onLine: (line: MetricsLine) => void,
  ) {
    this.path = path;
    this.#handle = handle;
    this.#end = end;
    this.#lastStep = lastStep;
    this.#onLine = onLine;
  }

  /**
   * Opens or creates the log of a run that has committed `committedStep` steps. Lines of later steps
   * are cut off: these steps will be made again. So is half a line at the end. `onLine` is told
   * every line that is kept, and then every one that is written.
   * @throws OperatingError when the system refuses.
   */
  static async open(
    path: string,
    committedStep: number,
    onLine: (line: MetricsLine) => void = () => {},
  ): Promise<MetricsLog> {
    const handle = await explaining(`write ${path}`, openOrCreate(path));
    try {
      let end = 0;
      let lastStep = 0;
      for await (const line of readLines(handle, path)) {
        if (line.value === null) continue;
        if (line.value.step > committedStep) break;
        end = line.end;
        lastStep = line.value.step;
        onLine(line.value);
      }
      await explaining(`write ${path}`, handle.truncate(end));
      return new MetricsLog(path, handle, end, lastStep, onLine);
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  /** Step of the last line; 0: none. Less than the committed step when a crash came before the line. */
  get lastStep(): number {
    return this.#lastStep;
  }

  /**
   * Writes and syncs a line.
   * @throws OperatingError when the disk is full or fails; the file is as before then.
   */
  append(line: MetricsLine): Promise<void> {
    return this.appendAll([line]);
  }

  /** Lines in order of step, synced once. @throws as `append` */
  appendAll(lines: readonly MetricsLine[]): Promise<void> {
    const last = lines.at(-1);
    if (last === undefined) return Promise.resolve();
    const write = async (): Promise<void> => {
      const bytes = Buffer.from(lines.map((line) => `${JSON.stringify(line)}\n`).join(''), 'utf8');
      try {
        await writeFully(this.#handle, bytes, this.#end);
        await this.#handle.datasync();
      } catch (error) {
        await this.#handle.truncate(this.#end).catch(() => {});
        await explaining(`append to ${this.path}`, Promise.reject(error as Error));
      }
      this.#end += bytes.length;
      this.#lastStep = last.step;
      lines.forEach((line) => this.#onLine(line));
    };
    const result = this.#idle.then(write);
    this.#idle = result.catch(() => {});
    return result;
  }

  /** Waits for the lines under way and closes the file. */
  async close(): Promise<void> {
    await this.#idle;
    await this.#handle.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** The lines of a metrics file, those that are not one left out. None when there is no file. */
export async function* readMetrics(path: string): AsyncGenerator<MetricsLine, void, void> {
  let handle: FileHandle;
  try {
    handle = await open(path, 'r');
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return;
    return await explaining(`read ${path}`, Promise.reject(error as Error));
  }
  try {
    for await (const { value } of readLines(handle, path)) if (value !== null) yield value;
  } finally {
    await handle.close();
  }
}

async function openOrCreate(path: string): Promise<FileHandle> {
  try {
    return await open(path, 'r+');
  } catch (error) {
    if (systemErrorCode(error) !== 'ENOENT') throw error;
    return await open(path, 'wx+');
  }
}

/** Lines that end with a newline, one after the other; what follows the last newline is left out. */
async function* readLines(handle: FileHandle, path: string): AsyncGenerator<FoundLine, void, void> {
  const piece = Buffer.allocUnsafe(PIECE_BYTES);
  let rest: Buffer = Buffer.alloc(0);
  let position = 0;
  for (;;) {
    const done = await explaining(`read ${path}`, readFully(handle, piece, position));
    const bytes = Buffer.concat([rest, piece.subarray(0, done)]);
    const start = position - rest.length;
    position += done;
    let from = 0;
    for (let at = bytes.indexOf(NEWLINE); at !== -1; at = bytes.indexOf(NEWLINE, from)) {
      yield { value: parseLine(bytes.toString('utf8', from, at)), end: start + at + 1 };
      from = at + 1;
    }
    rest = bytes.subarray(from);
    if (done < PIECE_BYTES) return;
    // Keeps the distance to the next newline right though the line itself is given up.
    if (rest.length > MAX_LINE_BYTES) rest = Buffer.alloc(0);
  }
}

/** Null when it is not a JSON object with a step. */
export function parseLine(text: string): MetricsLine | null {
  try {
    const value = JSON.parse(text) as { step?: unknown } | null;
    return typeof value?.step === 'number' ? (value as MetricsLine) : null;
  } catch {
    return null;
  }
}
