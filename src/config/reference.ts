/** The table of docs/configuration.md, made from the schema so that the two cannot differ. Pure. */
import { stringify } from 'yaml';
import { describeAllowed, leafPaths, schemaAt } from './json-schema.ts';

/** One Markdown row for each field: name, default, what is allowed, what it is. */
export function referenceTable(): string {
  const rows = leafPaths().map((path) => {
    const node = schemaAt(path.split('.')) ?? {};
    const isRequired = REQUIRED.has(path);
    const fallback =
      node.default === undefined ? (isRequired ? '**required**' : '') : `\`${inline(node.default)}\``;
    return `| \`${path}\` | ${fallback} | ${describeAllowed(node)} | ${node.description ?? ''} |`;
  });
  return ['| field | default | allowed | what it is |', '| --- | --- | --- | --- |', ...rows].join('\n');
}

const REQUIRED = new Set(['name', 'data.path', 'steps']);

function inline(value: unknown): string {
  return stringify(value, { collectionStyle: 'flow' }).trim();
}
