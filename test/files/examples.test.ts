import { copyFileSync, readdirSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import fc from 'fast-check';
import { ConfigError, DataError } from '../../src/errors.ts';
import { prepareExamples, type Examples, type ExampleSource } from '../../src/files/examples.ts';
import { byteTokenizer } from '../../src/files/tokenizer.ts';
import { temporaryFolder } from './temporary-folder.ts';
import { wordTokenizer } from './word-tokenizer.ts';

const LABELS = ['ham', 'spam'];
const tokenizer = byteTokenizer();

interface Wanted {
  readonly content: string | Uint8Array;
  readonly fraction?: number;
  readonly seqLen?: number;
  readonly labels?: readonly string[];
  readonly skipBadLines?: boolean;
  readonly cacheDir?: string;
}

interface Prepared extends Examples {
  readonly path: string;
  readonly did: readonly string[];
}

/** Opens the examples of a file, with a cache of their own, and closes them with the test. */
async function prepare(t: ExecutionContext, wanted: Wanted): Promise<Prepared> {
  const path = join(temporaryFolder(t, { 'site.jsonl': wanted.content }), 'site.jsonl');
  const did = new Set<string>();
  const examples = await prepareExamples({
    path,
    labels: wanted.labels ?? LABELS,
    tokenizer,
    seqLen: wanted.seqLen ?? 8,
    validationFraction: wanted.fraction ?? 0,
    cacheDir: wanted.cacheDir ?? temporaryFolder(t),
    ...(wanted.skipBadLines === undefined ? {} : { skipBadLines: wanted.skipBadLines }),
    onProgress: (text, share) => {
      did.add(text);
      if (!(share >= 0 && share <= 1)) t.fail(`share ${share} of ${text}`);
    },
  });
  t.teardown(() => examples.close());
  return { ...examples, path, did: [...did] };
}

/** What a part holds, as it was written down. */
async function contentOf(source: ExampleSource, seqLen = 8): Promise<(readonly [string, number])[]> {
  const { tokens, labelled } = await source.read(Array.from({ length: source.count }, (_, k) => k));
  return [...labelled.lengths].map((length, k) => [
    tokenizer.decode([...tokens.subarray(k * seqLen, k * seqLen + length)]),
    labelled.classes[k]!,
  ]);
}

const line = (text: string, label: unknown): string => JSON.stringify({ text, label });
const file = (lines: readonly string[]): string => lines.map((each) => `${each}\n`).join('');
const many = (count: number): string[] =>
  Array.from({ length: count }, (_, i) => line(`mail ${i}`, i % 3 === 0 ? 'spam' : 'ham'));

test('examples come back in the order of the file: cut, filled up, with lengths and classes', async (t) => {
  const { train, validation } = await prepare(t, {
    content: file([line('abc', 'spam'), '', line('a longer text', 0), line('é', 1)]),
  });
  t.is(train.count, 3);
  t.is(validation.count, 0);
  t.is(train.tokens, 3 + 8 + 2);
  t.deepEqual(train.classCounts, [1, 2]);
  const { tokens, labelled, mask } = await train.read([2, 0, 1, 0]);
  t.deepEqual([...labelled.lengths], [2, 3, 8, 3]);
  t.deepEqual([...labelled.classes], [1, 1, 0, 1]);
  t.is(mask, null);
  t.deepEqual([...tokens.subarray(0, 8)], [0xc3, 0xa9, 0, 0, 0, 0, 0, 0]);
  t.is(tokenizer.decode([...tokens.subarray(16, 24)]), 'a longer');
  t.is(tokens.length, 4 * 8);
  await t.throwsAsync(train.read([3]), { instanceOf: RangeError, message: /no example 3: the part has 3/ });
  await t.throwsAsync(train.read([0.5]), { instanceOf: RangeError });
});

test('a label is its text or its index; a text that looks like a number is a text', async (t) => {
  const { train } = await prepare(t, {
    labels: ['1', '0', 'other'],
    content: file([line('a', '1'), line('b', 1), line('c', 'other'), line('d', 2)]),
  });
  t.deepEqual(await contentOf(train), [
    ['a', 0],
    ['b', 1],
    ['c', 2],
    ['d', 2],
  ]);
});

test('the held-out examples are those with the smallest hash of their text, whatever label and place', async (t) => {
  const lines = many(400);
  const first = await prepare(t, { content: file(lines), fraction: 0.1, seqLen: 9 });
  t.true(Math.abs(first.validation.count - 40) <= 1, String(first.validation.count));
  t.is(first.train.count + first.validation.count, 400);
  const relabelled = lines.toReversed().map((each) => each.replace('"ham"', '"spam"'));
  const second = await prepare(t, { content: file(relabelled), fraction: 0.1, seqLen: 9 });
  const texts = async ({ validation }: Examples): Promise<string[]> =>
    (await contentOf(validation, 9)).map(([text]) => text).toSorted();
  t.deepEqual(await texts(second), await texts(first));
  t.not(second.fingerprint, first.fingerprint);
});

test('nothing is lost and nothing is twice between the two parts', async (t) => {
  const texts = fc.array(fc.tuple(fc.integer({ min: 0, max: 30 }), fc.boolean()), {
    minLength: 1,
    maxLength: 40,
  });
  await fc.assert(
    fc.asyncProperty(texts, fc.double({ min: 0, max: 0.9, noNaN: true }), async (drawn, fraction) => {
      const lines = drawn.map(([n, isSpam]) => line(`t ${n}`, isSpam ? 'spam' : 'ham'));
      const { train, validation } = await prepare(t, { content: file(lines), fraction });
      const [inTrain, heldOut] = [await contentOf(train), await contentOf(validation)];
      const all = [...inTrain, ...heldOut].map(([text, label]) => line(text, LABELS[label])).toSorted();
      t.deepEqual(all, lines.toSorted());
      const trained = new Set(inTrain.map(([text]) => text));
      t.true(train.count > 0);
      t.true(heldOut.every(([text]) => !trained.has(text)));
    }),
    { numRuns: 15 },
  );
});

test('special tokens count as tokens and survive the cut', async (t) => {
  const path = join(temporaryFolder(t, { 'a.jsonl': line('now buy now', 'ham') }), 'a.jsonl');
  const options = {
    path,
    labels: LABELS,
    validationFraction: 0,
    cacheDir: temporaryFolder(t),
    onProgress: () => {},
  };
  const words = wordTokenizer(['buy', 'now']);
  const examples = await prepareExamples({ ...options, tokenizer: words, seqLen: 4 });
  t.teardown(() => examples.close());
  t.deepEqual([...(await examples.train.read([0])).tokens], [2, 5, 4, 3]);
  await t.throwsAsync(prepareExamples({ ...options, tokenizer: words, seqLen: 2 }), {
    instanceOf: ConfigError,
    message: 'seq_len is 2; it must be at least 3: the tokenizer puts 2 special tokens around a text',
  });
});

test('a vocabulary beyond 65,536 tokens is kept whole', async (t) => {
  const path = join(temporaryFolder(t, { 'a.jsonl': line('x', 'ham') }), 'a.jsonl');
  const large = { ...tokenizer, vocabSize: 70_000, encode: () => Int32Array.of(69_999, 65_536) };
  const examples = await prepareExamples({
    path,
    labels: LABELS,
    tokenizer: large,
    seqLen: 3,
    validationFraction: 0,
    cacheDir: temporaryFolder(t),
    onProgress: () => {},
  });
  t.teardown(() => examples.close());
  t.deepEqual([...(await examples.train.read([0])).tokens], [69_999, 65_536, 0]);
});

test('examples that were tokenised once are not tokenised again; a damaged cache is made anew', async (t) => {
  const cacheDir = temporaryFolder(t);
  const wanted = { content: file(many(50)), fraction: 0.2, cacheDir };
  const first = await prepare(t, wanted);
  t.deepEqual(first.did, ['Reading the data', 'Checking the examples', 'Tokenising the examples']);
  const second = await prepare(t, wanted);
  t.deepEqual(second.did, ['Reading the data']);
  t.is(second.fingerprint, first.fingerprint);
  t.deepEqual(second.train.classCounts, first.train.classCounts);
  t.deepEqual(readdirSync(cacheDir), [first.fingerprint]);
  const content = await contentOf(second.train);
  truncateSync(join(cacheDir, first.fingerprint, 'train.examples'), 10);
  const third = await prepare(t, wanted);
  t.regex(third.notices[0]!, /was damaged \(train.examples has 10 bytes instead of \d+\) and is made anew/);
  t.deepEqual(await contentOf(third.train), content);
  writeFileSync(join(cacheDir, first.fingerprint, 'header.json'), '{"version":0}');
  t.regex((await prepare(t, wanted)).notices[0]!, /its header is of another data set/);
});

test('other examples, labels, length or split have another cache', async (t) => {
  const cacheDir = temporaryFolder(t);
  const content = file(many(30));
  const variants: Wanted[] = [
    { content },
    { content: file(many(31)) },
    { content, labels: ['ham', 'spam', 'other'] },
    { content, labels: ['spam', 'ham'] },
    { content, seqLen: 9 },
    { content, fraction: 0.1 },
    { content, skipBadLines: true },
  ];
  for (const variant of variants) await prepare(t, { ...variant, cacheDir });
  t.is(readdirSync(cacheDir).length, variants.length);
});

test('a folder gives its JSONL files, and held-out examples may have files of their own', async (t) => {
  const folder = temporaryFolder(t, {
    'train/b.jsonl': line('b', 0),
    'train/a.jsonl': line('a', 1),
    'train/readme.txt': 'no examples',
    'held-out.jsonl': line('c', 1),
  });
  const examples = await prepareExamples({
    path: join(folder, 'train'),
    validationPath: join(folder, 'held-out.jsonl'),
    labels: LABELS,
    tokenizer,
    seqLen: 8,
    validationFraction: 0.5,
    cacheDir: temporaryFolder(t),
    onProgress: () => {},
  });
  t.teardown(() => examples.close());
  t.deepEqual(await contentOf(examples.train), [
    ['a', 1],
    ['b', 0],
  ]);
  t.deepEqual(await contentOf(examples.validation), [['c', 1]]);
});

const RUN_LABELS = 'the run\'s labels: "ham" (0), "spam" (1)';
const WANTED = `wanted {"text": "…", "label": …} with one of ${RUN_LABELS}`;

const BAD_LINES: readonly (readonly [line: string, message: string, fault: string])[] = [
  ['{"text": "x"}', ` has no "label": it has the fields "text"; ${WANTED}`, 'no "label"'],
  ['{"label": "ham"}', ` has no "text": it has the fields "label"; ${WANTED}`, 'no "text"'],
  ['{}', ` has no "text": it has no fields; ${WANTED}`, 'no "text"'],
  [line('x', 'eggs'), `: the label "eggs" is none of ${RUN_LABELS}`, 'an unknown label'],
  [line('x', 'Spam'), `: the label "Spam" is none of ${RUN_LABELS}`, 'an unknown label'],
  [line('x', 2), `: the label 2 is none of ${RUN_LABELS}`, 'an unknown label'],
  [line('x', -1), `: the label -1 is none of ${RUN_LABELS}`, 'an unknown label'],
  [line('x', 0.5), `: the label 0.5 is none of ${RUN_LABELS}`, 'an unknown label'],
  [line('x', true), `: "label" is a boolean; it must be one of ${RUN_LABELS}`, 'a "label" that is no label'],
  [line('x', null), `: "label" is null; it must be one of ${RUN_LABELS}`, 'a "label" that is no label'],
  ['{"text": 7, "label": 0}', ': "text" is a number; it must be a text', 'a "text" that is no text'],
  ['["x", "ham"]', ` is a list; ${WANTED}`, 'no JSON object'],
];

for (const [bad, message, fault] of BAD_LINES) {
  test(`the line ${bad} is refused with its number, what was given and what is allowed`, async (t) => {
    const content = file([line('a', 'ham'), '', bad, line('b', 'spam')]);
    const error = await t.throwsAsync(prepare(t, { content }), { instanceOf: DataError });
    t.regex(error.path, /site\.jsonl$/);
    t.is(error.message, `${error.path}, line 3${message}`);
    const { train, notices } = await prepare(t, { content, skipBadLines: true });
    t.is(train.count, 2);
    t.deepEqual(notices, [`1 line was left out: 1 with ${fault} (line 3)`]);
  });
}

test('a line that is not JSON or not UTF-8 is refused with the reason', async (t) => {
  const notJson = await t.throwsAsync(prepare(t, { content: `${line('a', 0)}\n{"text": "b", label: 0}\n` }), {
    instanceOf: DataError,
  });
  t.regex(
    notJson.message,
    /site\.jsonl, line 2 is not JSON \(.+\); wanted \{"text": "…", "label": …\} with one of/,
  );
  const bytes = Buffer.from(`${line('a', 0)}\n${line('caf\u00e9', 0)}\n`, 'latin1');
  const notUtf8 = await t.throwsAsync(prepare(t, { content: bytes }), { instanceOf: DataError });
  t.is(
    notUtf8.message,
    `${notUtf8.path}, line 2 is not UTF-8: the byte at offset ${bytes.indexOf(0xe9)} begins no character; convert the file first`,
  );
});

test('lines that are left out are counted by fault, with the first numbers, also from the cache', async (t) => {
  const bad = Array.from({ length: 7 }, () => 'no json');
  const latin = Buffer.from(line('caf\u00e9', 0), 'latin1');
  const content = Buffer.concat([Buffer.from(file([line('a', 0), ...bad, line('b', 'eggs')])), latin]);
  const cacheDir = temporaryFolder(t);
  for (const isCached of [false, true]) {
    const { notices, train, did } = await prepare(t, { content, skipBadLines: true, cacheDir });
    t.is(did.length === 1, isCached);
    t.is(train.count, 1);
    t.is(
      notices[0],
      '9 lines were left out: 7 with no JSON (lines 2, 3, 4, 5, 6, …), 1 with an unknown label (line 9), ' +
        '1 with bytes that are not UTF-8 (line 10)',
    );
  }
});

test('a file that gives nothing to train on is refused with the reason', async (t) => {
  const refused = async (content: string, skipBadLines: boolean): Promise<string> => {
    const error = await t.throwsAsync(prepare(t, { content, skipBadLines }), { instanceOf: DataError });
    return error.message.replace(error.path, 'FILE');
  };
  t.is(await refused('', false), 'data.path: FILE is empty');
  t.is(await refused('\n \n', false), `FILE has no example to train on; ${WANTED}`);
  t.is(
    await refused('[]\n{}\n', true),
    `FILE has no example to train on: 2 lines were left out: 1 with no JSON object (line 1), 1 with no "text" (line 2); ${WANTED}`,
  );
  t.is(
    await refused(line(' ', 0), false),
    `FILE has no example to train on: 1 of the examples had no text and were left out; ${WANTED}`,
  );
});

test('a site with one label takes part and is told; so is one with too few texts to hold some out', async (t) => {
  const { path, notices, train } = await prepare(t, {
    content: file([line('a', 1), line('a', 1)]),
    fraction: 0.2,
  });
  t.is(train.count, 2);
  t.deepEqual(notices, [
    `all 2 examples of ${path} have the same label, "spam": that is allowed, but alone they teach nothing`,
    `there is no validation: ${path} has too few different texts`,
  ]);
});

test('many labels are not all listed', async (t) => {
  const labels = Array.from({ length: 30 }, (_, i) => `label ${i}`);
  await t.throwsAsync(prepare(t, { content: line('x', 'y'), labels }), {
    message: /"label 19" \(19\) and 10 more$/,
  });
});

test('a file that changes between two readings is refused', async (t) => {
  const folder = temporaryFolder(t, { 'a.jsonl': file(many(10)), 'other.jsonl': file(many(11)) });
  const path = join(folder, 'a.jsonl');
  const options = {
    path,
    labels: LABELS,
    tokenizer,
    seqLen: 8,
    validationFraction: 0,
    cacheDir: temporaryFolder(t),
    onProgress: (text: string) => {
      if (text === 'Checking the examples') copyFileSync(join(folder, 'other.jsonl'), path);
    },
  };
  await t.throwsAsync(prepareExamples(options), {
    instanceOf: DataError,
    message: /changed while it was being read/,
  });
  t.deepEqual(readdirSync(options.cacheDir), []);
});
