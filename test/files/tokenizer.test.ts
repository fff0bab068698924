import { join } from 'node:path';
import { Tokenizer as LibraryTokenizer } from '@huggingface/tokenizers';
import test from 'ava';
import fc from 'fast-check';
import { ConfigError, DataError } from '../../src/errors.ts';
import { trainBpe } from '../../src/files/bpe-trainer.ts';
import {
  byteTokenizer,
  checkVocabulary,
  loadTokenizer,
  parseTokenizer,
  tokenizerConfigJson,
} from '../../src/files/tokenizer.ts';
import { temporaryFolder } from './temporary-folder.ts';

const trained = await trainBpe(['one two three two one two '.repeat(3)], 265, () => {});
const anyText = fc.string({ unit: 'binary', maxLength: 80 });

/** A WordPiece tokenizer, as BERT has it: of the kinds that only the library knows. */
const wordPiece = {
  version: '1.0',
  added_tokens: [
    {
      id: 0,
      content: '[UNK]',
      special: true,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
    },
  ],
  normalizer: {
    type: 'BertNormalizer',
    clean_text: true,
    handle_chinese_chars: true,
    strip_accents: null,
    lowercase: true,
  },
  pre_tokenizer: { type: 'BertPreTokenizer' },
  post_processor: null,
  decoder: { type: 'WordPiece', prefix: '##', cleanup: false },
  model: {
    type: 'WordPiece',
    unk_token: '[UNK]',
    continuing_subword_prefix: '##',
    max_input_chars_per_word: 100,
    vocab: { '[UNK]': 0, un: 1, '##aff': 2, '##able': 3, ',': 4, no: 5 },
  },
};

test('the byte tokenizer gives the bytes of UTF-8, and the text back', (t) => {
  const tokenizer = byteTokenizer();
  t.deepEqual([...tokenizer.encode('aé\n')], [0x61, 0xc3, 0xa9, 0x0a]);
  t.is(tokenizer.vocabSize, 256);
  t.is(tokenizer.eosId, null);
  t.is(tokenizer.decode([0x61, 300, -1, 0xc3]), 'a\ufffd');
  fc.assert(
    fc.property(anyText, (text) => {
      t.is(tokenizer.decode([...tokenizer.encode(text)]), text);
    }),
  );
});

test("the byte tokenizer's tokenizer.json gives other programs the same ids", (t) => {
  const { json, encode } = byteTokenizer();
  const library = new LibraryTokenizer(JSON.parse(json!) as object, {});
  const parsed = parseTokenizer(json!, 'byte');
  t.is(parsed.vocabSize, 256);
  t.is(parsed.eosId, null);
  fc.assert(
    fc.property(anyText, (text) => {
      t.deepEqual(parsed.encode(text), encode(text));
      fc.pre(text.length > 0);
      t.deepEqual(library.encode(text).ids, [...encode(text)]);
    }),
  );
});

test('a trained tokenizer gives any text back', (t) => {
  const tokenizer = parseTokenizer(trained, 'trained');
  fc.assert(
    fc.property(anyText, (text) => {
      t.is(tokenizer.decode([...tokenizer.encode(text)]), text);
    }),
  );
  t.is(tokenizer.json, trained);
});

test('half a character becomes the replacement character and ends nothing', (t) => {
  for (const tokenizer of [byteTokenizer(), parseTokenizer(trained, 'trained')]) {
    t.is(tokenizer.decode([...tokenizer.encode('a\ud800b')]), 'a\ufffdb');
    t.is(tokenizer.decode([]), '');
    t.is(tokenizer.encode('').length, 0);
  }
});

test('a tokenizer.json is loaded by its own path or by its folder', (t) => {
  const folder = temporaryFolder(t, { 'tokenizer.json': trained });
  for (const path of [folder, join(folder, 'tokenizer.json')]) {
    const tokenizer = loadTokenizer(path);
    t.is(tokenizer.vocabSize, 265);
    t.is(tokenizer.eosId, 0);
    t.is(tokenizer.json, trained);
  }
});

test('a tokenizer of another kind is used through the library', (t) => {
  const tokenizer = parseTokenizer(JSON.stringify(wordPiece), 'word-piece');
  t.deepEqual([...tokenizer.encode('Unaffable, no qqq')], [1, 2, 3, 4, 5, 0]);
  t.is(tokenizer.decode([1, 2, 3, 4, 99, 5]), 'unaffable , no', 'spaces are not cleaned up');
  t.is(tokenizer.decode([]), '');
  t.is(tokenizer.vocabSize, 6);
  t.is(tokenizer.eosId, null);
});

