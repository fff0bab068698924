import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { DataError, OperatingError } from '../../src/errors.ts';
import { removeCacheFolder } from '../../src/files/cache-folder.ts';
import {
  openTokenCache,
  writeTokenCache,
  type PartName,
  type TokenCacheContent,
} from '../../src/files/token-cache.ts';
import { temporaryFolder } from './temporary-folder.ts';

const plain: TokenCacheContent = { key: 'k', vocabSize: 300, hasMask: false, tokenizerJson: null };
const range = (count: number, from = 0): Int32Array => Int32Array.from({ length: count }, (_, i) => from + i);

const write = (
  cacheDir: string,
  parts: Partial<Record<PartName, readonly (readonly [ids: Int32Array, isTarget: boolean])[]>>,
  content: TokenCacheContent = plain,
): Promise<void> =>
  writeTokenCache(cacheDir, content, async (writers) => {
    for (const part of ['train', 'validation'] as const) {
      for (const [ids, isTarget] of parts[part] ?? []) await writers[part].append(ids, isTarget);
    }
    return { documents: 1, notices: ['a notice'] };
  });

const open = async (cacheDir: string, damages: string[] = []): ReturnType<typeof openTokenCache> =>
  openTokenCache(cacheDir, 'k', (reason) => damages.push(reason));

test('sequence k covers tokens k * seqLen to k * seqLen + seqLen, the last one shared with its neighbour', async (t) => {
  const cacheDir = temporaryFolder(t);
  await write(cacheDir, {
    train: [
      [range(6), true],
      [range(5, 6), true],
    ],
    validation: [[range(3, 100), true]],
  });
  const cache = (await open(cacheDir))!;
  t.teardown(() => cache.close());
  const train = await cache.sequences('train', 3);
  t.is(train.count, 3); // 11 tokens: 0..3, 3..6, 6..9; a fourth needs token 12
  const { tokens, mask } = await train.read([2, 0]);
  t.deepEqual([...tokens], [6, 7, 8, 9, 0, 1, 2, 3]);
  t.is(mask, null);
  t.is((await cache.sequences('train', 10)).count, 1);
  t.is((await cache.sequences('train', 11)).count, 0);
  t.deepEqual([...(await (await cache.sequences('validation', 2)).read([0])).tokens], [100, 101, 102]);
  t.deepEqual(cache.header.tokens, { train: 11, validation: 3 });
  t.deepEqual(cache.header.notices, ['a notice']);
  await t.throwsAsync(train.read([3]), { instanceOf: RangeError, message: /no sequence 3: the part has 3/ });
  await t.throwsAsync(train.read([0, -1]), { instanceOf: RangeError });
});

test('a sequence in which no label counts is left out', async (t) => {
  const cacheDir = temporaryFolder(t);
  const parts = {
    train: [
      [range(5), false] as const, // sequence 0: its labels are 1 2 3 4
      [range(1, 5), true] as const, // sequence 1: 5 6 7 8
      [range(6, 6), false] as const,
      [range(1, 12), true] as const, // sequence 2: 9 10 11 12
    ],
  };
  await write(cacheDir, parts, { ...plain, hasMask: true });
  const cache = (await open(cacheDir))!;
  t.teardown(() => cache.close());
  const train = await cache.sequences('train', 4);
  t.is(train.count, 2);
  const { tokens } = await train.read([0, 1]);
  t.deepEqual([...tokens], [4, 5, 6, 7, 8, 8, 9, 10, 11, 12]);
  await t.throwsAsync(train.read([2]), { instanceOf: RangeError });
});

test('the mask says of each label whether it counts', async (t) => {
  const cacheDir = temporaryFolder(t);
  const parts = {
    train: [[range(3), false] as const, [range(4, 3), true] as const, [range(2, 7), false] as const],
  };
  await write(cacheDir, parts, { ...plain, hasMask: true });
  const cache = (await open(cacheDir))!;
  t.teardown(() => cache.close());
  const { tokens, mask } = await (await cache.sequences('train', 4)).read([0, 1]);
  t.deepEqual([...tokens], [0, 1, 2, 3, 4, 4, 5, 6, 7, 8]);
  t.deepEqual([...mask!], [0, 0, 1, 1, 1, 1, 0, 0]); // of the labels 1 2 3 4 and 5 6 7 8
});

test('ids of a large vocabulary take four bytes, of a small one two', async (t) => {
  for (const [vocabSize, bytesPerToken] of [
    [65_536, 2],
    [65_537, 4],
  ] as const) {
    const cacheDir = temporaryFolder(t);
    await write(cacheDir, { train: [[Int32Array.of(0, vocabSize - 1), true]] }, { ...plain, vocabSize });
    t.is(readFileSync(join(cacheDir, 'k', 'train.tokens')).length, 2 * bytesPerToken);
    const cache = (await open(cacheDir))!;
    t.deepEqual([...(await (await cache.sequences('train', 1)).read([0])).tokens], [0, vocabSize - 1]);
    await cache.close();
  }
});

