/**
 * Learns a byte-level BPE vocabulary from text (Sennrich et al. 2016; the byte alphabet is GPT-2's):
 * the most frequent pair of neighbouring symbols becomes a new token, again and again. Works on the
 * distinct words with their counts and changes only the counts that a merge touches. Deterministic:
 * ties go to the pair with the smaller ids, so the merges are those of the reference trainer
 * (Hugging Face tokenizers, BpeTrainer). Why it is written here: docs/decisions/tokenizers.md.
 */
import { setImmediate } from 'node:timers/promises';
import { BYTE_CHARACTERS, byteLevelJson, WORD_PATTERN } from './byte-level.ts';

/** The one special token of a trained tokenizer: it ends a document. Its id is 0. */
export const END_OF_TEXT = '<|endoftext|>';

/** Part of the key of the token cache: raise it when the same text would give other merges. */
export const BPE_TRAINER_VERSION = 1;

/** A pair seen once says nothing about the language. */
const MIN_PAIR_COUNT = 2;

/** Longer "words" are rules of dashes, base64 and the like, and would make each merge slow. */
const MAX_WORD_CHARACTERS = 256;

/** Distinct words held at once: beyond it the rarest are forgotten, as text of ids or numbers has no end of them. */
const MAX_DISTINCT_WORDS = 2_000_000;

/** Ids stay below it, so that a pair of ids is one exact number. */
const PAIR_BASE = 2 ** 21;

const BYTE_COUNT = 256;
const MERGES_BETWEEN_PAUSES = 64;

/** Tokens in the order of their ids, and the merges in the order of their ranks. */
export interface LearnedBpe {
  readonly tokens: readonly string[];
  readonly merges: readonly (readonly [left: string, right: string])[];
}

/**
 * Trains a tokenizer of at most `vocabSize` tokens and returns the contents of its tokenizer.json.
 * Text with too few repeated pairs gives fewer tokens. `share` runs from 0 to 1 over the merges.
 */
export async function trainBpe(
  texts: Iterable<string> | AsyncIterable<string>,
  vocabSize: number,
  onProgress: (text: string, share: number) => void,
): Promise<string> {
  const wordCounts = new Map<string, number>();
  for await (const text of texts) countWords(wordCounts, text);

  const learning = learnMerges(wordCounts, vocabSize);
  const firstCount = BYTE_COUNT + 1;
  for (let merges = 0; ; merges++) {
    const step = learning.next();
    if (step.done) {
      onProgress('Training the tokenizer', 1);
      return tokenizerJson(step.value);
    }
    if (merges % MERGES_BETWEEN_PAUSES === 0) {
      onProgress('Training the tokenizer', (step.value - firstCount) / Math.max(1, vocabSize - firstCount));
      await setImmediate(); // lets sockets and signals be served
    }
  }
}

/** Adds the words of `text` to `wordCounts`, then forgets the rarest if there are more than `maxWords`. */
export function countWords(
  wordCounts: Map<string, number>,
  text: string,
  maxWords: number = MAX_DISTINCT_WORDS,
): void {
  for (const word of text.match(WORD_PATTERN) ?? []) {
    wordCounts.set(word, (wordCounts.get(word) ?? 0) + 1);
  }
  for (let rare = 1; wordCounts.size > maxWords; rare *= 2) {
    for (const [word, count] of wordCounts) if (count <= rare) wordCounts.delete(word);
  }
}

/**
 * Learns merges until there are `vocabSize` tokens or no pair is left that occurs twice. Yields the
 * number of tokens after each merge. Tokens start with END_OF_TEXT and the byte characters by code point.
 */
export function* learnMerges(
  wordCounts: ReadonlyMap<string, number>,
  vocabSize: number,
): Generator<number, LearnedBpe, void> {
  const tokens = [END_OF_TEXT, ...BYTE_CHARACTERS.toSorted((a, b) => a.charCodeAt(0) - b.charCodeAt(0))];
  const ids = new Map(tokens.map((token, id) => [token, id]));
  const merges: [string, string][] = [];
  const words = splitIntoSymbols(wordCounts, ids);
  const pairs = new PairCounts();
  for (let word = 0; word < words.counts.length; word++) pairs.addWord(words, word);
  pairs.queueAll();

  while (tokens.length < vocabSize) {
    const pair = pairs.takeMostFrequent();
    if (pair === undefined) break;
    const left = Math.floor(pair / PAIR_BASE);
    const right = pair % PAIR_BASE;
    const merged = tokens[left]! + tokens[right]!;
    // Two pairs can spell the same token ("a" + "bc", "ab" + "c"): it keeps its first id.
    let mergedId = ids.get(merged);
    if (mergedId === undefined) {
      mergedId = tokens.length;
      tokens.push(merged);
      ids.set(merged, mergedId);
    }
    merges.push([tokens[left]!, tokens[right]!]);
    pairs.merge(words, pair, mergedId);
    yield tokens.length;
  }
  return { tokens, merges };
}

/** Distinct words as runs of symbols in one array; a run gets shorter as its pairs are merged. */
interface Words {
  readonly symbols: Int32Array;
  readonly starts: Int32Array;
  readonly lengths: Int32Array;
  readonly counts: Float64Array;
}

function splitIntoSymbols(wordCounts: ReadonlyMap<string, number>, ids: ReadonlyMap<string, number>): Words {
  const byteIds = Int32Array.from(BYTE_CHARACTERS, (character) => ids.get(character)!);
  const kept = [...wordCounts].filter(([word]) => word.length <= MAX_WORD_CHARACTERS);
  const encoder = new TextEncoder();
  const encoded = kept.map(([word]) => encoder.encode(word));
  const starts = new Int32Array(kept.length);
  const lengths = Int32Array.from(encoded, (bytes) => bytes.length);
  const symbols = new Int32Array(lengths.reduce((sum, length) => sum + length, 0));
  let end = 0;
  encoded.forEach((bytes, word) => {
    starts[word] = end;
    for (const byte of bytes) symbols[end++] = byteIds[byte]!;
  });
  return { symbols, starts, lengths, counts: Float64Array.from(kept, ([, count]) => count) };
}

