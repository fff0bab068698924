/** docs/operations.md: every row of its table names tests, and they exist. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';

const ROOT = join(import.meta.dirname, '..', '..');
const DOCUMENT = readFileSync(join(ROOT, 'docs', 'operations.md'), 'utf8');

/** The titles behind a mark such as T3. */
const named = new Map(
  [...DOCUMENT.matchAll(/^- \*\*(T\d+)\*\* (.*)$/gm)].map(
    ([, mark, titles]) => [mark!, [...titles!.matchAll(/"([^"]+)"/g)].map(([, title]) => title!)] as const,
  ),
);

test('every row of the failure table names its tests', (t) => {
  const rows = [...DOCUMENT.matchAll(/\| (T\d+) +\|$/gm)].map(([, mark]) => mark!);
  t.deepEqual(rows, [...named.keys()]);
  t.true(rows.length > 20);
  for (const [mark, titles] of named) t.true(titles.length > 0, mark);
});

test('the tests that the failure table names exist', (t) => {
  const folder = join(ROOT, 'test');
  const tests = readdirSync(folder, { recursive: true, encoding: 'utf8' })
    // A contract suite is run by the tests of its implementations.
    .filter((path) => path.endsWith('.test.ts') || /^contract.*\.ts$/.test(path))
    .map((path) => readFileSync(join(folder, path), 'utf8'))
    .join('\n');
  const missing = [...named.values()].flat().filter((title) => !tests.includes(title));
  t.deepEqual(missing, []);
});
