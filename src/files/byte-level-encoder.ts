/**
 * Encodes and decodes with a GPT-2 style tokenizer.json (ByteLevel words, BPE merges, no normaliser):
 * the kind this project trains. Gives the ids of the reference implementation, several times faster than the
 * general library, because a word seen before costs one look-up. Tokenizers of any other kind are
 * left to the library: `byteLevelCodec` answers null for them.
 */
import { BYTE_CHARACTERS, CHARACTER_BYTES, WORD_PATTERN } from './byte-level.ts';

/** Turns text into ids and back. */
export interface TokenCodec {
  readonly encode: (text: string) => Int32Array;
  readonly decode: (ids: readonly number[]) => string;
}

/** The fields of a tokenizer.json that matter here; anything may be missing or of another type. */
export interface TokenizerJson {
  readonly added_tokens?: readonly AddedToken[] | null;
  readonly normalizer?: unknown;
  readonly pre_tokenizer?: Readonly<Record<string, unknown>> | null;
  readonly post_processor?: unknown;
  readonly decoder?: Readonly<Record<string, unknown>> | null;
  readonly model?: Readonly<Record<string, unknown>> | null;
}

/** A token that is looked for in the text itself. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special?: boolean;
  readonly single_word?: boolean;
  readonly lstrip?: boolean;
  readonly rstrip?: boolean;
}

/** Words kept with their ids; at the limit all are forgotten, which bounds the memory. */
const MAX_CACHED_WORDS = 200_000;
/** Longer words seldom come again. */
const MAX_CACHED_WORD_CHARACTERS = 64;
/** A pair of ids is one number: left * PAIR_BASE + right. */
const PAIR_BASE = 2 ** 22;

/** The codec of a GPT-2 style tokenizer, or null where the file asks for anything else. */
export function byteLevelCodec(json: TokenizerJson): TokenCodec | null {
  const { model, pre_tokenizer: words, decoder, normalizer } = json;
  if (model?.['type'] !== 'BPE' || words?.['type'] !== 'ByteLevel' || decoder?.['type'] !== 'ByteLevel')
    return null;
  const isPlain =
    (normalizer ?? null) === null &&
    words['add_prefix_space'] === false &&
    !model['dropout'] &&
    !model['continuing_subword_prefix'] &&
    !model['end_of_word_suffix'] &&
    model['byte_fallback'] !== true &&
    model['ignore_merges'] !== true;
  const added = json.added_tokens ?? [];
  const hasPlainAdded = added.every((token) => !token.single_word && !token.lstrip && !token.rstrip);
  const vocab = new Map(Object.entries((model['vocab'] ?? {}) as Record<string, number>));
  const hasAllBytes = BYTE_CHARACTERS.every((character) => vocab.has(character));
  if (!isPlain || !hasPlainAdded || !hasAllBytes) return null;
  const merges = readMerges(model['merges'], vocab);
  if (merges === null) return null;
  return createCodec(vocab, merges, added, words['use_regex'] !== false);
}

/** What a pair of ids becomes, and how early its merge was learned. */
interface Merge {
  readonly rank: number;
  readonly id: number;
}
type Merges = ReadonlyMap<number, Merge>;

function readMerges(given: unknown, vocab: ReadonlyMap<string, number>): Merges | null {
  if (!Array.isArray(given)) return null;
  const merges = new Map<number, Merge>();
  for (const [rank, entry] of given.entries()) {
    const parts: unknown = typeof entry === 'string' ? entry.split(' ') : entry;
    if (!Array.isArray(parts) || parts.length !== 2) return null;
    const [left, right] = parts as [string, string];
    const leftId = vocab.get(left);
    const rightId = vocab.get(right);
    const id = vocab.get(left + right);
    if (leftId === undefined || rightId === undefined || id === undefined) return null;
    if (leftId >= PAIR_BASE || rightId >= PAIR_BASE) return null;
    merges.set(leftId * PAIR_BASE + rightId, { rank, id });
  }
  return merges;
}

function createCodec(
  vocab: ReadonlyMap<string, number>,
  merges: Merges,
  added: readonly AddedToken[],
  cutsWords: boolean,
): TokenCodec {
  const byteIds = Int32Array.from(BYTE_CHARACTERS, (character) => vocab.get(character)!);
  const addedIds = new Map(
    added.filter(({ content }) => content !== '').map(({ content, id }) => [content, id]),
  );
  const addedPattern = patternOf([...addedIds.keys()]);
  const bytesOfId = tokenBytes(vocab, added);
  const textEncoder = new TextEncoder();
  const known = new Map<string, Int32Array>();

  const encodeWord = (word: string): Int32Array => {
    const cached = known.get(word);
    if (cached !== undefined) return cached;
    const ids = mergeSymbols(
      Int32Array.from(textEncoder.encode(word), (byte) => byteIds[byte]!),
      merges,
    );
    if (word.length <= MAX_CACHED_WORD_CHARACTERS) {
      if (known.size >= MAX_CACHED_WORDS) known.clear();
      known.set(word, ids);
    }
    return ids;
  };

  const encode = (text: string): Int32Array => {
    const out = new GrowingIds(text.length);
    // With a group around it, split keeps the added tokens: they are at the odd places.
    const sections = addedPattern === null ? [text] : text.split(addedPattern);
    sections.forEach((section, index) => {
      if (index % 2 === 1) out.push(addedIds.get(section)!);
      else if (!cutsWords) out.append(encodeWord(section));
      else for (const word of section.match(WORD_PATTERN) ?? []) out.append(encodeWord(word));
    });
    return out.finish();
  };

  const decode = (ids: readonly number[]): string => {
    const parts = ids.flatMap((id) => bytesOfId.get(id) ?? []);
    const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
    let end = 0;
    for (const part of parts) {
      bytes.set(part, end);
      end += part.length;
    }
    return new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes);
  };
  return { encode, decode };
}