/** How often each pair occurs, in which words, and a queue that gives the most frequent one. */
class PairCounts {
  readonly #counts = new Map<number, number>();
  /** Words that hold the pair, or held it once. */
  readonly #places = new Map<number, number[]>();
  readonly #queue = new PairQueue();
  readonly #grown = new Set<number>();

  addWord(words: Words, word: number): void {
    const start = words.starts[word]!;
    const end = start + words.lengths[word]!;
    for (let i = start; i + 1 < end; i++) {
      this.#add(words.symbols[i]!, words.symbols[i + 1]!, word, words.counts[word]!);
    }
  }

  queueAll(): void {
    for (const pair of this.#grown) {
      const count = this.#counts.get(pair)!;
      if (count >= MIN_PAIR_COUNT) this.#queue.push(count, pair);
    }
    this.#grown.clear();
  }

  /** An entry of the queue can be out of date: a count that shrank is put back at its true place. */
  takeMostFrequent(): number | undefined {
    for (;;) {
      const top = this.#queue.pop();
      if (top === undefined) return undefined;
      const count = this.#counts.get(top.pair) ?? 0;
      if (count === top.count) return top.pair;
      if (count >= MIN_PAIR_COUNT && count < top.count) this.#queue.push(count, top.pair);
    }
  }

  /** Replaces the pair by `mergedId` in every word that holds it. */
  merge(words: Words, pair: number, mergedId: number): void {
    const places = this.#places.get(pair) ?? [];
    this.#places.delete(pair);
    const left = Math.floor(pair / PAIR_BASE);
    const right = pair % PAIR_BASE;
    for (const word of places) this.#mergeInWord(words, word, left, right, mergedId);
    this.#counts.delete(pair);
    this.#grown.delete(pair);
    this.queueAll();
  }

  #mergeInWord(words: Words, word: number, left: number, right: number, mergedId: number): void {
    const { symbols } = words;
    const count = words.counts[word]!;
    const start = words.starts[word]!;
    const end = start + words.lengths[word]!;
    let out = start;
    for (let i = start; i < end; i++) {
      const symbol = symbols[i]!;
      if (symbol !== left || i + 1 >= end || symbols[i + 1] !== right) {
        symbols[out++] = symbol;
        continue;
      }
      if (out > start) {
        const before = symbols[out - 1]!;
        this.#remove(before, left, count);
        this.#add(before, mergedId, word, count);
      }
      if (i + 2 < end) {
        const after = symbols[i + 2]!;
        this.#remove(right, after, count);
        this.#add(mergedId, after, word, count);
      }
      symbols[out++] = mergedId;
      i++;
    }
    words.lengths[word] = out - start;
  }

  #add(left: number, right: number, word: number, count: number): void {
    const pair = left * PAIR_BASE + right;
    this.#counts.set(pair, (this.#counts.get(pair) ?? 0) + count);
    this.#grown.add(pair);
    const places = this.#places.get(pair);
    if (places === undefined) this.#places.set(pair, [word]);
    else if (places.at(-1) !== word) places.push(word);
  }

  #remove(left: number, right: number, count: number): void {
    const pair = left * PAIR_BASE + right;
    this.#counts.set(pair, (this.#counts.get(pair) ?? 0) - count);
  }
}

/** A binary heap of (count, pair): the highest count first, then the smallest pair. */
class PairQueue {
  readonly #counts: number[] = [];
  readonly #pairs: number[] = [];

  push(count: number, pair: number): void {
    let at = this.#counts.length;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!isBefore(count, pair, this.#counts[parent]!, this.#pairs[parent]!)) break;
      this.#place(at, this.#counts[parent]!, this.#pairs[parent]!);
      at = parent;
    }
    this.#place(at, count, pair);
  }

  pop(): { count: number; pair: number } | undefined {
    const count = this.#counts[0];
    const pair = this.#pairs[0];
    if (count === undefined || pair === undefined) return undefined;
    const lastCount = this.#counts.pop()!;
    const lastPair = this.#pairs.pop()!;
    const length = this.#counts.length;
    if (length === 0) return { count, pair };
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= length) break;
      const sibling = child + 1;
      if (
        sibling < length &&
        isBefore(this.#counts[sibling]!, this.#pairs[sibling]!, this.#counts[child]!, this.#pairs[child]!)
      ) {
        child = sibling;
      }
      if (!isBefore(this.#counts[child]!, this.#pairs[child]!, lastCount, lastPair)) break;
      this.#place(at, this.#counts[child]!, this.#pairs[child]!);
      at = child;
    }
    this.#place(at, lastCount, lastPair);
    return { count, pair };
  }

  #place(at: number, count: number, pair: number): void {
    this.#counts[at] = count;
    this.#pairs[at] = pair;
  }
}

function isBefore(count: number, pair: number, otherCount: number, otherPair: number): boolean {
  return count > otherCount || (count === otherCount && pair < otherPair);
}

/** Merges as "left right" strings: every version of the reference implementation reads those. */
function tokenizerJson(learned: LearnedBpe): string {
  const merges = learned.merges.map(([left, right]) => `${left} ${right}`);
  return byteLevelJson(learned.tokens, merges, [
    {
      id: 0,
      content: END_OF_TEXT,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    },
  ]);
}
