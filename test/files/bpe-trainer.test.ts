import { readFileSync } from 'node:fs';
import test from 'ava';
import fc from 'fast-check';
import { BYTE_CHARACTERS, WORD_PATTERN } from '../../src/files/byte-level.ts';
import {
  countWords,
  END_OF_TEXT,
  learnMerges,
  trainBpe,
  type LearnedBpe,
} from '../../src/files/bpe-trainer.ts';
import { parseTokenizer } from '../../src/files/tokenizer.ts';

interface ReferenceCase {
  readonly name: string;
  readonly texts: readonly string[];
  readonly vocabSize: number;
  readonly merges: readonly string[];
  readonly probe: string;
  readonly ids: readonly number[];
}
const reference = JSON.parse(
  readFileSync(new URL('../../../test/vectors/bpe-reference.json', import.meta.url), 'utf8'),
) as { cases: readonly ReferenceCase[] };

const silent = (): void => {};

function learn(texts: readonly string[], vocabSize: number): LearnedBpe {
  const counts = new Map<string, number>();
  for (const text of texts) countWords(counts, text);
  const learning = learnMerges(counts, vocabSize);
  for (;;) {
    const step = learning.next();
    if (step.done) return step.value;
  }
}

/** Counts every pair of every word anew for each merge. */
function learnByBruteForce(texts: readonly string[], vocabSize: number): LearnedBpe {
  const tokens = [END_OF_TEXT, ...BYTE_CHARACTERS.toSorted((a, b) => a.charCodeAt(0) - b.charCodeAt(0))];
  let words = texts.flatMap((text) =>
    Array.from(text.matchAll(WORD_PATTERN), ([word]) =>
      Array.from(Buffer.from(word), (byte) => tokens.indexOf(BYTE_CHARACTERS[byte]!)),
    ),
  );
  const merges: [string, string][] = [];
  while (tokens.length < vocabSize) {
    const counts = new Map<string, { left: number; right: number; count: number }>();
    for (const word of words) {
      for (let i = 0; i + 1 < word.length; i++) {
        const [left, right] = [word[i]!, word[i + 1]!];
        const entry = counts.get(`${left} ${right}`) ?? { left, right, count: 0 };
        counts.set(`${left} ${right}`, { ...entry, count: entry.count + 1 });
      }
    }
    const ordered = [...counts.values()].toSorted(
      (a, b) => b.count - a.count || a.left - b.left || a.right - b.right,
    );
    const best = ordered[0];
    if (best === undefined || best.count < 2) break;
    const merged = tokens[best.left]! + tokens[best.right]!;
    if (!tokens.includes(merged)) tokens.push(merged);
    merges.push([tokens[best.left]!, tokens[best.right]!]);
    words = words.map((word) => {
      const out: number[] = [];
      for (let i = 0; i < word.length; i++) {
        const isPair = word[i] === best.left && word[i + 1] === best.right;
        out.push(isPair ? tokens.indexOf(merged) : word[i]!);
        if (isPair) i++;
      }
      return out;
    });
  }
  return { tokens, merges };
}

test('the merges are those of counting every pair anew each time', (t) => {
  const letters = fc.array(fc.constantFrom('a', 'b', 'ab', 'aa', 'abc', ' ', '\n', '1', 'é'), {
    maxLength: 60,
  });
  fc.assert(
    fc.property(
      fc.array(letters, { maxLength: 4 }),
      fc.integer({ min: 257, max: 300 }),
      (parts, vocabSize) => {
        const texts = parts.map((part) => part.join(''));
        t.deepEqual(learn(texts, vocabSize), learnByBruteForce(texts, vocabSize));
      },
    ),
    { numRuns: 150 },
  );
});

for (const { name, texts, vocabSize, merges, probe, ids } of reference.cases) {
  test(`merges and ids are those of the reference implementation: ${name}`, async (t) => {
    const json = await trainBpe(texts, vocabSize, silent);
    t.deepEqual((JSON.parse(json) as { model: { merges: string[] } }).model.merges, merges);
    t.deepEqual([...parseTokenizer(json, 'trained').encode(probe)], ids);
  });
}

test('a merge worked out by hand', (t) => {
  // "abab" and "ab": the pair (a, b) occurs 3 times; then (ab, ab) once, which is too few.
  const { tokens, merges } = learn(['abab\nab'], 300);
  t.deepEqual(merges, [['a', 'b']]);
  t.deepEqual(tokens.slice(257), ['ab']);
});

test('of pairs that are equally frequent the one with the smaller ids is merged first', (t) => {
  t.deepEqual(learn(['cd cd\nab ab'], 400).merges.slice(0, 2), [
    ['a', 'b'],
    ['c', 'd'],
  ]);
});

test('the vocabulary ends at the size asked for, at least the bytes and the end of a text', async (t) => {
  const text = 'the cat and the hat and the bat sat on the mat '.repeat(4);
  for (const vocabSize of [257, 260, 270]) {
    const json = await trainBpe([text], vocabSize, silent);
    const tokenizer = parseTokenizer(json, 'trained');
    t.is(tokenizer.vocabSize, vocabSize);
    t.is(tokenizer.eosId, 0);
  }
  t.is(
    parseTokenizer(await trainBpe(['abc'], 4096, silent), 'trained').vocabSize,
    257,
    'no pair occurs twice',
  );
  t.is(parseTokenizer(await trainBpe([], 4096, silent), 'trained').vocabSize, 257);
});

test('the order of the texts does not matter, and the result is the same each time', async (t) => {
  const texts = ['one two three two', 'three three one', 'tone town'];
  const first = await trainBpe(texts, 300, silent);
  t.is(await trainBpe(texts, 300, silent), first);
  t.is(await trainBpe(texts.toReversed(), 300, silent), first);
});

test('very long words are left out, and the rarest words once there are too many', (t) => {
  t.deepEqual(learn(['ab'.repeat(500)], 300).merges, []);
  const counts = new Map<string, number>();
  countWords(counts, 'a a a b b c d e', 2);
  // "a" opens the text, the others follow a space: " a" twice, " b" twice, and four words once.
  t.deepEqual(
    [...counts],
    [
      [' a', 2],
      [' b', 2],
    ],
  );
});

test('progress rises to 1', async (t) => {
  const shares: number[] = [];
  await trainBpe(['some words and some more words and even more'.repeat(3)], 270, (_, share) =>
    shares.push(share),
  );
  t.deepEqual(
    shares,
    shares.toSorted((a, b) => a - b),
  );
  t.is(shares[0]! < 0.2, true);
  t.is(shares.at(-1), 1);
});
