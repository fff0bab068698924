/**
 * Tokenisers: text to token ids and back. UTF-8 bytes, or what a Hugging Face tokenizer.json says.
 * Encoding adds no special tokens; who joins documents puts `eosId` between them.
 */
import { statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { Tokenizer as LibraryTokenizer } from '@huggingface/tokenizers';
import { ConfigError, DataError } from '../errors.ts';
import { readSmallTextSync } from './small-file.ts';
import { BYTE_CHARACTERS, byteLevelJson } from './byte-level.ts';
import { byteLevelCodec, type TokenCodec, type TokenizerJson } from './byte-level-encoder.ts';
import { readFailure } from './text.ts';

/** Turns text into token ids and back. */
export interface Tokenizer {
  /** Ids are below it. */
  readonly vocabSize: number;
  /** The token that ends a document; null where the tokenizer has none. */
  readonly eosId: number | null;
  readonly encode: (text: string) => Int32Array;
  /** Special tokens appear as they are written; ids without a token are left out. */
  readonly decode: (ids: readonly number[]) => string;
  /** Contents of tokenizer.json, for checkpoints and other programs. */
  readonly json: string | null;
}

/** Tokens that end a document in published tokenizers, in the order they are tried. */
const KNOWN_EOS_TOKENS = ['<|endoftext|>', '<|end_of_text|>', '</s>', '<eos>', '<|eot_id|>', '<|im_end|>'];

/** Longest tokenizer.json; the largest published have some 30 MB. */
const MAX_FILE_BYTES = 256 * 1024 * 1024;

const MODEL_TYPES: readonly unknown[] = ['BPE', 'WordPiece', 'Unigram', 'WordLevel'];

/** UTF-8 bytes: ids 0 to 255, no special tokens. Its tokenizer.json gives other programs the same ids. */
export function byteTokenizer(): Tokenizer {
  const encoder = new TextEncoder();
  return {
    vocabSize: 256,
    eosId: null,
    encode: (text) => Int32Array.from(encoder.encode(text)),
    decode: (ids) => {
      const bytes = Uint8Array.from(ids.filter((id) => id >= 0 && id < 256));
      return new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes);
    },
    json: byteTokenizerJson(),
  };
}

/** A byte-level BPE without merges, in which the character of byte b has the id b. */
function byteTokenizerJson(): string {
  return byteLevelJson(BYTE_CHARACTERS, [], []);
}

/**
 * Reads a Hugging Face tokenizer.json, or the one in a folder. The token that ends a document is the
 * `eos_token` of tokenizer_config.json beside it, else a special token known to be one.
 * @throws DataError where a file is missing or malformed.
 */
export function loadTokenizer(path: string): Tokenizer {
  const file = isFolder(path) ? join(path, 'tokenizer.json') : path;
  const json = readWhole(file);
  const configPath = join(dirname(file), 'tokenizer_config.json');
  return parseTokenizer(json, file, eosTokenOf(configPath));
}

/**
 * A tokenizer from the contents of a tokenizer.json; `path` is what errors name.
 * @throws DataError where it is malformed or of a kind that is not supported.
 */
export function parseTokenizer(json: string, path: string, eosToken: string | null = null): Tokenizer {
  const parsed = parseObject(json, path) as TokenizerJson;
  if (typeof parsed.model !== 'object' || parsed.model === null || !isVocabulary(parsed.model['vocab'])) {
    throw new DataError(path, `${path} is not a tokenizer.json: it has no model.vocab`);
  }
  const { type = null, unk_token: unknownToken = null } = parsed.model;
  if (type !== null && !MODEL_TYPES.includes(type)) {
    const found = JSON.stringify(type);
    throw new DataError(path, `${path} holds a tokenizer of type ${found}; wanted ${MODEL_TYPES.join(', ')}`);
  }
  let library: LibraryTokenizer;
  let codec: TokenCodec;
  try {
    library = new LibraryTokenizer(withAbsentParts(parsed), { unk_token: unknownToken, eos_token: eosToken });
    codec = byteLevelCodec(parsed) ?? libraryCodec(library, path);
  } catch (error) {
    throw new DataError(path, `${path} cannot be used as a tokenizer: ${messageOf(error)}`, { cause: error });
  }
  const ids = [...library.get_vocab().values(), ...library.get_added_tokens_decoder().keys()];
  const vocabSize = ids.reduce((size, id) => Math.max(size, id + 1), 0);
  if (vocabSize === 0) throw new DataError(path, `${path} holds a tokenizer without tokens`);
  return { vocabSize, eosId: findEos(library, parsed, eosToken, path), ...codec, json };
}

/** @throws ConfigError where the tokenizer makes ids for which the model has no row. */
export function checkVocabulary(tokenizer: Tokenizer, modelVocabSize: number): void {
  if (tokenizer.vocabSize <= modelVocabSize) return;
  throw new ConfigError(
    `the tokenizer has ${tokenizer.vocabSize} tokens and the model's vocabulary (model.vocab_size) only ${modelVocabSize}; ` +
      `it must have at least ${tokenizer.vocabSize}, or the tokenizer fewer tokens`,
    [
      {
        field: 'model.vocab_size',
        value: String(modelVocabSize),
        allowed: `at least ${tokenizer.vocabSize}, the number of tokens of the tokenizer`,
      },
    ],
  );
}

/** What a model knows of its tokens. */
export interface TokenFacts {
  readonly bosTokenId: number | null;
  readonly maxPositionEmbeddings: number;
}

