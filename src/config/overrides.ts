/**
 * Settings given on the command line: `--set key.path=value` and the shorthand flags. They are laid
 * over the file in the order given, so that a later one wins; whether a path exists is the schema's
 * business.
 */
import { parseDocument } from 'yaml';

/** One setting from the command line. */
export interface Override {
  readonly path: readonly string[];
  readonly value: unknown;
  /** How a person gave it, such as `--set seed=1`. */
  readonly source: string;
  /** Why it cannot be read at all; then `value` means nothing. */
  readonly problem?: string;
}

/** A setting whose value is already what it is (a shorthand flag that takes text). */
export function override(path: string, value: unknown, source: string): Override {
  return { path: path.split('.'), value, source };
}

/** Reads `key.path=value`; the value is YAML. Never throws: what is wrong is in `problem`. */
export function parseOverride(text: string): Override {
  const source = `--set ${text}`;
  const equals = text.indexOf('=');
  if (equals < 1) {
    const problem = 'must be written as field=value, such as --set optimizer.lr=0.005';
    return { path: [text], value: undefined, source, problem };
  }
  return { ...parseFlag(text.slice(0, equals).trim(), text.slice(equals + 1), source), source };
}

/** A shorthand flag: `value` is read as YAML and set at `path`. */
export function parseFlag(path: string, value: string, source: string): Override {
  const document = parseDocument(value, { prettyErrors: false, logLevel: 'silent' });
  const segments = path.split('.');
  const [error] = document.errors;
  if (error) {
    return { path: segments, value, source, problem: `cannot be read as YAML: ${firstLine(error.message)}` };
  }
  return { path: segments, value: document.toJS() as unknown, source };
}

function firstLine(text: string): string {
  return text.split('\n', 1)[0] ?? text;
}

/** A mapping of YAML, as plain data. */
export type Mapping = Record<string, unknown>;

/** Whether `value` is a mapping. */
export function isMapping(value: unknown): value is Mapping {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** `root` with the value set at the path; mappings on the way are made where there is nothing. */
export function withOverride(root: Mapping, { path, value }: Override): Mapping {
  const [name, ...rest] = path;
  if (name === undefined) return root;
  const isLast = rest.length === 0;
  const child = isLast ? value : withOverride(mappingAt(root, name), { path: rest, value, source: '' });
  return Object.fromEntries([...Object.entries(root).filter(([key]) => key !== name), [name, child]]);
}

function mappingAt(root: Mapping, name: string): Mapping {
  const value = Object.hasOwn(root, name) ? root[name] : undefined;
  if (isMapping(value)) return value;
  // `model: 60m` is short for `model: {size: 60m}`.
  if (name === 'model' && typeof value === 'string') return { size: value };
  return {};
}
