/**
 * Data as training needs them: sequences of token ids, for training and held out. Lists the files,
 * reads them once to decide the split, trains or loads the tokenizer, tokenises into the token cache,
 * and answers reads from there. With the cache in place only the hashes of the files are computed.
 * The rules (documents, split, sequences) are in docs/data.md.
 */
import { createHash } from 'node:crypto';
import type { RunConfig } from '../config/schema.ts';
import { ConfigError, DataError, OperatingError } from '../errors.ts';
import { BadLines } from './bad-lines.ts';
import { BPE_TRAINER_VERSION, trainBpe } from './bpe-trainer.ts';
import { removeCacheFolder } from './cache-folder.ts';
import { prepareExamples } from './examples.ts';
import { pieceHash, pieceLengthOf, readPieces, type HashedSource, type Piece } from './documents.ts';
import {
  chooseHoldout,
  emptyTally,
  MAX_PIECE_LENGTH,
  needsPieces,
  splitPieceLength,
  tallyUnit,
} from './holdout.ts';
import { progressMeter, type OnProgress } from './progress-meter.ts';
import { listSources, type Source } from './sources.ts';
import { hashFile } from './text.ts';
import {
  openTokenCache,
  TOKEN_CACHE_VERSION,
  writeTokenCache,
  type PartName,
  type PartWriter,
  type SequenceSource,
  type TokenCache,
  type TokenCacheHeader,
} from './token-cache.ts';
import { byteTokenizer, loadTokenizer, parseTokenizer, type Tokenizer } from './tokenizer.ts';

export type { SequenceSource } from './token-cache.ts';

/** Text beyond it no longer changes the merges much: every n-th piece is used instead. */
const MAX_BPE_TEXT_LENGTH = 200_000_000;

export type { OnProgress } from './progress-meter.ts';

/** Where the texts are. */
export interface DataOptions extends Pick<
  RunConfig['data'],
  'format' | 'validation_path' | 'validation_fraction'
> {
  readonly path: string | readonly string[];
}

/** What `prepareDataset` needs. */
export interface DatasetOptions {
  readonly data: DataOptions;
  /** Given where whole texts are classified: `task.labels`. Then the data are JSONL of {"text", "label"}. */
  readonly labels?: readonly string[] | undefined;
  /** What the run file says of it, or one that is there already. */
  readonly tokenizer: RunConfig['tokenizer'] | Tokenizer;
  readonly seqLen: number;
  /** Lines of JSONL that cannot be used are left out, counted in `notices`, instead of an error. */
  readonly skipBadLines?: boolean;
  /** What errors call `data.path`. */
  readonly pathField?: string;
  /** Where token caches are kept; made if it does not exist. */
  readonly cacheDir: string;
  readonly onProgress: OnProgress;
}

/** Tokenised data, open for reading. */
export interface Dataset {
  readonly tokenizer: Tokenizer;
  readonly train: SequenceSource;
  /** Null where nothing is held out, or less than one sequence (then `notices` says so). */
  readonly validation: SequenceSource | null;
  /** The same for the same texts, tokenizer and split, wherever the files are. */
  readonly fingerprint: string;
  /** Texts, or lines of JSONL. */
  readonly documents: number;
  readonly trainTokens: number;
  readonly validationTokens: number;
  /** What the user should know, one sentence each. */
  readonly notices: readonly string[];
  close(): Promise<void>;
}

/**
 * Opens the data of a run, tokenising them first where that has not been done.
 * @throws DataError, ConfigError for files or settings that cannot be used; OperatingError for the disk.
 */
export async function prepareDataset(options: DatasetOptions): Promise<Dataset> {
  const given = givenTokenizer(options.tokenizer);
  if (options.labels !== undefined) return labelledDataset(options, options.labels, given);
  const notices: string[] = [];
  const files = await findFiles(options, notices);
  const key = cacheKey(options, files, given);
  let isDamaged = false;
  const onDamage = (reason: string): void => {
    isDamaged = true;
    notices.push(`the token cache ${key} was damaged (${reason}) and is made anew`);
  };
  let cache = await openTokenCache(options.cacheDir, key, onDamage);
  if (cache === null) {
    if (isDamaged) await removeCacheFolder(options.cacheDir, key);
    await buildCache(options, files, given, key);
    cache = await openTokenCache(options.cacheDir, key, onDamage);
  }
  if (cache === null)
    throw new OperatingError(`the token cache ${key} cannot be read back: ${notices.at(-1)}`);
  try {
    return await openDataset(options, cache, given ?? trainedTokenizer(cache), notices);
  } catch (error) {
    await cache.close();
    throw error;
  }
}