test('more tokens than the buffer of the writer come back in order', async (t) => {
  const cacheDir = temporaryFolder(t);
  const count = 600_001;
  await write(
    cacheDir,
    {
      train: [
        [range(7), true],
        [range(count, 7), true],
      ],
    },
    { ...plain, vocabSize: 1_000_000 },
  );
  const cache = (await open(cacheDir))!;
  t.teardown(() => cache.close());
  const { tokens } = await (await cache.sequences('train', count + 6)).read([0]);
  t.deepEqual(tokens, range(count + 7));
});

test('a tokenizer.json is kept beside the tokens', async (t) => {
  const cacheDir = temporaryFolder(t);
  await write(cacheDir, {}, { ...plain, tokenizerJson: '{"a":1}' });
  const cache = (await open(cacheDir))!;
  t.is(cache.tokenizerJson, '{"a":1}');
  await cache.close();
});

test('nothing is opened where nothing was written', async (t) => {
  const damages: string[] = [];
  t.is(await open(join(temporaryFolder(t), 'none'), damages), null);
  t.deepEqual(damages, []);
});

test('a write that fails leaves nothing behind', async (t) => {
  const cacheDir = temporaryFolder(t);
  const failing = writeTokenCache(cacheDir, plain, async ({ train }) => {
    await train.append(range(10), true);
    throw new DataError('x', 'bad text');
  });
  await t.throwsAsync(failing, { instanceOf: DataError, message: 'bad text' });
  t.deepEqual(readdirSync(cacheDir), []);
});

test('what an interrupted process left half-written is removed; what a living one writes is not', async (t) => {
  const cacheDir = temporaryFolder(t);
  const ended = spawnSync(process.execPath, ['-e', '']).pid;
  const folders = {
    ended: `.partial~${hostname()}~${ended}~a`,
    recycled: `.partial~${hostname()}~${process.pid}~b`,
    living: `.partial~${hostname()}~${process.ppid}~c`,
    elsewhere: `.partial~another-host~${ended}~d`,
  };
  for (const name of Object.values(folders)) {
    mkdirSync(join(cacheDir, name));
    writeFileSync(join(cacheDir, name, 'train.tokens'), 'half');
  }
  await write(cacheDir, { train: [[range(3), true]] });
  t.deepEqual(readdirSync(cacheDir).toSorted(), [folders.elsewhere, folders.living, 'k'].toSorted());
});

test('of two writers at once the first gives the cache its name, and both can read it', async (t) => {
  const cacheDir = temporaryFolder(t);
  let release = (): void => {};
  const gate = new Promise<void>((resolve) => (release = resolve));
  const slow = writeTokenCache(cacheDir, plain, async ({ train }) => {
    await gate;
    await train.append(range(9), true);
    return { documents: 1, notices: [] };
  });
  await write(cacheDir, { train: [[range(9), true]] });
  const cache = (await open(cacheDir))!;
  t.teardown(() => cache.close());
  release();
  await slow;
  t.deepEqual(readdirSync(cacheDir), ['k']);
  t.deepEqual([...(await (await cache.sequences('train', 8)).read([0])).tokens], [...range(9)]);
});

test('a damaged cache is told and not opened, and can be written again', async (t) => {
  const cacheDir = temporaryFolder(t);
  const file = (name: string): string => join(cacheDir, 'k', name);
  const damages: readonly [make: () => void, reason: RegExp][] = [
    [() => truncateSync(file('train.tokens'), 7), /train\.tokens has 7 bytes instead of 10/],
    [() => writeFileSync(file('header.json'), '{"version"'), /JSON/],
    [() => writeFileSync(file('header.json'), '{"version": 99}'), /its header is of another data set/],
    [() => writeFileSync(file('header.json'), 'null'), /./],
  ];
  for (const [make, reason] of damages) {
    await write(cacheDir, { train: [[range(5), true]] });
    make();
    const reasons: string[] = [];
    t.is(await open(cacheDir, reasons), null);
    t.is(reasons.length, 1);
    t.regex(reasons[0]!, reason);
    await removeCacheFolder(cacheDir, 'k');
  }
  t.deepEqual(readdirSync(cacheDir), []);
});

test('a cache that becomes shorter while it is open is an error, not zeros', async (t) => {
  const cacheDir = temporaryFolder(t);
  await write(cacheDir, { train: [[range(50), true]] });
  const cache = (await open(cacheDir))!;
  t.teardown(() => cache.close());
  truncateSync(join(cacheDir, 'k', 'train.tokens'), 20);
  const train = await cache.sequences('train', 30);
  await t.throwsAsync(train.read([0]), {
    instanceOf: DataError,
    message: /became shorter/,
  });
});

test('a place that cannot be written is named with the setting that moves it', async (t) => {
  const folder = temporaryFolder(t, { file: 'x' });
  await t.throwsAsync(write(join(folder, 'file', 'cache'), {}), {
    instanceOf: OperatingError,
    message: /cannot be written: ENOTDIR; data\.cache_dir or GALORE_CACHE_DIR names another place/,
  });
});
