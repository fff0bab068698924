/** A WordPiece tokenizer of a few words, with BERT's special tokens. */
import { parseTokenizer, type Tokenizer } from '../../src/files/tokenizer.ts';

const SPECIAL = ['[PAD]', '[UNK]', '[CLS]', '[SEP]'] as const;

/** Ids: [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, then the words from 4 on. */
export function wordTokenizer(words: readonly string[], changes: object = {}): Tokenizer {
  const vocab = Object.fromEntries([...SPECIAL, ...words].map((word, id) => [word, id]));
  const json = {
    version: '1.0',
    added_tokens: SPECIAL.map((content, id) => ({ id, content, special: true, normalized: false })),
    normalizer: { type: 'BertNormalizer', clean_text: true, lowercase: true },
    pre_tokenizer: { type: 'BertPreTokenizer' },
    post_processor: { type: 'BertProcessing', cls: ['[CLS]', 2], sep: ['[SEP]', 3] },
    decoder: { type: 'WordPiece', prefix: '##', cleanup: true },
    model: { type: 'WordPiece', unk_token: '[UNK]', continuing_subword_prefix: '##', vocab },
    ...changes,
  };
  return parseTokenizer(JSON.stringify(json), 'tokenizer.json');
}
