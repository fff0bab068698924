/**
 * Labelled examples as training needs them: rows of token ids with their classes, for training and held
 * out. Reads JSONL files of {"text", "label"} twice, once to check them and to decide the split, once to tokenise
 * them into a cache of their own; with the cache in place only the hashes of the files are computed. Memory does not
 * grow with the files. The rules are in docs/data.md, "Labelled examples".
 */
import { createHash } from 'node:crypto';
import { ConfigError, DataError, OperatingError } from '../errors.ts';
import { BadLines } from './bad-lines.ts';
import { removeCacheFolder } from './cache-folder.ts';
import { hashText, type HashedSource } from './documents.ts';
import {
  EXAMPLE_CACHE_VERSION,
  openExampleCache,
  writeExampleCache,
  type AppendExample,
  type ExampleSource,
} from './example-cache.ts';
import { exampleEncoder, type ExampleEncoder } from './example-encoding.ts';
import { chooseHoldout, emptyTally, tallyUnit } from './holdout.ts';
import { fieldNames, kindOf, LineFault, readObjects, textField, type BadLine, type Fields } from './jsonl.ts';
import { progressMeter, type OnProgress } from './progress-meter.ts';
import { listSources } from './sources.ts';
import { hashFile } from './text.ts';
import type { PartName } from './token-cache.ts';
import type { Tokenizer } from './tokenizer.ts';

export type { ExampleSource } from './example-cache.ts';

const MAX_SHOWN_LABELS = 20;

/** What `prepareExamples` needs. */
export interface ExamplesOptions {
  /** JSONL files, or folders of them. */
  readonly path: string | readonly string[];
  /** Held-out examples of their own; they replace the fraction. */
  readonly validationPath?: string | readonly string[] | undefined;
  /** What errors call `path`; `data.path` unless given. */
  readonly pathField?: string;
  /** The run's labels: the index of one is its class. */
  readonly labels: readonly string[];
  readonly tokenizer: Tokenizer;
  /** Tokens of an example, special ones included, at most: the end of a longer text is cut off. */
  readonly seqLen: number;
  /** Share of the examples that is held out, by the hash of their text. */
  readonly validationFraction: number;
  /** Where caches are kept; made if it does not exist. */
  readonly cacheDir: string;
  /** Lines that cannot be used are left out, counted in `notices`, instead of an error. */
  readonly skipBadLines?: boolean;
  readonly onProgress: OnProgress;
}

/** Tokenised examples, open for reading. */
export interface Examples {
  readonly train: ExampleSource;
  readonly validation: ExampleSource;
  /** The same for the same examples, tokenizer, labels, length and split, wherever the files are. */
  readonly fingerprint: string;
  /** What the user should know, one sentence each. */
  readonly notices: readonly string[];
  close(): Promise<void>;
}

interface Example {
  readonly text: string;
  readonly classIndex: number;
}

interface ExampleFiles {
  readonly train: readonly HashedSource[];
  readonly validation: readonly HashedSource[];
}

/**
 * Opens labelled examples, tokenising them first where that has not been done.
 * @throws DataError, ConfigError for files or settings that cannot be used; OperatingError for the disk.
 */
export async function prepareExamples(options: ExamplesOptions): Promise<Examples> {
  const encoder = exampleEncoder(options.tokenizer);
  checkSeqLen(options.seqLen, encoder);
  const notices: string[] = [];
  const files = await findFiles(options, notices);
  const key = cacheKey(options, files);
  let isDamaged = false;
  const onDamage = (reason: string): void => {
    isDamaged = true;
    notices.push(`the token cache ${key} was damaged (${reason}) and is made anew`);
  };
  let cache = await openExampleCache(options.cacheDir, key, onDamage);
  if (cache === null) {
    if (isDamaged) await removeCacheFolder(options.cacheDir, key);
    await buildCache(options, files, encoder, key);
    cache = await openExampleCache(options.cacheDir, key, onDamage);
  }
  if (cache === null)
    throw new OperatingError(`the token cache ${key} cannot be read back: ${notices.at(-1)}`);
  const { train, validation } = cache.parts;
  return {
    train,
    validation,
    fingerprint: key,
    notices: [...notices, ...cache.notices, ...classNotices(options, train, validation)],
    close: () => cache.close(),
  };
}

