/**
 * What GPT-2 style ("ByteLevel") tokenisers share: text is cut into words by one regular expression,
 * a word is its UTF-8 bytes, and each byte is written as one printable character in tokenizer.json.
 * `\p{White_Space}` stands where the original has `\s`: that is what `\s` means in the reference
 * implementation, while JavaScript's own `\s` counts U+FEFF and leaves out U+0085.
 */

/** Cuts a text into words; the words in order are the text. Use with `match`: it has the flag g. */
export const WORD_PATTERN =
  /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;

/** The character that stands for each byte: itself where printable, else one from U+0100 on. */
export const BYTE_CHARACTERS: readonly string[] = byteCharacters();

/** The byte that a character of `BYTE_CHARACTERS` stands for. */
export const CHARACTER_BYTES: ReadonlyMap<string, number> = new Map(
  BYTE_CHARACTERS.map((character, byte) => [character, byte]),
);

function byteCharacters(): string[] {
  const isPrintable = (byte: number): boolean =>
    (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(isPrintable(byte) ? byte : next++));
}

/**
 * A tokenizer.json of the kind GPT-2 has, which Hugging Face tokenizers and transformers load: bytes as
 * characters, WORD_PATTERN, byte-pair merges.
 */
export function byteLevelJson(
  tokens: readonly string[],
  merges: readonly string[],
  addedTokens: readonly unknown[],
): string {
  return JSON.stringify({
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: addedTokens,
    normalizer: null,
    pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
    post_processor: null,
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges,
    },
  });
}
