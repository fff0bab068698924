import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { DataError, OperatingError } from '../../src/errors.ts';
import { changeTokenFile, readTokenFile } from '../../src/identity/token-file.ts';
import { newToken, TOKEN_RANDOM_BYTES } from '../../src/identity/token.ts';
import { temporaryDir } from '../temporary-dir.ts';

const token = (number: number) =>
  newToken('trainer', new Uint8Array(TOKEN_RANDOM_BYTES).fill(number), Date.parse('2030-01-01'), null);

test('a file of tokens is made with its folder, for its owner alone, and holds no token', async (t) => {
  const path = join(temporaryDir(t), 'a', 'b', 'tokens.json');
  t.is(readTokenFile(path), null);
  const { text, stored } = token(1);
  await changeTokenFile(path, () => [stored]);
  t.deepEqual(readTokenFile(path), [stored]);
  if (process.platform !== 'win32') t.is(statSync(path).mode & 0o777, 0o600);
  t.false(readFileSync(path, 'utf8').includes(text.slice(16)));
  t.false(existsSync(`${path}.lock`));
});

test('changes at the same time all count', async (t) => {
  const path = join(temporaryDir(t), 'tokens.json');
  const numbers = Array.from({ length: 12 }, (_, i) => i + 1);
  const add = (n: number) => changeTokenFile(path, (tokens) => [...tokens, token(n).stored]);
  await Promise.all(numbers.map(add));
  t.is(new Set(readTokenFile(path)?.map(({ id }) => id)).size, 12);
});

test('a change that fails leaves the file as it was, and the lock free', async (t) => {
  const path = join(temporaryDir(t), 'tokens.json');
  await changeTokenFile(path, () => [token(1).stored]);
  const fail = (): never => {
    throw new Error('no');
  };
  await t.throwsAsync(changeTokenFile(path, fail), { message: 'no' });
  await changeTokenFile(path, (tokens) => [...tokens, token(2).stored]);
  t.is(readTokenFile(path)?.length, 2);
});

test('a lock that a crash has left is named after two seconds', async (t) => {
  const path = join(temporaryDir(t), 'tokens.json');
  writeFileSync(`${path}.lock`, '');
  const error = await t.throwsAsync(
    changeTokenFile(path, () => []),
    { instanceOf: OperatingError },
  );
  t.true(error.message.endsWith(`remove ${path}.lock`), error.message);
});

test('a damaged file is an error that names it and what is wrong', (t) => {
  const dir = temporaryDir(t);
  const cases: [string, RegExp][] = [
    ['', /it is not JSON/],
    ['[]', /formatVersion|expected object/i],
    ['{"formatVersion": 2, "tokens": []}', /formatVersion/],
    [JSON.stringify({ formatVersion: 1, tokens: [{ ...token(1).stored, role: 'king' }] }), /tokens\.0\.role/],
    [
      JSON.stringify({ formatVersion: 1, tokens: [{ ...token(1).stored, sha256: 'ab' }] }),
      /tokens\.0\.sha256/,
    ],
  ];
  for (const [i, [text, said]] of cases.entries()) {
    const path = join(dir, `${i}.json`);
    writeFileSync(path, text);
    const error = t.throws(() => readTokenFile(path), { instanceOf: DataError });
    t.true(error.message.startsWith(`${path} is not a file of join tokens`), error.message);
    t.regex(error.message, said);
  }
  mkdirSync(join(dir, 'folder.json'));
  t.throws(() => readTokenFile(join(dir, 'folder.json')), { message: /is not a file$/ });
});