function checkSeqLen(seqLen: number, { specialTokens }: ExampleEncoder): void {
  if (seqLen > specialTokens) return;
  const allowed = `at least ${specialTokens + 1}: the tokenizer puts ${specialTokens} special tokens around a text`;
  throw new ConfigError(`seq_len is ${seqLen}; it must be ${allowed}`, [
    { field: 'seq_len', value: String(seqLen), allowed },
  ]);
}

async function findFiles(options: ExamplesOptions, notices: string[]): Promise<ExampleFiles> {
  const find = async (path: string | readonly string[], field: string): Promise<HashedSource[]> => {
    const found = await listSources(path, 'jsonl', field);
    notices.push(...found.notices);
    const report = progressMeter(options.onProgress, 'Reading the data', bytesOf(found.sources));
    const hashed: HashedSource[] = [];
    for (const source of found.sources)
      hashed.push({ ...source, sha256: await hashFile(source.path, report) });
    return hashed;
  };
  const { path, validationPath } = options;
  return {
    train: await find(path, options.pathField ?? 'data.path'),
    validation: validationPath === undefined ? [] : await find(validationPath, 'data.validation_path'),
  };
}

/** Everything the rows depend on, and nothing else. */
function cacheKey(options: ExamplesOptions, files: ExampleFiles): string {
  const hashes = (sources: readonly HashedSource[]): string[] => sources.map(({ sha256 }) => sha256);
  const facts = {
    examples: EXAMPLE_CACHE_VERSION,
    train: hashes(files.train),
    validation: hashes(files.validation),
    heldOutShare: heldOutShare(options, files),
    tokenizer: { json: options.tokenizer.json, eosId: options.tokenizer.eosId },
    labels: options.labels,
    seqLen: options.seqLen,
    skipBadLines: options.skipBadLines === true,
  };
  return createHash('sha256').update(JSON.stringify(facts)).digest('hex').slice(0, 32);
}

function heldOutShare(options: ExamplesOptions, files: ExampleFiles): number {
  return files.validation.length > 0 ? 0 : options.validationFraction;
}

/** What one reading of the files tells. */
interface Survey {
  readonly bytes: number;
  readonly isHeldOut: (text: string) => boolean;
  /** What was left out, in words. */
  readonly notices: readonly string[];
}

async function survey(options: ExamplesOptions, files: ExampleFiles): Promise<Survey> {
  const sources = [...files.train, ...files.validation];
  const bytes = bytesOf(sources);
  const report = progressMeter(options.onProgress, 'Checking the examples', bytes);
  const tally = emptyTally();
  const notices: string[] = [];
  let trainExamples = 0;
  for (const [index, source] of sources.entries()) {
    // Without names: the same cache may serve the same files elsewhere.
    const where = sources.length === 1 ? '' : `file ${index + 1} of ${sources.length}: `;
    const badLines = new BadLines();
    let examples = 0;
    let empty = 0;
    for await (const { text } of readExamples(options, source, (line) => badLines.add(line))) {
      report(text.length);
      if (text.trim() === '') empty++;
      else {
        examples++;
        if (index < files.train.length) tallyUnit(tally, hashText(text), 1);
      }
    }
    if (badLines.count > 0) notices.push(`${where}${badLines.describe()}`);
    if (empty > 0) notices.push(`${where}${empty} of the examples had no text and were left out`);
    if (index < files.train.length) trainExamples += examples;
  }
  if (trainExamples === 0) {
    const reasons = notices.length === 0 ? '' : `: ${notices.join('; ')}`;
    const what = pathsOf(options.path);
    throw new DataError(what, `${what} has no example to train on${reasons}; ${wantedOf(options.labels)}`);
  }
  const { below } = chooseHoldout(tally, heldOutShare(options, files));
  return { bytes, notices, isHeldOut: (text) => hashText(text) < below };
}

