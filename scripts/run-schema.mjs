/** Writes what is made from the configuration schema: docs/run.schema.json and the table of docs/configuration.md. */
import { readFileSync, writeFileSync } from 'node:fs';
import { format, resolveConfig } from 'prettier';

const root = new URL('../', import.meta.url);
const { jsonSchema } = await import(new URL('dist/src/config/json-schema.js', root).href);
const { referenceTable } = await import(new URL('dist/src/config/reference.js', root).href);

const BEGIN = '<!-- begin: made by scripts/run-schema.mjs -->';
const END = '<!-- end -->';

await write('docs/run.schema.json', 'json', JSON.stringify(jsonSchema()));
const page = readFileSync(new URL('docs/configuration.md', root), 'utf8');
const [before, rest] = page.split(BEGIN);
const after = rest?.split(END)[1];
if (after === undefined) throw new Error('docs/configuration.md has lost its markers');
await write(
  'docs/configuration.md',
  'markdown',
  `${before}${BEGIN}\n\n${referenceTable()}\n\n${END}${after}`,
);

async function write(path, parser, text) {
  const options = await resolveConfig(new URL(path, root));
  writeFileSync(new URL(path, root), await format(text, { ...options, parser }));
}