test('a tokenizer of whole words gives its unknown token for the others', (t) => {
  const model = { type: 'WordLevel', unk_token: '[UNK]', vocab: { '[UNK]': 0, yes: 1, no: 2 } };
  const wordLevel = { ...wordPiece, pre_tokenizer: { type: 'WhitespaceSplit' }, decoder: null, model };
  t.deepEqual([...parseTokenizer(JSON.stringify(wordLevel), 'words').encode('yes maybe no')], [1, 0, 2]);
  const withoutUnknown = { ...wordLevel, model: { ...model, unk_token: null } };
  t.throws(() => parseTokenizer(JSON.stringify(withoutUnknown), 'words').encode('maybe'), {
    instanceOf: DataError,
    message: /words has no token for a part of the text, and no unknown token/,
  });
});

test('the end of a document is what tokenizer_config.json says, else a token known for it', (t) => {
  const withEos = (token: unknown): string => JSON.stringify({ eos_token: token });
  const eosOf = (config: string): number | null =>
    loadTokenizer(temporaryFolder(t, { 'tokenizer.json': trained, 'tokenizer_config.json': config })).eosId;
  const newlineId = parseTokenizer(trained, 'trained').encode('\n')[0]!;
  t.is(eosOf(withEos('Ċ')), newlineId);
  t.is(eosOf(withEos({ content: 'Ċ', lstrip: false })), newlineId);
  t.is(eosOf('{}'), 0);
  t.is(eosOf(withEos(null)), 0);
  t.throws(() => eosOf(withEos('</none>')), { instanceOf: DataError, message: /has no token "<\/none>"/ });
  t.throws(() => eosOf(withEos(7)), { instanceOf: DataError, message: /eos_token is neither/ });
  t.throws(() => eosOf('[]'), { instanceOf: DataError, message: /must hold a JSON object/ });
});

test('a folder saved with our tokenizer_config.json has the same end of a document', (t) => {
  const tokenizer = parseTokenizer(trained, 'trained');
  const config = tokenizerConfigJson(tokenizer);
  t.is((JSON.parse(config) as { eos_token: string }).eos_token, '<|endoftext|>');
  t.is(
    loadTokenizer(temporaryFolder(t, { 'tokenizer.json': trained, 'tokenizer_config.json': config })).eosId,
    0,
  );
  t.false('eos_token' in (JSON.parse(tokenizerConfigJson(byteTokenizer())) as object));
});

test('a tokenizer.json that is missing or malformed is refused with its path', (t) => {
  const folder = temporaryFolder(t, {
    'torn.json': trained.slice(0, 100),
    'list.json': '[]',
    'other.json': '{"model_type": "llama"}',
    'kind.json': JSON.stringify({ ...wordPiece, model: { type: 'WordMill', vocab: { a: 0 } } }),
    'step.json': JSON.stringify({ ...wordPiece, pre_tokenizer: { type: 'Sideways' } }),
    'empty.json': JSON.stringify({
      ...wordPiece,
      added_tokens: [],
      model: { ...wordPiece.model, vocab: {} },
    }),
  });
  const refusals: readonly [name: string, message: RegExp][] = [
    ['none.json', /none\.json does not exist; tokenizer\.path names a tokenizer\.json or the folder/],
    ['torn.json', /torn\.json is not JSON/],
    ['list.json', /list\.json must hold a JSON object/],
    ['other.json', /other\.json is not a tokenizer\.json: it has no model\.vocab/],
    ['kind.json', /holds a tokenizer of type "WordMill"; wanted BPE, WordPiece, Unigram, WordLevel/],
    ['step.json', /step\.json cannot be used as a tokenizer: .*Sideways/],
    ['empty.json', /empty\.json (cannot be used as a tokenizer|holds a tokenizer without tokens)/],
    ['', /tokenizer\.json does not exist/],
  ];
  for (const [name, message] of refusals) {
    const error = t.throws(() => loadTokenizer(join(folder, name)), { instanceOf: DataError });
    t.regex(error.message, message);
    t.true(error.path.startsWith(folder));
  }
});

test('a tokenizer with more tokens than the model has rows is refused', (t) => {
  const tokenizer = parseTokenizer(trained, 'trained');
  t.notThrows(() => checkVocabulary(tokenizer, 265));
  t.notThrows(() => checkVocabulary(tokenizer, 300));
  const error = t.throws(() => checkVocabulary(tokenizer, 264), { instanceOf: ConfigError });
  t.is(
    error.message,
    "the tokenizer has 265 tokens and the model's vocabulary (model.vocab_size) only 264; " +
      'it must have at least 265, or the tokenizer fewer tokens',
  );
  t.deepEqual(error.faults, [
    {
      field: 'model.vocab_size',
      value: '264',
      allowed: 'at least 265, the number of tokens of the tokenizer',
    },
  ]);
});
