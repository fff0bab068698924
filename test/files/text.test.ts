import { join } from 'node:path';
import test from 'ava';
import fc from 'fast-check';
import { DataError } from '../../src/errors.ts';
import { cutPieces, cutText, hashFile, readFailure, readLines, readText } from '../../src/files/text.ts';
import { collect, temporaryFolder } from './temporary-folder.ts';

const words = fc.array(
  fc.constantFrom('word', 'été', '中文', '🙂🙂', ' ', '  ', '\n', '\r\n', '\n\n', '\t', 'x'),
  {
    maxLength: 80,
  },
);

test('pieces joined are the text, none is longer than asked or empty, no character is cut', (t) => {
  fc.assert(
    fc.property(words, fc.integer({ min: 2, max: 30 }), (parts, length) => {
      const text = parts.join('');
      const pieces = [...cutText(text, length)];
      t.is(pieces.join(''), text);
      for (const piece of pieces) {
        t.true(piece.length > 0 && piece.length <= length);
        t.notThrows(() => encodeURIComponent(piece), 'a lone surrogate');
      }
    }),
  );
});

test('where pieces end does not depend on the chunks the text arrives in', async (t) => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(words, { maxLength: 6 }),
      fc.integer({ min: 2, max: 30 }),
      async (chunks, length) => {
        const texts = chunks.map((parts) => parts.join(''));
        t.deepEqual(await collect(cutPieces(texts, length)), [...cutText(texts.join(''), length)]);
      },
    ),
  );
});

test('a piece ends at a line end, else before a space, else at its limit', (t) => {
  t.deepEqual([...cutText('one two\nthree four\nfive', 20)], ['one two\nthree four', '\nfive']);
  t.deepEqual([...cutText('one two\n\n  three', 9)], ['one two', '\n\n  three']);
  t.deepEqual([...cutText('one two three four', 10)], ['one two', ' three', ' four']);
  t.deepEqual([...cutText('abcdefghij', 4)], ['abcd', 'efgh', 'ij']);
  t.deepEqual([...cutText('abc🙂def', 4)], ['abc', '🙂de', 'f']);
});

test('a file is read as UTF-8 across the limits of its chunks, without its byte order mark', async (t) => {
  const text = 'é中🙂'.repeat(200_000); // 9 bytes a time: characters straddle every chunk of 1 MiB
  const folder = temporaryFolder(t, {
    'long.txt': text,
    'marked.txt': '\ufeffhello\ufeff',
    'marks.txt': '\ufeff',
  });
  t.is((await collect(readText(join(folder, 'long.txt')))).join(''), text);
  t.is((await collect(readText(join(folder, 'marked.txt')))).join(''), 'hello\ufeff');
  t.deepEqual(await collect(readText(join(folder, 'marks.txt'))), []);
});

test('a file that is not UTF-8 text is refused with the place of the fault', async (t) => {
  const long = Buffer.concat([Buffer.from('a'.repeat(1 << 20)), Buffer.from('bc'), Buffer.from([0xff])]);
  const files: Record<string, [Uint8Array, string]> = {
    'latin1.txt': [Buffer.from([0x61, 0x62, 0xe9, 0x20, 0x63]), 'byte at offset 2 begins no character'],
    'long.txt': [long, 'byte at offset 1048578 begins no character'],
    'torn.txt': [Buffer.from('abc🙂').subarray(0, 6), 'byte at offset 3 begins no character'],
    'zero.txt': [Buffer.from('abc\0def'), 'zero byte at offset 3'],
    'utf16.txt': [Buffer.from('\ufeffabc', 'utf16le'), 'is UTF-16, not UTF-8'],
    'packed.txt': [Buffer.from([0x1f, 0x8b, 8, 0]), 'is compressed (gzip)'],
    'table.parquet': [Buffer.from('PAR1\0\0'), 'is a Parquet file'],
  };
  const contents = Object.fromEntries(Object.entries(files).map(([name, [bytes]]) => [name, bytes]));
  const folder = temporaryFolder(t, contents);
  for (const [name, [, message]] of Object.entries(files)) {
    const path = join(folder, name);
    const error = await t.throwsAsync(collect(readText(path)), { instanceOf: DataError });
    t.is(error.path, path);
    t.true(error.message.startsWith(path) && error.message.includes(message), error.message);
  }
});

test('a file that cannot be opened is named with the reason', async (t) => {
  const folder = temporaryFolder(t, { 'a.txt': 'a' });
  await t.throwsAsync(collect(readText(join(folder, 'none.txt'))), {
    message: /none\.txt does not exist; data must be/,
  });
  await t.throwsAsync(collect(readText(join(folder, 'a.txt', 'b'))), {
    message: /a part of the path is a file/,
  });
  await t.throwsAsync(collect(readText(folder)), { message: /is a folder/ });
  await t.throwsAsync(hashFile(join(folder, 'none.txt')), { instanceOf: DataError });
  // Permissions do not bind an administrator, so the sentence is tested, not the refusal.
  const denied = readFailure('/x', Object.assign(new Error(), { code: 'EACCES' }), 'give a file');
  t.is(denied.message, '/x cannot be read: permission denied; give a file');
  t.regex(
    readFailure('/x', Object.assign(new Error(), { code: 'EIO' }), 'w').message,
    /cannot be read \(EIO\)/,
  );
});

test('a file that is not what it was when it was hashed is refused', async (t) => {
  const folder = temporaryFolder(t, { 'a.txt': 'one', 'b.txt': 'two' });
  const sha256 = await hashFile(join(folder, 'a.txt'));
  t.is(sha256, '7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed');
  t.deepEqual(await collect(readText(join(folder, 'a.txt'), sha256)), ['one']);
  await t.throwsAsync(collect(readText(join(folder, 'b.txt'), sha256)), {
    message: /changed while it was being read/,
  });
});

test('lines keep their numbers over chunks and blocks, and one that is not UTF-8 does not hide the others', async (t) => {
  const long = 'x'.repeat(1_500_000);
  const bytes = Buffer.from(`\ufeffone\n\n${long}\ncaf\u00e9\r\nlast`);
  const bad = Buffer.concat([bytes, Buffer.of(0xff), Buffer.from('\nend\n')]);
  const folder = temporaryFolder(t, { 'good.txt': bytes, 'bad.txt': bad, 'empty.txt': '' });
  const texts = ['one', '', long, 'caf\u00e9\r', 'last'];
  const good = await collect(readLines(join(folder, 'good.txt'), 2_000_000));
  t.deepEqual(
    good,
    texts.map((text, index) => ({ number: index + 1, text })),
  );
  const lines = await collect(readLines(join(folder, 'bad.txt'), 2_000_000));
  t.deepEqual(lines.slice(0, 4), good.slice(0, 4));
  t.deepEqual(lines.slice(4), [
    { number: 5, invalidAt: bytes.length },
    { number: 6, text: 'end' },
  ]);
  t.deepEqual(await collect(readLines(join(folder, 'empty.txt'), 10)), []);
  await t.throwsAsync(collect(readLines(join(folder, 'good.txt'), 1_000_000)), {
    instanceOf: DataError,
    message: /line 3 has more than 1000000 bytes/,
  });
});
