import test from 'ava';
import { exampleEncoder } from '../../src/files/example-encoding.ts';
import { byteTokenizer, parseTokenizer } from '../../src/files/tokenizer.ts';
import { DataError } from '../../src/errors.ts';
import { wordTokenizer } from './word-tokenizer.ts';

const WORDS = ['buy', 'now', '##er'];

test('a text stands between the special tokens of its tokenizer, and only its own end is cut off', (t) => {
  const encoder = exampleEncoder(wordTokenizer(WORDS));
  t.is(encoder.padId, 0);
  t.is(encoder.specialTokens, 2);
  t.deepEqual([...encoder.encode('Buy now buyer', 64)], [2, 4, 5, 4, 6, 3]);
  t.deepEqual([...encoder.encode('Buy now buyer', 5)], [2, 4, 5, 4, 3]);
  t.deepEqual([...encoder.encode('Buy now buyer', 3)], [2, 4, 3]);
  t.deepEqual([...encoder.encode('', 64)], [2, 3]);
  t.deepEqual([...encoder.encode('now', 2)], [2, 3]);
});

test('every way to write the special tokens down gives the same ids', (t) => {
  const special = (id: string): object => ({ SpecialToken: { id, type_id: 0 } });
  const template = {
    type: 'TemplateProcessing',
    single: [special('[CLS]'), { Sequence: { id: 'A', type_id: 0 } }, special('[SEP]')],
    pair: [],
    special_tokens: {
      '[CLS]': { id: '[CLS]', ids: [2], tokens: ['[CLS]'] },
      '[SEP]': { id: '[SEP]', ids: [3], tokens: ['[SEP]'] },
    },
  };
  const roberta = {
    type: 'RobertaProcessing',
    cls: ['[CLS]', 2],
    sep: ['[SEP]', 3],
    trim_offsets: true,
    add_prefix_space: false,
  };
  const sequence = { type: 'Sequence', processors: [{ type: 'ByteLevel' }, template] };
  for (const processor of [template, roberta, sequence]) {
    const encoder = exampleEncoder(wordTokenizer(WORDS, { post_processor: processor }));
    t.deepEqual([...encoder.encode('now', 8)], [2, 5, 3], processor.type);
  }
});

test('a tokenizer without special tokens adds none, and a text without tokens still has one', (t) => {
  const bytes = exampleEncoder(byteTokenizer());
  t.deepEqual([bytes.padId, bytes.specialTokens], [0, 0]);
  t.deepEqual([...bytes.encode('abc', 2)], [97, 98]);
  const bare = exampleEncoder(wordTokenizer(WORDS, { post_processor: null }));
  t.deepEqual([...bare.encode('now now', 8)], [5, 5]);
  t.deepEqual([...bare.encode('\u200b', 8)], [0]);
});

test('the padding of the file decides which token fills up', (t) => {
  const json = wordTokenizer(WORDS).json!;
  const padded = { ...(JSON.parse(json) as object), padding: { pad_id: 3, pad_token: '[SEP]' } };
  t.is(exampleEncoder(parseTokenizer(JSON.stringify(padded), 'tokenizer.json')).padId, 3);
});

test('a post-processor that is not known is refused by its name', (t) => {
  const tokenizer = { ...byteTokenizer(), json: '{"post_processor":{"type":"Strange"}}' };
  t.throws(() => exampleEncoder(tokenizer), { instanceOf: DataError, message: /post_processor "Strange"/ });
});

test('only the begin of a long text is tokenised, and that as if it were the whole', (t) => {
  let length = 0;
  const words = wordTokenizer(WORDS);
  const encoder = exampleEncoder({
    ...words,
    encode: (text) => {
      length += text.length;
      return words.encode(text);
    },
  });
  const start = `buy ${'longword'.repeat(8)} now buyer`;
  const ids = encoder.encode(`${start} ${'now '.repeat(100_000)}`, 7);
  t.deepEqual([...ids], [2, 4, 1, 5, 4, 6, 3]);
  t.true(length < 500, String(length));
});