async function labelledDataset(
  { data, skipBadLines = false, pathField = 'data.path', ...options }: DatasetOptions,
  labels: readonly string[],
  tokenizer: Tokenizer | null,
): Promise<Dataset> {
  if (tokenizer === null) {
    throw new ConfigError('tokenizer.type is bpe; to classify texts it must be file or byte', [
      { field: 'tokenizer.type', value: 'bpe', allowed: 'file or byte' },
    ]);
  }
  const { train, validation, ...examples } = await prepareExamples({
    ...options,
    path: data.path,
    validationPath: data.validation_path,
    validationFraction: data.validation_fraction,
    labels,
    tokenizer,
    skipBadLines,
    pathField,
  });
  return {
    ...examples,
    tokenizer,
    train,
    validation: validation.count > 0 ? validation : null,
    documents: train.count + validation.count,
    trainTokens: train.tokens,
    validationTokens: validation.tokens,
  };
}

interface DataFiles {
  readonly train: readonly HashedSource[];
  readonly validation: readonly HashedSource[];
}

async function findFiles(options: DatasetOptions, notices: string[]): Promise<DataFiles> {
  const { path, format, validation_path: validationPath } = options.data;
  const train = await listSources(path, format, options.pathField ?? 'data.path');
  const validation =
    validationPath === undefined
      ? { sources: [], notices: [] }
      : await listSources(validationPath, format, 'data.validation_path');
  notices.push(...train.notices, ...validation.notices);
  const sources = [...train.sources, ...validation.sources];
  const report = progressMeter(options.onProgress, 'Reading the data', totalBytes(sources));
  const hashed: HashedSource[] = [];
  for (const source of sources) hashed.push({ ...source, sha256: await hashFile(source.path, report) });
  const split = train.sources.length;
  const files = { train: hashed.slice(0, split), validation: hashed.slice(split) };
  const trainHashes = new Set(files.train.map((source) => source.sha256));
  for (const source of files.validation) {
    if (trainHashes.has(source.sha256))
      notices.push(`the held-out file ${source.path} is in the training data too`);
  }
  return files;
}

/** The tokenizer that does not depend on the data; null where it is trained on them. */
function givenTokenizer(tokenizer: DatasetOptions['tokenizer']): Tokenizer | null {
  if ('encode' in tokenizer) return tokenizer;
  if (tokenizer.type === 'bpe') return null;
  if (tokenizer.type === 'byte') return byteTokenizer();
  if (tokenizer.path === undefined) {
    throw new ConfigError('tokenizer.type is file, and tokenizer.path is missing', [
      { field: 'tokenizer.path', value: 'nothing', allowed: 'a tokenizer.json, or the folder that holds it' },
    ]);
  }
  return loadTokenizer(tokenizer.path);
}

function trainedTokenizer(cache: TokenCache): Tokenizer {
  return parseTokenizer(cache.tokenizerJson ?? '', `the tokenizer of the token cache ${cache.header.key}`);
}

/** Everything the tokens depend on, and nothing else: not names, not dates, not the sequence length. */
function cacheKey(options: DatasetOptions, files: DataFiles, given: Tokenizer | null): string {
  const contents = (sources: readonly HashedSource[]): string[] =>
    sources.map((source) => `${source.format}:${source.sha256}`);
  const tokenizer =
    given === null
      ? { type: 'bpe', version: BPE_TRAINER_VERSION, vocabSize: wantedVocabSize(options) }
      : { type: typeOf(options.tokenizer), json: given.json, eosId: given.eosId };
  const facts = {
    version: TOKEN_CACHE_VERSION,
    train: contents(files.train),
    validation: contents(files.validation),
    heldOutShare: heldOutShare(options, files),
    tokenizer,
    // Where bad lines are an error there is no cache to be mistaken for one without them.
    ...(options.skipBadLines === true ? { skipBadLines: true } : {}),
  };
  return createHash('sha256').update(JSON.stringify(facts)).digest('hex').slice(0, 32);
}

function typeOf(tokenizer: DatasetOptions['tokenizer']): string {
  return 'encode' in tokenizer ? 'file' : tokenizer.type;
}

function wantedVocabSize({ tokenizer }: DatasetOptions): number {
  return 'encode' in tokenizer ? tokenizer.vocabSize : tokenizer.vocab_size;
}

function heldOutShare(options: DatasetOptions, files: DataFiles): number {
  return files.validation.length > 0 ? 0 : options.data.validation_fraction;
}

/** What one reading of the texts tells: how they are split, and how much there is. */
interface Survey {
  readonly documents: number;
  readonly length: number;
  readonly hasMask: boolean;
  readonly pieceLength: number;
  readonly isHeldOut: (piece: Piece) => boolean;
  /** What was left out, one sentence for each file that it concerns. */
  readonly notices: readonly string[];
}

