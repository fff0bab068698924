/** The YAML file as plain data, with the line of every field. Pure: the text is an argument. */
import { isAlias, isMap, isScalar, LineCounter, parseDocument, type Document } from 'yaml';
import { ConfigError, type ConfigFault } from '../errors.ts';
import { isMapping, type Mapping } from './overrides.ts';

/** Longer files are a mistake, not a configuration. */
export const MAX_CONFIG_BYTES = 1_048_576;
const MAX_ALIASES = 100;
const MAX_SYNTAX_FAULTS = 10;

/** What a file says. */
export interface YamlSource {
  readonly mapping: Mapping;
  /** Line, from 1, where the field is named; for a missing one, that of what should hold it; null at the root. */
  lineOf(path: readonly string[]): number | null;
}

/** Reads the text of `file`. @throws ConfigError with line and column of every syntax error. */
export function readYaml(text: string, file: string): YamlSource {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false, logLevel: 'silent' });
  const problems = [...document.errors, ...document.warnings];
  if (problems.length > 0) {
    const faults = problems.slice(0, MAX_SYNTAX_FAULTS).map((problem): SyntaxFault => {
      const { line, col } = lines.linePos(problem.pos[0]);
      return { line, column: col, problem: problem.message };
    });
    throw syntaxError(text, file, faults);
  }
  let value: unknown;
  try {
    value = document.toJS({ maxAliasCount: MAX_ALIASES });
  } catch (error) {
    throw new ConfigError(
      `${file} cannot be read: ${error instanceof Error ? error.message : String(error)}`,
    );
  }
  if (value === null || value === undefined) throw rootError(file, 'is empty');
  if (!isMapping(value)) throw rootError(file, `holds ${Array.isArray(value) ? 'a list' : 'a single value'}`);
  return { mapping: value, lineOf: (path) => lineOf(document, lines, path) };
}

interface SyntaxFault {
  readonly line: number;
  readonly column: number;
  readonly problem: string;
}

function syntaxError(text: string, file: string, faults: readonly SyntaxFault[]): ConfigError {
  const rows = text.split(/\r?\n/);
  const blocks = faults.map(({ line, column, problem }) => {
    const row = (rows[line - 1] ?? '').replaceAll('\t', ' ');
    return `  line ${line}, column ${column}: ${problem}\n    ${row}\n    ${' '.repeat(Math.max(0, column - 1))}^`;
  });
  const configFaults = faults.map(({ line, column, problem }): ConfigFault => ({
    field: '',
    value: rows[line - 1]?.trim() ?? '',
    allowed: `YAML (column ${column}: ${problem})`,
    line,
  }));
  return new ConfigError(`${file} is not valid YAML:\n${blocks.join('\n')}`, configFaults);
}

function rootError(file: string, what: string): ConfigError {
  const needed = 'a run needs at least name, model, data and steps (examples/sotu.yaml shows a whole one)';
  return new ConfigError(`${file} ${what}; ${needed}`);
}

function lineOf(document: Document, lines: LineCounter, path: readonly string[]): number | null {
  let node: unknown = document.contents;
  let offset: number | null = null;
  for (const name of path) {
    if (isAlias(node)) node = node.resolve(document);
    if (!isMap(node)) break;
    const pair = node.items.find((item) => isScalar(item.key) && String(item.key.value) === name);
    if (pair === undefined) break;
    if (isScalar(pair.key) && pair.key.range) offset = pair.key.range[0];
    node = pair.value;
  }
  return offset === null ? null : lines.linePos(offset).line;
}
