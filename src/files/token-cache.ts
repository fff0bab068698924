/**
 * Token ids on disk, so that data are tokenised once. One folder per data set: `header.json`, for each
 * part `PART.tokens` (uint16 or uint32 ids, little-endian) and, where some tokens are no targets,
 * `PART.mask` (a byte a token), and `tokenizer.json`. Node cannot map files into memory: ids are read
 * at positions, from the page cache of the system.
 */
import { open, readFile, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { DataError } from '../errors.ts';
import type { LabelledRows } from '../protocol/messages.ts';
import { explainWriteFailure, writeCacheFolder, writeNewFile } from './cache-folder.ts';

/** Raise it when the same data would give other files. */
export const TOKEN_CACHE_VERSION = 1;

const BUFFERED_TOKENS = 1 << 18;
const MAX_UINT16_VOCAB = 65536;
/** Read at a time when looking for sequences without a label. */
const MASK_PIECE_BYTES = 1 << 20;

/** The two token streams of a data set. */
export type PartName = 'train' | 'validation';

/** What header.json holds. */
export interface TokenCacheHeader {
  readonly version: typeof TOKEN_CACHE_VERSION;
  readonly key: string;
  readonly bytesPerToken: 2 | 4;
  readonly hasMask: boolean;
  readonly vocabSize: number;
  readonly documents: number;
  readonly tokens: Readonly<Record<PartName, number>>;
  readonly notices: readonly string[];
}

/** Sequences as they are read. */
export interface SequenceRows {
  /** [k, seqLen + 1]: labels are the inputs shifted by one; with `labelled` [k, seqLen]. */
  readonly tokens: Int32Array;
  /** [k, seqLen], 1 where the label counts; null: all count. */
  readonly mask: Uint8Array | null;
  /** Of examples with a label for the whole. */
  readonly labelled?: LabelledRows;
}

/** Sequences of one part: without a mask, number k covers tokens k * seqLen to (k + 1) * seqLen inclusive. */
export interface SequenceSource {
  /** Number of sequences. */
  readonly count: number;
  read(indices: readonly number[]): Promise<SequenceRows>;
}

/** A complete token cache, open for reading. */
export interface TokenCache {
  readonly header: TokenCacheHeader;
  readonly tokenizerJson: string | null;
  /**
   * The sequences of a part, without those in which no label counts: a trainer could do nothing with
   * one, and it would come back for ever. `read` throws RangeError for an index out of range.
   */
  sequences(part: PartName, seqLen: number): Promise<SequenceSource>;
  close(): Promise<void>;
}

/** Opens the cache of `key`; null where there is none or it is damaged, which `onDamage` is told. */
export async function openTokenCache(
  cacheDir: string,
  key: string,
  onDamage: (reason: string) => void,
): Promise<TokenCache | null> {
  const folder = join(cacheDir, key);
  const opened: FileHandle[] = [];
  try {
    const header = JSON.parse(await readFile(join(folder, 'header.json'), 'utf8')) as TokenCacheHeader;
    if (header.version !== TOKEN_CACHE_VERSION || header.key !== key)
      throw new Error('its header is of another data set');
    const files = {} as Record<PartName, { tokens: FileHandle; mask: FileHandle | null }>;
    for (const part of ['train', 'validation'] as const) {
      const count = header.tokens[part];
      const openChecked = async (name: string, bytes: number): Promise<FileHandle> => {
        const handle = await open(join(folder, name), 'r');
        opened.push(handle);
        const { size } = await handle.stat();
        if (size !== bytes) throw new Error(`${name} has ${size} bytes instead of ${bytes}`);
        return handle;
      };
      const tokens = await openChecked(`${part}.tokens`, count * header.bytesPerToken);
      files[part] = { tokens, mask: header.hasMask ? await openChecked(`${part}.mask`, count) : null };
    }
    const tokenizerJson = await readFile(join(folder, 'tokenizer.json'), 'utf8').catch(() => null);
    return {
      header,
      tokenizerJson,
      sequences: (part, seqLen) =>
        createSequences(
          { ...files[part], tokenCount: header.tokens[part], path: join(folder, part) },
          header,
          seqLen,
        ),
      close: async () => {
        await Promise.all(opened.map((handle) => handle.close()));
      },
    };
  } catch (error) {
    await Promise.all(opened.map((handle) => handle.close()));
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') onDamage((error as Error).message);
    return null;
  }
}

interface PartFiles {
  readonly tokens: FileHandle;
  readonly mask: FileHandle | null;
  readonly tokenCount: number;
  readonly path: string;
}

async function createSequences(
  files: PartFiles,
  header: TokenCacheHeader,
  seqLen: number,
): Promise<SequenceSource> {
  const total = Math.max(0, Math.floor((files.tokenCount - 1) / seqLen));
  const usable = files.mask === null ? null : await findUsable(files, total, seqLen);
  const count = usable?.length ?? total;
  const width = seqLen + 1;
  const readOne = async (
    number: number,
    row: number,
    tokens: Int32Array,
    mask: Uint8Array | null,
  ): Promise<void> => {
    if (!Number.isInteger(number) || number < 0 || number >= count) {
      throw new RangeError(`there is no sequence ${number}: the part has ${count}`);
    }
    const index = usable?.[number] ?? number;
    const ids = header.bytesPerToken === 2 ? new Uint16Array(width) : new Uint32Array(width);
    await readFully(
      files.tokens,
      new Uint8Array(ids.buffer),
      index * seqLen * header.bytesPerToken,
      files.path,
    );
    tokens.set(ids, row * width);
    if (mask !== null && files.mask !== null) {
      const labels = mask.subarray(row * seqLen, (row + 1) * seqLen);
      await readFully(files.mask, labels, index * seqLen + 1, files.path); // a label is the token after its input
    }
  };
  return {
    count,
    async read(indices) {
      const tokens = new Int32Array(indices.length * width);
      const mask = header.hasMask ? new Uint8Array(indices.length * seqLen) : null;
      await Promise.all(indices.map((index, row) => readOne(index, row, tokens, mask)));
      return { tokens, mask };
    },
  };
}

/** Which of `total` sequences have a label that counts, ascending. */
async function findUsable(files: PartFiles, total: number, seqLen: number): Promise<Uint32Array> {
  const usable: number[] = [];
  const perPiece = Math.max(1, Math.floor(MASK_PIECE_BYTES / seqLen));
  for (let start = 0; start < total; start += perPiece) {
    const end = Math.min(total, start + perPiece);
    const labels = new Uint8Array((end - start) * seqLen);
    await readFully(files.mask!, labels, start * seqLen + 1, files.path);
    for (let index = start; index < end; index++) {
      const from = (index - start) * seqLen;
      if (labels.subarray(from, from + seqLen).includes(1)) usable.push(index);
    }
  }
  return Uint32Array.from(usable);
}

async function readFully(
  handle: FileHandle,
  into: Uint8Array,
  position: number,
  path: string,
): Promise<void> {
  for (let done = 0; done < into.length;) {
    const { bytesRead } = await handle.read(into, done, into.length - done, position + done);
    if (bytesRead === 0)
      throw new DataError(path, `${path}: the token cache became shorter while it was in use`);
    done += bytesRead;
  }
}

/** Writes one part of a cache. Ids are checked by the caller's tokenizer, not here. */
export interface PartWriter {
  readonly count: number;
  append(ids: Int32Array, isTarget: boolean): Promise<void>;
}

/** What a cache is made of, apart from its tokens. */
export interface TokenCacheContent {
  readonly key: string;
  readonly vocabSize: number;
  readonly hasMask: boolean;
  readonly tokenizerJson: string | null;
}

/**
 * Writes a cache: `fill` appends the tokens and returns the facts for the header. Nothing is left
 * behind under the cache's name unless all of it was written.
 * @throws OperatingError where the disk refuses.
 */
export async function writeTokenCache(
  cacheDir: string,
  content: TokenCacheContent,
  fill: (
    parts: Readonly<Record<PartName, PartWriter>>,
  ) => Promise<Pick<TokenCacheHeader, 'documents' | 'notices'>>,
): Promise<void> {
  const bytesPerToken = content.vocabSize <= MAX_UINT16_VOCAB ? 2 : 4;
  await writeCacheFolder(cacheDir, content.key, async (folder) => {
    const files: PartFile[] = [];
    try {
      const openPart = async (part: PartName): Promise<PartFile> => {
        const file = await PartFile.create(join(folder, part), bytesPerToken, content.hasMask);
        files.push(file);
        return file;
      };
      const parts = { train: await openPart('train'), validation: await openPart('validation') };
      const facts = await fill(parts);
      const tokens = { train: parts.train.count, validation: parts.validation.count };
      for (const file of files) await file.finish();
      const { key, vocabSize, hasMask } = content;
      const header: TokenCacheHeader = {
        version: TOKEN_CACHE_VERSION,
        key,
        bytesPerToken,
        hasMask,
        vocabSize,
        tokens,
        ...facts,
      };
      if (content.tokenizerJson !== null)
        await writeNewFile(join(folder, 'tokenizer.json'), content.tokenizerJson);
      await writeNewFile(join(folder, 'header.json'), `${JSON.stringify(header, null, 2)}\n`);
    } finally {
      for (const file of files) await file.close();
    }
  });
}

/** The files of one part, written through a buffer. */
class PartFile implements PartWriter {
  readonly #path: string;
  readonly #tokenFile: FileHandle;
  readonly #maskFile: FileHandle | null;
  readonly #tokens: Uint16Array | Uint32Array;
  readonly #mask: Uint8Array;
  #buffered = 0;
  #written = 0;

  private constructor(
    path: string,
    tokenFile: FileHandle,
    maskFile: FileHandle | null,
    bytesPerToken: 2 | 4,
  ) {
    this.#path = path;
    this.#tokenFile = tokenFile;
    this.#maskFile = maskFile;
    this.#tokens = bytesPerToken === 2 ? new Uint16Array(BUFFERED_TOKENS) : new Uint32Array(BUFFERED_TOKENS);
    this.#mask = new Uint8Array(BUFFERED_TOKENS);
  }

  static async create(path: string, bytesPerToken: 2 | 4, hasMask: boolean): Promise<PartFile> {
    const openNew = (name: string): Promise<FileHandle> => explainWriteFailure(name, () => open(name, 'wx'));
    const tokenFile = await openNew(`${path}.tokens`);
    return new PartFile(path, tokenFile, hasMask ? await openNew(`${path}.mask`) : null, bytesPerToken);
  }

  get count(): number {
    return this.#written + this.#buffered;
  }

  async append(ids: Int32Array, isTarget: boolean): Promise<void> {
    for (let done = 0; done < ids.length;) {
      const end = Math.min(ids.length, done + BUFFERED_TOKENS - this.#buffered);
      this.#tokens.set(ids.subarray(done, end), this.#buffered);
      this.#mask.fill(isTarget ? 1 : 0, this.#buffered, this.#buffered + end - done);
      this.#buffered += end - done;
      done = end;
      if (this.#buffered === BUFFERED_TOKENS) await this.#flush();
    }
  }

  async finish(): Promise<void> {
    await this.#flush();
    await explainWriteFailure(this.#path, async () => {
      await this.#tokenFile.sync();
      await this.#maskFile?.sync();
    });
  }

  async close(): Promise<void> {
    await this.#tokenFile.close();
    await this.#maskFile?.close();
  }

  async #flush(): Promise<void> {
    const tokens = this.#tokens.subarray(0, this.#buffered);
    await explainWriteFailure(this.#path, async () => {
      await this.#tokenFile.writeFile(new Uint8Array(tokens.buffer, 0, tokens.byteLength));
      await this.#maskFile?.writeFile(this.#mask.subarray(0, this.#buffered));
    });
    this.#written += this.#buffered;
    this.#buffered = 0;
  }
}