async function survey(options: DatasetOptions, files: DataFiles): Promise<Survey> {
  const share = heldOutShare(options, files);
  const smallPieceLength = splitPieceLength(totalBytes(files.train), share);
  const byDocument = emptyTally();
  const byPiece = emptyTally();
  let documents = 0;
  let length = 0;
  let hasMask = false;
  const sources = [...files.train, ...files.validation];
  const report = progressMeter(options.onProgress, 'Checking the texts', totalBytes(sources));
  const badLines = sources.map(() => new BadLines());
  const read = (source: HashedSource, pieceLength: number): AsyncGenerator<Piece, void, void> =>
    options.skipBadLines === true
      ? readPieces(source, pieceLength, (line) => badLines[sources.indexOf(source)]!.add(line))
      : readPieces(source, pieceLength);
  const countPiece = (piece: Piece): void => {
    if (piece.startsDocument) documents++;
    hasMask ||= piece.segments.some((segment) => !segment.isTarget);
    length += pieceLengthOf(piece);
    report(pieceLengthOf(piece));
  };
  for (const source of files.train) {
    for await (const piece of read(source, smallPieceLength)) {
      countPiece(piece);
      if (share === 0) continue;
      tallyUnit(byDocument, piece.documentHash, pieceLengthOf(piece));
      tallyUnit(byPiece, pieceHash(piece), pieceLengthOf(piece));
    }
  }
  if (documents === 0) throw noText(options, badLines);
  const holdout = chooseHoldout(byDocument, share);
  const splitsPieces = needsPieces(documents, holdout, length, share);
  const { below } = splitsPieces ? chooseHoldout(byPiece, share) : holdout;
  for (const source of files.validation) {
    for await (const piece of read(source, MAX_PIECE_LENGTH)) countPiece(piece);
  }
  return {
    // Without names: the same cache may serve the same files elsewhere.
    notices: badLines.flatMap((lines, index) =>
      lines.count === 0 ? [] : [`${fileOf(index, sources.length)}${lines.describe()}`],
    ),
    documents,
    length,
    hasMask,
    pieceLength: splitsPieces ? smallPieceLength : MAX_PIECE_LENGTH,
    isHeldOut: (piece) => (splitsPieces ? pieceHash(piece) : piece.documentHash) < below,
  };
}

function fileOf(index: number, count: number): string {
  return count === 1 ? '' : `file ${index + 1} of ${count}: `;
}

function noText(options: DatasetOptions, badLines: readonly BadLines[]): DataError {
  const field = options.pathField ?? 'data.path';
  const leftOut = badLines.filter((lines) => lines.count > 0).map((lines) => `; ${lines.describe()}`);
  return new DataError(pathsOf(options.data.path), `${field} holds no text at all${leftOut.join('')}`);
}

async function buildCache(
  options: DatasetOptions,
  files: DataFiles,
  given: Tokenizer | null,
  key: string,
): Promise<void> {
  const plan = await survey(options, files);
  const notices = [...plan.notices];
  const tokenizer = given ?? (await trainTokenizer(options, files, plan, notices));
  const content = {
    key,
    vocabSize: tokenizer.vocabSize,
    hasMask: plan.hasMask,
    tokenizerJson: given === null ? tokenizer.json : null,
  };
  await writeTokenCache(options.cacheDir, content, async (parts) => {
    await tokenise(options, files, plan, tokenizer, parts);
    return { documents: plan.documents, notices };
  });
}

/** The pieces of a file of which the survey has told what is left out. */
function readUsable(
  { skipBadLines }: DatasetOptions,
  source: HashedSource,
  pieceLength: number,
): AsyncGenerator<Piece, void, void> {
  return readPieces(source, pieceLength, skipBadLines === true ? () => {} : undefined);
}

async function trainTokenizer(
  options: DatasetOptions,
  files: DataFiles,
  plan: Survey,
  notices: string[],
): Promise<Tokenizer> {
  const wanted = wantedVocabSize(options);
  const stride = Math.ceil(plan.length / MAX_BPE_TEXT_LENGTH);
  if (stride > 1) notices.push(`the tokenizer was trained on one piece of text in ${stride}`);
  const report = progressMeter(options.onProgress, 'Counting words', plan.length);
  async function* trainingTexts(): AsyncGenerator<string, void, void> {
    let index = 0;
    for (const source of files.train) {
      for await (const piece of readUsable(options, source, plan.pieceLength)) {
        report(pieceLengthOf(piece));
        if (plan.isHeldOut(piece) || index++ % stride !== 0) continue;
        for (const segment of piece.segments) yield segment.text;
      }
    }
  }
  const json = await trainBpe(trainingTexts(), wanted, options.onProgress);
  const tokenizer = parseTokenizer(json, 'the tokenizer trained on the data');
  if (tokenizer.vocabSize < wanted) {
    notices.push(
      `the data gave a tokenizer of ${tokenizer.vocabSize} tokens, fewer than tokenizer.vocab_size (${wanted})`,
    );
  }
  return tokenizer;
}

