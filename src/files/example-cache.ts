/**
 * Tokenised examples on disk: one folder per data set with `header.json` and, for each part,
 * `PART.examples`: a row an example of `seqLen + 2` numbers, little-endian: how many tokens it has, its class, its
 * ids filled up with the pad id. uint16 where everything fits, else uint32. Rows are read at positions.
 */
import { open, readFile, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { DataError } from '../errors.ts';
import type { LabelledRows } from '../protocol/messages.ts';
import { explainWriteFailure, writeCacheFolder, writeNewFile } from './cache-folder.ts';
import { readFully } from './positional.ts';
import type { PartName, SequenceRows, SequenceSource } from './token-cache.ts';

/** Raise it when the same data would give other files. */
export const EXAMPLE_CACHE_VERSION = 1;

const BUFFERED_NUMBERS = 1 << 18;
/** Numbers of a row before the ids. */
const ROW_HEAD = 2;

/** What there is of a part. */
export interface PartCounts {
  readonly examples: number;
  /** Without padding. */
  readonly tokens: number;
  /** Examples of each class. */
  readonly classes: readonly number[];
}

interface ExampleCacheHeader {
  readonly version: typeof EXAMPLE_CACHE_VERSION;
  readonly kind: 'examples';
  readonly key: string;
  readonly bytesPerNumber: 2 | 4;
  readonly seqLen: number;
  readonly parts: Readonly<Record<PartName, PartCounts>>;
  readonly notices: readonly string[];
}

/** Examples as they are read. */
export interface ExampleRows extends SequenceRows {
  /** [k, seqLen], filled up behind the first `labelled.lengths[i]` of row i. */
  readonly tokens: Int32Array;
  readonly mask: null;
  readonly labelled: LabelledRows;
}

/** The examples of one part. */
export interface ExampleSource extends SequenceSource {
  readonly tokens: number;
  readonly classCounts: readonly number[];
  read(indices: readonly number[]): Promise<ExampleRows>;
}

/** A complete cache, open for reading. */
export interface ExampleCache {
  readonly notices: readonly string[];
  readonly parts: Readonly<Record<PartName, ExampleSource>>;
  close(): Promise<void>;
}

/** Opens the cache of `key`; null where there is none or it is damaged, which `onDamage` is told. */
export async function openExampleCache(
  cacheDir: string,
  key: string,
  onDamage: (reason: string) => void,
): Promise<ExampleCache | null> {
  const folder = join(cacheDir, key);
  const opened: FileHandle[] = [];
  const close = async (): Promise<void> => {
    await Promise.all(opened.map((handle) => handle.close()));
  };
  try {
    const header = JSON.parse(await readFile(join(folder, 'header.json'), 'utf8')) as ExampleCacheHeader;
    if (header.version !== EXAMPLE_CACHE_VERSION || header.kind !== 'examples' || header.key !== key)
      throw new Error('its header is of another data set');
    const openPart = async (part: PartName): Promise<ExampleSource> => {
      const path = join(folder, `${part}.examples`);
      const handle = await open(path, 'r');
      opened.push(handle);
      const { size } = await handle.stat();
      const bytes = header.parts[part].examples * (header.seqLen + ROW_HEAD) * header.bytesPerNumber;
      if (size !== bytes) throw new Error(`${part}.examples has ${size} bytes instead of ${bytes}`);
      return createSource(handle, path, header, header.parts[part]);
    };
    const parts = { train: await openPart('train'), validation: await openPart('validation') };
    return { notices: header.notices, parts, close };
  } catch (error) {
    await close();
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') onDamage((error as Error).message);
    return null;
  }
}

function createSource(
  handle: FileHandle,
  path: string,
  { seqLen, bytesPerNumber }: ExampleCacheHeader,
  { examples: count, tokens, classes }: PartCounts,
): ExampleSource {
  const width = seqLen + ROW_HEAD;
  const readRow = async (index: number): Promise<Uint16Array | Uint32Array> => {
    if (!Number.isInteger(index) || index < 0 || index >= count) {
      throw new RangeError(`there is no example ${index}: the part has ${count}`);
    }
    const row = bytesPerNumber === 2 ? new Uint16Array(width) : new Uint32Array(width);
    const bytes = new Uint8Array(row.buffer);
    if ((await readFully(handle, bytes, index * bytes.length)) < bytes.length)
      throw new DataError(path, `${path}: the token cache became shorter while it was in use`);
    return row;
  };
  return {
    count,
    tokens,
    classCounts: classes,
    async read(indices) {
      const rows = await Promise.all(indices.map(readRow));
      const ids = new Int32Array(indices.length * seqLen);
      for (const [i, row] of rows.entries()) ids.set(row.subarray(ROW_HEAD), i * seqLen);
      return {
        tokens: ids,
        mask: null,
        labelled: {
          lengths: Int32Array.from(rows, (row) => row[0]!),
          classes: Int32Array.from(rows, (row) => row[1]!),
        },
      };
    },
  };
}

/** What a cache is made of, apart from its examples. */
export interface ExampleCacheContent {
  readonly key: string;
  readonly seqLen: number;
  readonly vocabSize: number;
  readonly classCount: number;
  readonly padId: number;
}

/** Takes an example: its ids without padding, at most `seqLen`. */
export type AppendExample = (part: PartName, ids: Int32Array, classIndex: number) => Promise<void>;

/**
 * Writes a cache: `fill` appends the examples and returns the notices. Nothing is left behind under the
 * cache's name unless all of it was written.
 * @throws OperatingError where the disk refuses.
 */
export async function writeExampleCache(
  cacheDir: string,
  content: ExampleCacheContent,
  fill: (append: AppendExample) => Promise<readonly string[]>,
): Promise<void> {
  const { key, seqLen, vocabSize, classCount } = content;
  const bytesPerNumber = Math.max(vocabSize, classCount, seqLen + 1) <= 65536 ? 2 : 4;
  await writeCacheFolder(cacheDir, key, async (folder) => {
    const files: PartFile[] = [];
    try {
      const openPart = async (part: PartName): Promise<PartFile> => {
        const path = join(folder, `${part}.examples`);
        const handle = await explainWriteFailure(path, () => open(path, 'wx'));
        files.push(new PartFile(path, handle, bytesPerNumber, content));
        return files.at(-1)!;
      };
      const parts = { train: await openPart('train'), validation: await openPart('validation') };
      const notices = await fill((part, ids, classIndex) => parts[part].append(ids, classIndex));
      for (const file of files) await file.finish();
      const counts = { train: parts.train.counts(), validation: parts.validation.counts() };
      const header: ExampleCacheHeader = {
        version: EXAMPLE_CACHE_VERSION,
        kind: 'examples',
        key,
        bytesPerNumber,
        seqLen,
        parts: counts,
        notices,
      };
      await writeNewFile(join(folder, 'header.json'), `${JSON.stringify(header, null, 2)}\n`);
    } finally {
      for (const file of files) await file.close();
    }
  });
}

/** The file of one part, written through a buffer of whole rows. */
class PartFile {
  readonly #path: string;
  readonly #handle: FileHandle;
  readonly #width: number;
  readonly #padId: number;
  readonly #buffer: Uint16Array | Uint32Array;
  readonly #classes: number[];
  #used = 0;
  #examples = 0;
  #tokens = 0;

  constructor(path: string, handle: FileHandle, bytesPerNumber: 2 | 4, content: ExampleCacheContent) {
    this.#path = path;
    this.#handle = handle;
    this.#width = content.seqLen + ROW_HEAD;
    this.#padId = content.padId;
    this.#classes = Array.from({ length: content.classCount }, () => 0);
    const length = this.#width * Math.max(1, Math.floor(BUFFERED_NUMBERS / this.#width));
    this.#buffer = bytesPerNumber === 2 ? new Uint16Array(length) : new Uint32Array(length);
  }

  counts(): PartCounts {
    return { examples: this.#examples, tokens: this.#tokens, classes: this.#classes };
  }

  async append(ids: Int32Array, classIndex: number): Promise<void> {
    const row = this.#buffer.subarray(this.#used, this.#used + this.#width);
    row[0] = ids.length;
    row[1] = classIndex;
    row.set(ids, ROW_HEAD);
    row.fill(this.#padId, ROW_HEAD + ids.length);
    this.#used += this.#width;
    this.#examples++;
    this.#tokens += ids.length;
    this.#classes[classIndex]!++;
    if (this.#used === this.#buffer.length) await this.#flush();
  }

  async finish(): Promise<void> {
    await this.#flush();
    await explainWriteFailure(this.#path, () => this.#handle.sync());
  }

  close(): Promise<void> {
    return this.#handle.close();
  }

  async #flush(): Promise<void> {
    const rows = this.#buffer.subarray(0, this.#used);
    await explainWriteFailure(this.#path, () =>
      this.#handle.writeFile(new Uint8Array(rows.buffer, 0, rows.byteLength)),
    );
    this.#used = 0;
  }
}