/** Added tokens as one pattern, the longest first, or null where there are none. */
function patternOf(contents: readonly string[]): RegExp | null {
  if (contents.length === 0) return null;
  const escaped = contents
    .toSorted((a, b) => b.length - a.length)
    .map((content) => content.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&'));
  return new RegExp(`(${escaped.join('|')})`, 'u');
}

function tokenBytes(
  vocab: ReadonlyMap<string, number>,
  added: readonly AddedToken[],
): Map<number, Uint8Array> {
  const textEncoder = new TextEncoder();
  const bytes = new Map<number, Uint8Array>();
  for (const [token, id] of vocab) {
    const values = Array.from(token, (character) => CHARACTER_BYTES.get(character));
    const isByteLevel = values.every((value) => value !== undefined);
    bytes.set(id, isByteLevel ? Uint8Array.from(values) : textEncoder.encode(token));
  }
  for (const { id, content } of added) bytes.set(id, textEncoder.encode(content));
  return bytes;
}

/**
 * Applies the merges in the order of their ranks, the leftmost first among equals. The symbols are a
 * linked list; a heap holds the merges that are possible, so a word of n bytes costs n log n.
 */
function mergeSymbols(symbols: Int32Array, merges: Merges): Int32Array {
  const length = symbols.length;
  const next = Int32Array.from(symbols, (_, i) => i + 1);
  const previous = Int32Array.from(symbols, (_, i) => i - 1);
  const queue: number[] = []; // rank * length + position, so one comparison orders both
  const offer = (at: number): void => {
    const merge = mergeAt(at);
    if (merge !== undefined) pushSmallest(queue, merge.rank * length + at);
  };
  const mergeAt = (at: number): Merge | undefined => {
    const after = next[at]!;
    if (at < 0 || symbols[at]! < 0 || after >= length) return undefined;
    return merges.get(symbols[at]! * PAIR_BASE + symbols[after]!);
  };
  for (let i = 0; i + 1 < length; i++) offer(i);
  for (let entry = popSmallest(queue); entry !== undefined; entry = popSmallest(queue)) {
    const at = entry % length;
    const merge = mergeAt(at);
    if (merge === undefined || merge.rank !== Math.floor(entry / length)) continue; // the pair is gone
    const after = next[at]!;
    symbols[at] = merge.id;
    symbols[after] = -1;
    next[at] = next[after]!;
    if (next[at]! < length) previous[next[at]!] = at;
    offer(at);
    if (previous[at]! >= 0) offer(previous[at]!);
  }
  return symbols.filter((symbol) => symbol >= 0);
}

function pushSmallest(heap: number[], value: number): void {
  let at = heap.length;
  while (at > 0) {
    const parent = (at - 1) >> 1;
    if (heap[parent]! <= value) break;
    heap[at] = heap[parent]!;
    at = parent;
  }
  heap[at] = value;
}

function popSmallest(heap: number[]): number | undefined {
  const smallest = heap[0];
  const last = heap.pop();
  if (smallest === undefined || last === undefined || heap.length === 0) return smallest;
  let at = 0;
  for (;;) {
    let child = 2 * at + 1;
    if (child >= heap.length) break;
    if (child + 1 < heap.length && heap[child + 1]! < heap[child]!) child++;
    if (heap[child]! >= last) break;
    heap[at] = heap[child]!;
    at = child;
  }
  heap[at] = last;
  return smallest;
}

/** An Int32Array that grows. */
class GrowingIds {
  #ids: Int32Array;
  #length = 0;

  constructor(capacity: number) {
    this.#ids = new Int32Array(Math.max(16, capacity >> 1));
  }

  push(id: number): void {
    this.#reserve(1);
    this.#ids[this.#length++] = id;
  }

  append(ids: Int32Array): void {
    this.#reserve(ids.length);
    for (let i = 0; i < ids.length; i++) this.#ids[this.#length++] = ids[i]!; // short: faster than set
  }

  finish(): Int32Array {
    return this.#ids.slice(0, this.#length);
  }

  #reserve(count: number): void {
    if (this.#length + count <= this.#ids.length) return;
    const larger = new Int32Array(Math.max(2 * this.#ids.length, this.#length + count));
    larger.set(this.#ids);
    this.#ids = larger;
  }
}