/** Tokens of encoders, by the names transformers has for them. */
const ENCODER_TOKENS = {
  cls_token: ['[CLS]', '<s>'],
  sep_token: ['[SEP]', '</s>'],
  pad_token: ['[PAD]', '<pad>'],
  unk_token: ['[UNK]', '<unk>'],
  mask_token: ['[MASK]', '<mask>'],
} as const;

/** As `tokenizerConfigJson`, for an encoder, whose texts are padded; `longest` is that of a text in tokens. */
export function encoderTokenizerConfigJson(tokenizer: Tokenizer, longest: number): string {
  const added = (JSON.parse(tokenizer.json ?? '{}') as TokenizerJson).added_tokens ?? [];
  const known = new Set(added.map(({ content }) => content));
  const tokens = Object.entries(ENCODER_TOKENS).flatMap(([name, contents]) =>
    contents.filter((content) => known.has(content)).map((content) => [name, content] as const),
  );
  const config = {
    tokenizer_class: 'PreTrainedTokenizerFast',
    clean_up_tokenization_spaces: false,
    model_max_length: longest,
    ...Object.fromEntries(tokens),
  };
  return `${JSON.stringify(config, null, 2)}\n`;
}

/** tokenizer_config.json to write beside tokenizer.json, so that transformers' AutoTokenizer loads the folder. */
export function tokenizerConfigJson(tokenizer: Tokenizer, model?: TokenFacts): string {
  const token = (name: string, id: number | null): Record<string, string> => {
    const content = id === null ? '' : tokenizer.decode([id]);
    return content === '' ? {} : { [name]: content };
  };
  const config = {
    tokenizer_class: 'PreTrainedTokenizerFast',
    clean_up_tokenization_spaces: false,
    ...(model === undefined ? {} : { model_max_length: model.maxPositionEmbeddings }),
    ...token('bos_token', model?.bosTokenId ?? null),
    ...token('eos_token', tokenizer.eosId),
  };
  return `${JSON.stringify(config, null, 2)}\n`;
}

function libraryCodec(library: LibraryTokenizer, path: string): TokenCodec {
  return {
    encode(text) {
      const { ids } = library.encode(text, { add_special_tokens: false });
      // The library leaves a hole where a token has no id and the file names no unknown token.
      if (ids.includes(undefined as unknown as number)) {
        throw new DataError(path, `${path} has no token for a part of the text, and no unknown token`);
      }
      return Int32Array.from(ids);
    },
    decode(ids) {
      const known = ids.filter((id) => library.id_to_token(id) !== undefined);
      if (known.length === 0) return ''; // the library refuses an empty list
      return library.decode(known, { skip_special_tokens: false, clean_up_tokenization_spaces: false });
    },
  };
}

/** The library wants every part named, older files leave out those they do not use. */
function withAbsentParts(parsed: TokenizerJson): TokenizerJson {
  return {
    ...parsed,
    normalizer: parsed.normalizer ?? null,
    pre_tokenizer: parsed.pre_tokenizer ?? null,
    post_processor: parsed.post_processor ?? null,
    decoder: parsed.decoder ?? null,
    added_tokens: parsed.added_tokens ?? [],
  };
}

function findEos(
  library: LibraryTokenizer,
  parsed: TokenizerJson,
  eosToken: string | null,
  path: string,
): number | null {
  if (eosToken !== null) {
    const id = library.token_to_id(eosToken);
    if (id === undefined) {
      throw new DataError(
        path,
        `${path} has no token "${eosToken}", which tokenizer_config.json names as eos_token`,
      );
    }
    return id;
  }
  const special = new Set(
    (parsed.added_tokens ?? []).filter((t) => t.special === true).map((t) => t.content),
  );
  const known = KNOWN_EOS_TOKENS.find((content) => special.has(content));
  return known === undefined ? null : (library.token_to_id(known) ?? null);
}

/** `eos_token` of a tokenizer_config.json: a string, or an object with `content`; null without the file. */
function eosTokenOf(path: string): string | null {
  if (statSync(path, { throwIfNoEntry: false }) === undefined) return null;
  const token = parseObject(readWhole(path), path)['eos_token'] ?? null;
  if (token === null || typeof token === 'string') return token as string | null;
  const content = (token as { content?: unknown }).content;
  if (typeof content === 'string') return content;
  throw new DataError(path, `${path}: eos_token is neither a text nor an object with "content"`);
}

function isFolder(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
}

function readWhole(path: string): string {
  try {
    return readSmallTextSync(path, MAX_FILE_BYTES);
  } catch (error) {
    if (error instanceof DataError) throw error;
    const hasSentencePiece = statSync(join(dirname(path), 'tokenizer.model'), { throwIfNoEntry: false });
    throw readFailure(
      path,
      error,
      hasSentencePiece?.isFile()
        ? "tokenizer.model beside it is SentencePiece's own format: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) writes a tokenizer.json"
        : 'tokenizer.path names a tokenizer.json or the folder that holds it',
    );
  }
}

function parseObject(json: string, path: string): Record<string, unknown> {
  let parsed: unknown;
  try {
    parsed = JSON.parse(json);
  } catch (error) {
    throw new DataError(path, `${path} is not JSON: ${messageOf(error)}`, { cause: error });
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) {
    throw new DataError(path, `${path} must hold a JSON object`);
  }
  return parsed as Record<string, unknown>;
}

/** An object of ids (BPE, WordPiece) or a list of pieces (Unigram). */
function isVocabulary(vocab: unknown): boolean {
  return typeof vocab === 'object' && vocab !== null;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