async function buildCache(
  options: ExamplesOptions,
  files: ExampleFiles,
  encoder: ExampleEncoder,
  key: string,
): Promise<void> {
  const plan = await survey(options, files);
  const { seqLen, tokenizer, labels } = options;
  const content = {
    key,
    seqLen,
    vocabSize: tokenizer.vocabSize,
    classCount: labels.length,
    padId: encoder.padId,
  };
  const report = progressMeter(options.onProgress, 'Tokenising the examples', plan.bytes);
  const run = async (
    sources: readonly HashedSource[],
    partOf: (text: string) => PartName,
    append: AppendExample,
  ): Promise<void> => {
    for (const source of sources) {
      for await (const { text, classIndex } of readExamples(options, source, () => {})) {
        report(text.length);
        if (text.trim() !== '') await append(partOf(text), encoder.encode(text, seqLen), classIndex);
      }
    }
  };
  await writeExampleCache(options.cacheDir, content, async (append) => {
    await run(files.train, (text) => (plan.isHeldOut(text) ? 'validation' : 'train'), append);
    await run(files.validation, () => 'validation', append);
    return plan.notices;
  });
}

/** The examples of a file; those without text too. */
function readExamples(
  { labels, skipBadLines }: ExamplesOptions,
  { path, sha256 }: HashedSource,
  onBadLine: (line: BadLine) => void,
): AsyncGenerator<Example, void, void> {
  const classes = new Map(labels.map((label, index) => [label, index]));
  const options = { sha256, onBadLine: skipBadLines === true ? onBadLine : undefined };
  return readObjects(path, wantedOf(labels), (fields) => exampleOf(fields, labels, classes), options);
}

function exampleOf(fields: Fields, labels: readonly string[], classes: ReadonlyMap<string, number>): Example {
  const missing = ['text', 'label'].find((name) => !(name in fields));
  if (missing !== undefined) {
    throw new LineFault(
      `no "${missing}"`,
      ` has no "${missing}": it has ${fieldNames(fields)}; ${wantedOf(labels)}`,
    );
  }
  const text = textField(fields, 'text');
  const { label } = fields;
  if (typeof label !== 'string' && typeof label !== 'number') {
    const detail = `: "label" is ${kindOf(label)}; it must be one of the run's labels: ${listed(labels)}`;
    throw new LineFault('a "label" that is no label', detail);
  }
  const isIndex = typeof label === 'number' && Number.isInteger(label) && label >= 0 && label < labels.length;
  const classIndex = isIndex ? label : classes.get(label as string);
  if (classIndex !== undefined) return { text, classIndex };
  const given = typeof label === 'number' ? `label ${label}` : `label ${JSON.stringify(label.slice(0, 100))}`;
  throw new LineFault('an unknown label', `: the ${given} is none of the run's labels: ${listed(labels)}`);
}

function wantedOf(labels: readonly string[]): string {
  return `wanted {"text": "…", "label": …} with one of the run's labels: ${listed(labels)}`;
}

/** `"ham" (0), "spam" (1)`: a label is given by either. */
function listed(labels: readonly string[]): string {
  const shown = labels
    .slice(0, MAX_SHOWN_LABELS)
    .map((label, index) => `${JSON.stringify(label)} (${index})`);
  return labels.length > shown.length
    ? `${shown.join(', ')} and ${labels.length - shown.length} more`
    : shown.join(', ');
}

function classNotices(options: ExamplesOptions, train: ExampleSource, validation: ExampleSource): string[] {
  const { labels, path, validationPath, validationFraction } = options;
  const notices: string[] = [];
  const counts = labels.map((_, index) => train.classCounts[index]! + validation.classCounts[index]!);
  const present = labels.filter((_, index) => counts[index]! > 0);
  if (present.length === 1 && labels.length > 1) {
    const all = train.count + validation.count;
    notices.push(
      `all ${all} examples of ${pathsOf(path)} have the same label, ${JSON.stringify(present[0])}: that is allowed, but alone they teach nothing`,
    );
  }
  const isWanted = validationPath !== undefined || validationFraction > 0;
  if (isWanted && validation.count === 0) {
    notices.push(`there is no validation: ${pathsOf(path)} has too few different texts`);
  }
  return notices;
}

function bytesOf(sources: readonly { readonly bytes: number }[]): number {
  return sources.reduce((sum, source) => sum + source.bytes, 0);
}

function pathsOf(path: string | readonly string[]): string {
  return typeof path === 'string' ? path : path.join(', ');
}
