/**
 * Contributions that do not fit into memory: in a file without a name, which is gone with the process however that
 * ends. Written and read at once, as the sums are made: it is for the seldom case that a step is larger than
 * `coordinator.staging_memory`. SHELL.
 */
import { closeSync, ftruncateSync, openSync, readSync, unlinkSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { explainSystemError } from '../files/system-error.ts';
import type { StagedTensor } from './staging.ts';
import { isDiskFull } from './store/full-disk.ts';

export class SpillFile {
  readonly #path: string;
  readonly #onFull: (text: string) => void;
  #file: number | null = null;
  #bytes = 0;

  /**
   * @param folder where there is room; nothing is made before something is put there
   * @param onFull called when there is none
   */
  constructor(folder: string, onFull: (text: string) => void = () => {}) {
    this.#path = join(folder, `spill-${process.pid}.tmp`);
    this.#onFull = onFull;
  }

  /** Bytes it holds. */
  get bytes(): number {
    return this.#bytes;
  }

  /**
   * The tensor with its bytes in the file; each use of them reads them. Null: the disk is full, and it has to stay
   * where it is. @throws OperatingError
   */
  put({ codec, bytes }: StagedTensor): StagedTensor | null {
    const [start, { length }] = [this.#bytes, bytes];
    let file: number;
    try {
      file = this.#open();
      this.#write(file, bytes, start);
    } catch (error) {
      if (!isDiskFull(error)) throw error;
      this.#onFull(`${(error as Error).message}; they stay in memory`);
      if (this.#file !== null) ftruncateSync(this.#file, start);
      return null;
    }
    this.#bytes += length;
    const read = (): Uint8Array => this.#read(file, start, length);
    return {
      codec,
      get bytes() {
        return read();
      },
    };
  }

  /** Forgets everything; tensors that were put here cannot be used any more. */
  clear(): void {
    const file = this.#file;
    if (file === null || this.#bytes === 0) return;
    this.#bytes = 0;
    this.#try('empty', () => ftruncateSync(file));
  }

  close(): void {
    if (this.#file !== null) closeSync(this.#file);
    this.#file = null;
  }

  #open(): number {
    this.#file ??= this.#try('make', () => {
      const file = openSync(this.#path, 'w+', 0o600);
      unlinkSync(this.#path);
      return file;
    });
    return this.#file;
  }

  #write(file: number, bytes: Uint8Array, start: number): void {
    this.#try('write', () => {
      for (let done = 0; done < bytes.length;) {
        done += writeSync(file, bytes, done, bytes.length - done, start + done);
      }
    });
  }

  #read(file: number, start: number, length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    this.#try('read', () => {
      for (let done = 0; done < length;) {
        const count = readSync(file, bytes, done, length - done, start + done);
        if (count === 0) throw new Error(`${this.#path} ends after ${start + done} bytes`);
        done += count;
      }
    });
    return bytes;
  }

  #try<T>(what: string, work: () => T): T {
    try {
      return work();
    } catch (error) {
      throw explainSystemError(
        error,
        `${what} ${this.#path}, for contributions beyond coordinator.staging_memory`,
      );
    }
  }
}