async function tokenise(
  options: DatasetOptions,
  files: DataFiles,
  plan: Survey,
  tokenizer: Tokenizer,
  writers: Readonly<Record<PartName, PartWriter>>,
): Promise<void> {
  const streams = {
    train: new TokenStream(tokenizer, writers.train),
    validation: new TokenStream(tokenizer, writers.validation),
  };
  const report = progressMeter(options.onProgress, 'Tokenising the data', plan.length);
  const run = async (sources: readonly HashedSource[], partOf: (piece: Piece) => PartName): Promise<void> => {
    let previous: PartName | null = null;
    for (const source of sources) {
      for await (const piece of readUsable(options, source, plan.pieceLength)) {
        const part = partOf(piece);
        // Text that does not go on where this part's text ended counts as a document of its own.
        if (piece.startsDocument || part !== previous) await streams[part].startDocument();
        for (const segment of piece.segments) await streams[part].add(segment.text, segment.isTarget);
        previous = part;
        report(pieceLengthOf(piece));
      }
    }
  };
  await run(files.train, (piece) => (plan.isHeldOut(piece) ? 'validation' : 'train'));
  await run(files.validation, () => 'validation');
  await streams.train.flush();
  await streams.validation.flush();
}

/** Encodes text that arrives in pieces, as few and as long as memory should hold, and puts eos between documents. */
class TokenStream {
  readonly #tokenizer: Tokenizer;
  readonly #writer: PartWriter;
  #text = '';
  #isTarget = true;

  constructor(tokenizer: Tokenizer, writer: PartWriter) {
    this.#tokenizer = tokenizer;
    this.#writer = writer;
  }

  async startDocument(): Promise<void> {
    await this.flush();
    const { eosId } = this.#tokenizer;
    if (eosId !== null && this.#writer.count > 0) await this.#writer.append(Int32Array.of(eosId), true);
  }

  async add(text: string, isTarget: boolean): Promise<void> {
    if (isTarget !== this.#isTarget || this.#text.length + text.length > MAX_PIECE_LENGTH) await this.flush();
    this.#isTarget = isTarget;
    this.#text += text;
  }

  async flush(): Promise<void> {
    if (this.#text.length === 0) return;
    await this.#writer.append(this.#tokenizer.encode(this.#text), this.#isTarget);
    this.#text = '';
  }
}

async function openDataset(
  options: DatasetOptions,
  cache: TokenCache,
  tokenizer: Tokenizer,
  notices: readonly string[],
): Promise<Dataset> {
  const { header } = cache;
  const train = await cache.sequences('train', options.seqLen);
  const validation = await cache.sequences('validation', options.seqLen);
  if (train.count === 0) {
    throw new DataError(
      pathsOf(options.data.path),
      `the training text of ${pathsOf(options.data.path)} has ${header.tokens.train} tokens; one sequence of seq_len ${options.seqLen} needs ${options.seqLen + 1}`,
    );
  }
  return {
    tokenizer,
    train,
    validation: validation.count > 0 ? validation : null,
    fingerprint: header.key,
    documents: header.documents,
    trainTokens: header.tokens.train,
    validationTokens: header.tokens.validation,
    notices: [...notices, ...header.notices, ...validationNotices(options, header, validation.count)],
    close: () => cache.close(),
  };
}

function validationNotices(options: DatasetOptions, header: TokenCacheHeader, count: number): string[] {
  const isWanted = options.data.validation_path !== undefined || options.data.validation_fraction > 0;
  if (!isWanted || count > 0) return [];
  return [
    `there is no validation: the held-out text has ${header.tokens.validation} tokens, and one sequence of seq_len ${options.seqLen} needs ${options.seqLen + 1}`,
  ];
}

function totalBytes(sources: readonly Source[]): number {
  return sources.reduce((sum, source) => sum + source.bytes, 0);
}

/** The data of a run that the coordinator reads. */
export function dataOptions(data: RunConfig['data']): DataOptions {
  const { path } = data;
  if (path === undefined) throw new OperatingError('the data of the run is with its trainers (data.local)');
  return { ...data, path };
}

function pathsOf(path: string | readonly string[]): string {
  return typeof path === 'string' ? path : path.join(', ');
}
