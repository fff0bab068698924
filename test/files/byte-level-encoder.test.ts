import { Tokenizer as LibraryTokenizer } from '@huggingface/tokenizers';
import test from 'ava';
import fc from 'fast-check';
import { byteLevelCodec, type TokenCodec, type TokenizerJson } from '../../src/files/byte-level-encoder.ts';
import { trainBpe } from '../../src/files/bpe-trainer.ts';

const SAMPLE = [
  "It isn't the wheel that we're after; it's the reason that they'll turn.",
  'Das Straßenrad drehte sich zwölfmal. 輪子轉了十二次。🙂 1234 12,345',
  'aaaa aaaaaaa ababababa abcabc\n\n\n  indented\ttabs\r\n',
].join('\n');

const json = JSON.parse(await trainBpe([SAMPLE.repeat(3)], 400, () => {})) as TokenizerJson;
const codec = byteLevelCodec(json)!;
const library = new LibraryTokenizer(json, {});

const libraryIds = (text: string): number[] => library.encode(text, { add_special_tokens: false }).ids;
/** The library takes U+FEFF for white space and U+0085 for none; the reference implementation has it the other way round. */
const differs = (text: string): boolean => /[\ufeff\u0085]/.test(text);

const anyText = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 60 }),
  fc
    .array(fc.constantFrom('the', ' wheel', 'aaa', 'ab', "'s", ' ', '\n', '12', 'ß', '輪', '🙂', '.'), {
      maxLength: 60,
    })
    .map((parts) => parts.join('')),
);

test('ids are those of the general library', (t) => {
  fc.assert(
    fc.property(anyText, (text) => {
      fc.pre(!differs(text));
      t.deepEqual([...codec.encode(text)], libraryIds(text));
    }),
    { numRuns: 400 },
  );
});

test('decoding what was encoded gives the text', (t) => {
  fc.assert(
    fc.property(anyText, (text) => {
      t.is(codec.decode([...codec.encode(text)]), text);
    }),
    { numRuns: 400 },
  );
});

test('a word of a hundred thousand letters is encoded as the library does', (t) => {
  const text = 'abcaab'.repeat(17_000);
  t.deepEqual([...codec.encode(text)], libraryIds(text));
});

test('an added token is found in the text, the longest first, and decodes to itself', (t) => {
  const added = ['<|endoftext|>', '<a', '<a|b>'].map((content, id) => ({
    id: id === 0 ? 0 : 400 + id,
    content,
  }));
  const withAdded = byteLevelCodec({ ...json, added_tokens: added })!;
  const ids = [...withAdded.encode('<a|b><a<|endoftext|><|endoftext|')];
  t.deepEqual(ids.slice(0, 3), [402, 401, 0]);
  t.false(ids.slice(3).includes(0));
  t.is(withAdded.decode(ids), '<a|b><a<|endoftext|><|endoftext|');
});

test('ids without a token are left out of decoded text, and broken characters are replaced', (t) => {
  const ids = [...codec.encode('ab')];
  t.is(codec.decode([...ids, 99_999, -1]), 'ab');
  t.is(codec.decode([]), '');
  t.is(codec.decode([...codec.encode('é')].slice(0, 1)), codec.encode('é').length === 1 ? 'é' : '\ufffd');
});

test('merges may be pairs or texts', (t) => {
  const merges = (json.model!['merges'] as string[]).map((merge) => merge.split(' '));
  const other = byteLevelCodec({ ...json, model: { ...json.model, merges } })!;
  t.deepEqual(other.encode(SAMPLE), codec.encode(SAMPLE));
});

test('a tokenizer of another kind is left to the library', (t) => {
  const isTaken = (change: Partial<Record<keyof TokenizerJson, unknown>>): TokenCodec | null =>
    byteLevelCodec({ ...json, ...change } as TokenizerJson);
  t.is(isTaken({ model: { ...json.model, type: 'WordPiece' } }), null);
  t.is(isTaken({ model: { ...json.model, byte_fallback: true } }), null);
  t.is(isTaken({ model: { ...json.model, ignore_merges: true } }), null);
  t.is(isTaken({ model: { ...json.model, end_of_word_suffix: '</w>' } }), null);
  t.is(isTaken({ model: { ...json.model, vocab: { a: 0 } } }), null);
  t.is(isTaken({ model: { ...json.model, merges: ['a b c'] } }), null);
  t.is(isTaken({ model: { ...json.model, merges: ['a qqqq'] } }), null);
  t.is(isTaken({ normalizer: { type: 'NFC' } }), null);
  t.is(isTaken({ pre_tokenizer: { type: 'ByteLevel', add_prefix_space: true } }), null);
  t.is(isTaken({ pre_tokenizer: { type: 'Whitespace' } }), null);
  t.is(isTaken({ decoder: null }), null);
  t.is(isTaken({ added_tokens: [{ id: 1, content: 'x', lstrip: true }] }), null);
  t.not(isTaken({}), null);
});
