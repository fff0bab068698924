import { cpSync, readdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { runConfigSchema } from '../../src/config/schema.ts';
import { ConfigError, DataError } from '../../src/errors.ts';
import { dataOptions, prepareDataset, type Dataset, type SequenceSource } from '../../src/files/dataset.ts';
import { temporaryFolder } from './temporary-folder.ts';

interface Wanted {
  readonly data: Record<string, unknown>;
  readonly tokenizer?: Record<string, unknown>;
  readonly seqLen?: number;
  readonly cacheDir?: string;
  readonly skipBadLines?: boolean;
}

/** Opens data with a cache of their own, and closes them with the test. `did` lists what was done. */
async function prepare(
  t: ExecutionContext,
  wanted: Wanted,
): Promise<Dataset & { readonly did: readonly string[] }> {
  const { data, tokenizer } = runConfigSchema.parse({
    name: 'test',
    model: '9m',
    steps: 1,
    data: wanted.data,
    tokenizer: wanted.tokenizer ?? { type: 'byte' },
  });
  const did = new Set<string>();
  const dataset = await prepareDataset({
    data: dataOptions(data),
    tokenizer,
    seqLen: wanted.seqLen ?? 8,
    cacheDir: wanted.cacheDir ?? temporaryFolder(t),
    skipBadLines: wanted.skipBadLines ?? false,
    onProgress: (text, share) => {
      did.add(text);
      if (!(share >= 0 && share <= 1)) t.fail(`share ${share} of ${text}`);
    },
  });
  t.teardown(() => dataset.close());
  return { ...dataset, did: [...did] };
}

/** All complete sequences of a part as the one text they cover. */
async function textOf(dataset: Dataset, source: SequenceSource | null, seqLen = 8): Promise<string> {
  if (source === null) return '';
  const { tokens } = await source.read(Array.from({ length: source.count }, (_, k) => k));
  const ids = [...tokens].filter((_, i) => i % (seqLen + 1) < seqLen || i === tokens.length - 1);
  return dataset.tokenizer.decode(ids);
}

/** Lines that are all different, as many as asked. */
const lines = (count: number, label = 'line'): string =>
  Array.from({ length: count }, (_, i) => `${label} ${i} says ${(i * 7919) % 1009}.\n`).join('');

test('the sequences of a byte-level text follow the rule of the reference curve', async (t) => {
  // Window k: inputs are bytes [k * seq, k * seq + seq), targets the same shifted by one.
  const text = lines(40);
  const cut = Math.floor(0.9 * text.length);
  const folder = temporaryFolder(t, { 'train.txt': text.slice(0, cut), 'held-out.txt': text.slice(cut) });
  const dataset = await prepare(t, {
    data: {
      path: join(folder, 'train.txt'),
      validation_path: join(folder, 'held-out.txt'),
      order: 'sequential',
    },
  });
  t.is(dataset.train.count, Math.floor((cut - 1) / 8));
  t.is(dataset.validation?.count, Math.floor((text.length - cut - 1) / 8));
  const bytes = Buffer.from(text);
  const { tokens, mask } = await dataset.train.read([0, 1, 17]);
  t.deepEqual(
    [...tokens],
    [0, 1, 17].flatMap((k) => [...bytes.subarray(k * 8, k * 8 + 9)]),
  );
  t.is(mask, null);
  t.is(dataset.trainTokens, cut);
  t.deepEqual(dataset.notices, []);
});

test('documents come in the order of the file names, with the end token between them if there is one', async (t) => {
  const folder = temporaryFolder(t, {
    'b.txt': 'second text ',
    'a.txt': 'first text ',
    'c.jsonl': '{"text":"third"}\n{"text":"last"}',
  });
  const data = { path: folder, validation_fraction: 0 };
  const bytes = await prepare(t, { data, seqLen: 1 });
  t.is(await textOf(bytes, bytes.train, 1), 'first text second text thirdlast');
  const bpe = await prepare(t, { data, seqLen: 1, tokenizer: { type: 'bpe', vocab_size: 257 } });
  const expected = 'first text <|endoftext|>second text <|endoftext|>third<|endoftext|>last';
  t.is(bpe.trainTokens, expected.replaceAll('<|endoftext|>', '|').length);
  t.is(await textOf(bpe, bpe.train, 1), expected);
  t.is(bpe.documents, 4);
  t.is(bpe.validation, null);
  t.deepEqual(bpe.notices, [], 'nothing was to be held out');
});

test('the loss is on completions and on the end tokens after them, not on prompts', async (t) => {
  const content = '{"prompt":"ab","completion":"cd"}\n{"text":"ef"}\n{"prompt":"gh","completion":"ij"}\n';
  const folder = temporaryFolder(t, { 'a.jsonl': content });
  const dataset = await prepare(t, {
    data: { path: folder, validation_fraction: 0 },
    tokenizer: { type: 'bpe', vocab_size: 257 },
    seqLen: 11,
  });
  const { tokens, mask } = await dataset.train.read([0]);
  t.is(dataset.tokenizer.decode([...tokens]), 'abcd<|endoftext|>ef<|endoftext|>ghij');
  //                         labels:  b  c  d  |  e  f  |  g  h  i  j
  t.deepEqual([...mask!], [0, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1]);
});

test('data that were tokenised once are not tokenised again, also from another folder', async (t) => {
  const folder = temporaryFolder(t, { 'a.txt': lines(100) });
  const cacheDir = temporaryFolder(t);
  const tokenizer = { type: 'bpe', vocab_size: 280 };
  const first = await prepare(t, { data: { path: folder }, tokenizer, cacheDir });
  t.deepEqual(first.did, [
    'Reading the data',
    'Checking the texts',
    'Counting words',
    'Training the tokenizer',
    'Tokenising the data',
  ]);
  const copy = temporaryFolder(t);
  cpSync(join(folder, 'a.txt'), join(copy, 'renamed.txt'));
  const second = await prepare(t, { data: { path: copy }, tokenizer, cacheDir, seqLen: 5 });
  t.deepEqual(second.did, ['Reading the data']);
  t.is(second.fingerprint, first.fingerprint);
  t.is(second.tokenizer.json, first.tokenizer.json);
  t.is(readdirSync(cacheDir).length, 1);
});

test('other text, another tokenizer or another split has another fingerprint and cache', async (t) => {
  const folder = temporaryFolder(t, { 'a.txt': lines(100), 'b.txt': lines(101) });
  const path = join(folder, 'a.txt');
  const variants: Wanted[] = [
    { data: { path } },
    { data: { path: join(folder, 'b.txt') } },
    { data: { path: folder } },
    { data: { path: [join(folder, 'b.txt'), path] } },
    { data: { path, validation_fraction: 0.1 } },
    { data: { path, validation_path: join(folder, 'b.txt') } },
    { data: { path }, tokenizer: { type: 'bpe', vocab_size: 258 } },
    { data: { path }, tokenizer: { type: 'bpe', vocab_size: 259 } },
  ];
  const cacheDir = temporaryFolder(t);
  const fingerprints = new Set<string>();
  for (const variant of variants) fingerprints.add((await prepare(t, { ...variant, cacheDir })).fingerprint);
  t.is(fingerprints.size, variants.length);
  t.is(readdirSync(cacheDir).length, variants.length);
});

test('the same data give the same tokens and tokenizer each time', async (t) => {
  const folder = temporaryFolder(t, { 'a.txt': lines(300) });
  const wanted = { data: { path: folder }, tokenizer: { type: 'bpe', vocab_size: 300 } };
  const [first, second] = [await prepare(t, wanted), await prepare(t, wanted)];
  t.is(first.tokenizer.json, second.tokenizer.json);
  t.is(first.fingerprint, second.fingerprint);
  t.is(await textOf(first, first.train), await textOf(second, second.train));
  t.is(await textOf(first, first.validation), await textOf(second, second.validation));
});

test('many documents are held out whole, near the wanted share, whatever file or place they stand in', async (t) => {
  const texts = Array.from({ length: 200 }, (_, i) => `document ${i} ${'word '.repeat(20 + (i % 5))}\n`);
  const jsonl = (list: readonly string[]): string => list.map((text) => JSON.stringify({ text })).join('\n');
  const heldOutOf = async (files: Record<string, string>): Promise<string[]> => {
    const dataset = await prepare(t, {
      data: { path: temporaryFolder(t, files), validation_fraction: 0.1 },
      seqLen: 1,
    });
    const share = dataset.validationTokens / (dataset.trainTokens + dataset.validationTokens);
    t.true(Math.abs(share - 0.1) < 0.01, `the share is ${share}`);
    const heldOut = (await textOf(dataset, dataset.validation, 1)).split('\n').filter((text) => text !== '');
    for (const text of heldOut) t.true(texts.includes(`${text}\n`), `${text} is no whole document`);
    return heldOut.toSorted();
  };
  const forward = await heldOutOf({ 'a.jsonl': jsonl(texts) });
  const mixed = await heldOutOf({
    'a.jsonl': jsonl(texts.slice(50).toReversed()),
    'b.jsonl': jsonl(texts.slice(0, 50)),
  });
  t.deepEqual(mixed, forward);
});

test('few documents are split by pieces at line ends, and every line is on one side', async (t) => {
  const text = lines(4000);
  const folder = temporaryFolder(t, { 'a.txt': text.slice(0, 60_000), 'b.txt': text.slice(60_000) });
  const dataset = await prepare(t, { data: { path: folder, validation_fraction: 0.05 }, seqLen: 1 });
  const share = dataset.validationTokens / text.length;
  t.true(Math.abs(share - 0.05) < 0.02, `the share is ${share}`);
  const [train, heldOut] = [
    await textOf(dataset, dataset.train, 1),
    await textOf(dataset, dataset.validation, 1),
  ];
  t.is(train.length + heldOut.length, text.length);
  const cutLines = (part: string): string[] => part.split('\n').filter((line) => line !== '');
  const [trainLines, heldOutLines] = [new Set(cutLines(train)), cutLines(heldOut)];
  t.is(heldOutLines.filter((line) => trainLines.has(line)).length, 0);
});

test('one document far longer than the others does not decide the share', async (t) => {
  // Whichever of the 25 files is held out first, the share stays near 5%.
  for (let i = 0; i < 6; i++) {
    const files = Object.fromEntries(
      Array.from({ length: 24 }, (_, k) => [`${k}.txt`, lines(2, `file ${k}`)]),
    );
    const folder = temporaryFolder(t, { ...files, 'long.txt': lines(3000, `long ${i}`) });
    const dataset = await prepare(t, { data: { path: folder, validation_fraction: 0.05 } });
    const share = dataset.validationTokens / (dataset.trainTokens + dataset.validationTokens);
    t.true(Math.abs(share - 0.05) <= 0.025, `the share is ${share}`);
  }
});

test('where a held-out piece was taken out an end token stands, and none inside text that goes on', async (t) => {
  const text = lines(2000);
  const folder = temporaryFolder(t, { 'a.txt': text });
  const dataset = await prepare(t, {
    data: { path: folder },
    tokenizer: { type: 'bpe', vocab_size: 257 },
    seqLen: 1,
  });
  const train = await textOf(dataset, dataset.train, 1);
  const runs = train.split('<|endoftext|>');
  t.true(runs.length >= 2 && runs.length <= 8, `${runs.length} runs`);
  for (const run of runs) t.true(text.includes(run));
});

test('a text is tokenised as a whole, however many pieces it is read in', async (t) => {
  const text = "It's  the\n\n same   text, isn't it?  ".repeat(8000); // 280 000 characters
  const folder = temporaryFolder(t, { 'a.txt': text });
  const dataset = await prepare(t, {
    data: { path: folder, validation_fraction: 0 },
    tokenizer: { type: 'bpe', vocab_size: 290 },
    seqLen: 64,
  });
  const ids = dataset.tokenizer.encode(text);
  t.is(dataset.trainTokens, ids.length);
  const { tokens } = await dataset.train.read([0, dataset.train.count - 1]);
  const last = (dataset.train.count - 1) * 64;
  t.deepEqual([...tokens], [...ids.subarray(0, 65), ...ids.subarray(last, last + 65)]);
});

test('a tokenizer.json of the user is used as it is', async (t) => {
  const folder = temporaryFolder(t, { 'a.txt': lines(200) });
  const trained = await prepare(t, { data: { path: folder }, tokenizer: { type: 'bpe', vocab_size: 290 } });
  const model = temporaryFolder(t, { 'tokenizer.json': trained.tokenizer.json! });
  const loaded = await prepare(t, { data: { path: folder }, tokenizer: { type: 'file', path: model } });
  t.is(await textOf(loaded, loaded.train), await textOf(trained, trained.train));
  t.is(loaded.trainTokens, trained.trainTokens);
});

test('two preparations of the same data at once both succeed and leave one cache', async (t) => {
  const wanted = {
    data: { path: temporaryFolder(t, { 'a.txt': lines(500) }) },
    tokenizer: { type: 'bpe', vocab_size: 280 },
    cacheDir: temporaryFolder(t),
  };
  const [first, second] = await Promise.all([prepare(t, wanted), prepare(t, wanted)]);
  t.is(await textOf(first, first.train), await textOf(second, second.train));
  t.deepEqual(readdirSync(wanted.cacheDir), [first.fingerprint]);
});

test('a damaged cache is made anew, with a notice', async (t) => {
  const wanted = {
    data: { path: temporaryFolder(t, { 'a.txt': lines(100) }) },
    cacheDir: temporaryFolder(t),
  };
  const { fingerprint } = await prepare(t, wanted);
  truncateSync(join(wanted.cacheDir, fingerprint, 'train.tokens'), 12);
  const again = await prepare(t, wanted);
  t.regex(again.notices.join(), /was damaged \(train\.tokens has 12 bytes instead of \d+\) and is made anew/);
  t.true(again.did.includes('Tokenising the data'));
  t.deepEqual((await prepare(t, wanted)).did, ['Reading the data']);
});

test('a cache without the tokenizer it needs is an error that names it', async (t) => {
  const wanted = {
    data: { path: temporaryFolder(t, { 'a.txt': lines(100) }) },
    tokenizer: { type: 'bpe', vocab_size: 260 },
    cacheDir: temporaryFolder(t),
  };
  const { fingerprint } = await prepare(t, wanted);
  rmSync(join(wanted.cacheDir, fingerprint, 'tokenizer.json'));
  await t.throwsAsync(prepare(t, wanted), { instanceOf: DataError, message: new RegExp(fingerprint) });
});

test('no validation, with a notice, where the held-out text is shorter than a sequence', async (t) => {
  const folder = temporaryFolder(t, { 'a.txt': 'one line of text\n'.repeat(3), 'b.txt': 'held out' });
  const short = await prepare(t, {
    data: { path: join(folder, 'a.txt'), validation_path: join(folder, 'b.txt') },
    seqLen: 16,
  });
  t.is(short.validation, null);
  t.deepEqual(short.notices, [
    'there is no validation: the held-out text has 8 tokens, and one sequence of seq_len 16 needs 17',
  ]);
  const single = await prepare(t, { data: { path: join(folder, 'a.txt') }, seqLen: 16 });
  t.is(single.validation, null, 'a single piece is not split');
  t.is(single.notices.length, 1);
  t.is(single.trainTokens, 51);
});

test('held-out data that are also in the training data are told', async (t) => {
  const folder = temporaryFolder(t, { 'a.txt': lines(50), 'b.txt': lines(50) });
  const dataset = await prepare(t, {
    data: { path: join(folder, 'a.txt'), validation_path: join(folder, 'b.txt') },
  });
  t.regex(dataset.notices.join(), /held-out file .*b\.txt is in the training data too/);
});

test('a tokenizer that the data cannot fill is told', async (t) => {
  const folder = temporaryFolder(t, { 'a.txt': 'a b a b a b a b a b a b' });
  const dataset = await prepare(t, { data: { path: folder }, tokenizer: { type: 'bpe', vocab_size: 4096 } });
  t.regex(
    dataset.notices.join('\n'),
    /gave a tokenizer of 259 tokens, fewer than tokenizer\.vocab_size \(4096\)/,
  );
});

test('data and settings that cannot be used are refused in words', async (t) => {
  const folder = temporaryFolder(t, {
    'short.txt': 'short',
    'blank.jsonl': '\n\n{"text":""}\n',
    'bad.jsonl': `${'{"text":"a"}\n'.repeat(30)}{"txt":"a"}\n`,
    'binary.txt': Buffer.from([1, 2, 0, 3]),
    'mark.txt': '\ufeff',
    'good.txt': lines(50),
  });
  const refusals: readonly [wanted: Wanted, message: RegExp][] = [
    [{ data: { path: join(folder, 'short.txt') } }, /has 5 tokens; one sequence of seq_len 8 needs 9/],
    [{ data: { path: join(folder, 'blank.jsonl') } }, /data\.path holds no text at all/],
    [{ data: { path: join(folder, 'mark.txt') } }, /data\.path holds no text at all/],
    [{ data: { path: join(folder, 'bad.jsonl') } }, /bad\.jsonl, line 31 has the fields "txt"; wanted/],
    [
      { data: { path: join(folder, 'binary.txt') } },
      /binary\.txt is not text: it has a zero byte at offset 2/,
    ],
    [{ data: { path: join(folder, 'none.txt') } }, /none\.txt does not exist; data\.path/],
    [
      { data: { path: join(folder, 'good.txt'), validation_path: join(folder, 'none.txt') } },
      /none\.txt does not exist; data\.validation_path/,
    ],
    [
      {
        data: { path: join(folder, 'good.txt') },
        tokenizer: { type: 'file', path: join(folder, 'good.txt') },
      },
      /good\.txt is not JSON/,
    ],
  ];
  const cacheDir = temporaryFolder(t);
  for (const [wanted, message] of refusals) {
    await t.throwsAsync(prepare(t, { ...wanted, cacheDir }), { instanceOf: DataError, message });
  }
  await t.throwsAsync(prepare(t, { data: { path: folder }, tokenizer: { type: 'file' } }), {
    instanceOf: ConfigError,
    message: /tokenizer\.path is missing/,
  });
  t.true(
    readdirSync(cacheDir).every((name) => !name.startsWith('.')),
    'nothing half-written is left',
  );
});

test('a fault that was corrected is gone: refusals are not kept', async (t) => {
  const folder = temporaryFolder(t, { 'a.jsonl': '{"txt":"a"}' });
  const wanted = { data: { path: folder }, cacheDir: temporaryFolder(t) };
  await t.throwsAsync(prepare(t, wanted), { instanceOf: DataError });
  writeFileSync(join(folder, 'a.jsonl'), '{"text":"long enough now"}');
  t.is((await prepare(t, wanted)).trainTokens, 15);
});

test('lines that cannot be used are an error, or left out and counted, also from the cache', async (t) => {
  const folder = temporaryFolder(t, {
    'a.jsonl': '{"text":"first text"}\n{"text":7}\n{"text":"second text"}\n',
    'b.jsonl': '{"prompt":"x"}\n',
  });
  const wanted = { data: { path: folder, validation_fraction: 0 }, cacheDir: temporaryFolder(t) };
  await t.throwsAsync(prepare(t, wanted), { instanceOf: DataError, message: /line 2: "text" is a number/ });
  for (const did of [3, 1]) {
    const dataset = await prepare(t, { ...wanted, skipBadLines: true });
    t.is(dataset.did.length, did);
    t.is(dataset.trainTokens, 'first textsecond text'.length);
    t.deepEqual(dataset.notices, [
      'file 1 of 2: 1 line was left out: 1 with a "text" that is no text (line 2)',
      'file 2 of 2: 1 line was left out: 1 with no "text" (line 1)',
    ]);
  }
  await t.throwsAsync(prepare(t, wanted), { message: /line 2/ }, 'the cache without them is not for all');
  const nothing = { ...wanted, data: { path: join(folder, 'b.jsonl') }, skipBadLines: true };
  await t.throwsAsync(prepare(t, nothing), {
    message: 'data.path holds no text at all; 1 line was left out: 1 with no "text" (line 1)',
  });
});
