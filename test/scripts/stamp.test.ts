import test from 'ava';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { hashFiles, readStamp, replaceFolder, writeStamp } from '#scripts/stamp';
import { emptyFolder, writeFiles } from './folder.ts';

test('a hash changes with the content, the name and the number of the files', (t) => {
  const root = emptyFolder(t);
  writeFiles(root, { 'src/a.ts': 'one', 'src/b.ts': 'two' });
  const first = hashFiles(root, ['src']);
  t.is(hashFiles(root, ['src']), first);
  writeFiles(root, { 'src/a.ts': 'One' });
  const changed = hashFiles(root, ['src']);
  writeFiles(root, { 'src/a.ts': 'one', 'src/deep/c.ts': '' });
  const added = hashFiles(root, ['src']);
  t.is(new Set([first, changed, added]).size, 3);
});

test('text that moves from one file to the next changes the hash', (t) => {
  const root = emptyFolder(t);
  writeFiles(root, { a: 'one', b: 'two' });
  const first = hashFiles(root, ['a', 'b']);
  writeFiles(root, { a: 'onet', b: 'wo' });
  t.not(hashFiles(root, ['a', 'b']), first);
});

test('files that are not accepted, and paths that do not exist, do not count', (t) => {
  const root = emptyFolder(t);
  writeFiles(root, { 'src/a.ts': 'one' });
  const isSource = (path: string) => path.endsWith('.ts');
  const first = hashFiles(root, ['src'], isSource);
  writeFiles(root, { 'src/notes.txt': 'later' });
  t.is(hashFiles(root, ['src', 'bench'], isSource), first);
});

test('a stamp reads back as written, replaces the one before and leaves no other file', (t) => {
  const root = emptyFolder(t);
  const path = join(root, 'deep/stamp');
  t.is(readStamp(path), undefined);
  writeStamp(path, 'first');
  writeStamp(path, 'second');
  t.is(readStamp(path), 'second');
  t.deepEqual(readdirSync(join(root, 'deep')), ['stamp']);
});

test('a folder replaces another one, and a missing one, as a whole', (t) => {
  const root = emptyFolder(t);
  for (const text of ['first', 'second']) {
    writeFiles(root, { [`fresh/${text}`]: text });
    replaceFolder(join(root, 'fresh'), join(root, 'deep/place'));
    t.deepEqual(readdirSync(join(root, 'deep/place')), [text]);
    t.is(readFileSync(join(root, 'deep/place', text), 'utf8'), text);
  }
  t.false(existsSync(join(root, 'fresh')));
  t.deepEqual(readdirSync(root), ['deep']);
});
