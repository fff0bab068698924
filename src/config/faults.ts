/** Faults in words: what the schema found wrong, where it was written, what is allowed there. Pure. */
import { stringify } from 'yaml';
import type { z } from 'zod';
import { ConfigError, type ConfigFault } from '../errors.ts';
import { closestName } from './closest.ts';
import { describeAllowed, fieldsOf, leafPaths, schemaAt, type SchemaNode } from './json-schema.ts';
import { isMapping, type Mapping } from './overrides.ts';

/** A fault and the sentence that tells of it. */
export interface Fault {
  readonly path: readonly string[];
  readonly value: string;
  readonly allowed: string;
  readonly sentence: string;
}

/** Where a field got its value: a line of the file, a flag, or nowhere. */
export interface Origin {
  readonly line?: number;
  readonly flag?: string;
  /** Which flag of the command line it was, from 0. */
  readonly flagIndex?: number;
}

/** One error for all the faults, in the order of the file, flags last. */
export function configError(
  file: string,
  faults: readonly Fault[],
  originOf: (path: readonly string[]) => Origin,
): ConfigError {
  const located = faults
    .map((fault) => ({ fault, origin: originOf(fault.path) }))
    .sort((a, b) => rankOf(a.origin) - rankOf(b.origin));
  const rows = located.map(({ fault, origin }) => `  ${whereOf(origin)}${fault.sentence}`);
  const title = `${file} has ${faults.length === 1 ? 'a fault' : `${faults.length} faults`}:`;
  const list = located.map(({ fault, origin }): ConfigFault => ({
    field: fault.path.join('.'),
    value: fault.value,
    allowed: fault.allowed,
    ...(origin.line === undefined ? {} : { line: origin.line }),
  }));
  return new ConfigError([title, ...rows].join('\n'), list);
}

/** Lines of the file, then what is missing from it, then the flags as they were given. */
function rankOf({ line, flagIndex }: Origin): number {
  if (line !== undefined) return line;
  const afterTheFile = 1e9;
  return afterTheFile + (flagIndex ?? -1);
}

function whereOf(origin: Origin): string {
  if (origin.flag !== undefined) return `${origin.flag}: `;
  return origin.line === undefined ? '' : `line ${origin.line}: `;
}

/** A fault of one field that depends on others. */
export function relationFault(path: string, value: unknown, rule: string): Fault {
  const shown = showValue(value);
  return { path: path.split('.'), value: shown, allowed: rule, sentence: `${path} is ${shown}; ${rule}` };
}

/** A field that others make necessary is not there. */
export function missingFault(path: string, rule: string): Fault {
  return { path: path.split('.'), value: 'missing', allowed: rule, sentence: `${path} is missing; ${rule}` };
}

/** A fault of something that could not be read at all. */
export function unreadableFault(path: readonly string[], value: unknown, problem: string): Fault {
  return { path, value: showValue(value), allowed: problem, sentence: problem };
}

/** The faults behind the issues zod found in `given`, one for each field. */
export function schemaFaults(issues: readonly z.core.$ZodIssue[], given: Mapping): readonly Fault[] {
  const faults = issues.flatMap((issue) => issueFaults(issue, [], given));
  const seen = new Set<string>();
  return faults.filter(({ path }) => {
    const key = path.join('\0');
    return seen.has(key) ? false : seen.add(key) !== null;
  });
}

function issueFaults(issue: z.core.$ZodIssue, prefix: readonly string[], given: Mapping): readonly Fault[] {
  const path = [...prefix, ...issue.path.map(String)];
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.map((key) => unknownFault([...path, key], given));
  }
  if (issue.code === 'invalid_union') {
    // Only one branch of a union is a mapping: if a mapping was given, what it holds is what is wrong.
    const inside = issue.errors.find((branch) => branch.every((inner) => !isRootMismatch(inner)));
    if (isMapping(valueAt(given, path)) && inside) {
      return inside.flatMap((inner) => issueFaults(inner, path, given));
    }
  }
  return [valueFault(issue, path, given)];
}

function isRootMismatch(issue: z.core.$ZodIssue): boolean {
  return issue.path.length === 0 && issue.code !== 'unrecognized_keys';
}

function valueFault(issue: z.core.$ZodIssue, path: readonly string[], given: Mapping): Fault {
  const field = ownField(path);
  const node = schemaAt(field) ?? {};
  const name = field.join('.');
  const value = valueAt(given, field);
  const allowed = issue.code === 'invalid_format' ? issue.message : describeAllowed(node, value);
  if (value === undefined) {
    return { path: field, value: 'nothing', allowed, sentence: `${name} is missing; needed: ${allowed}` };
  }
  const shown = showValue(value);
  const guess = typeof value === 'string' ? closestName(value, choicesOf(node)) : null;
  const hint = guess === null ? '' : `; did you mean ${guess}?`;
  return { path: field, value: shown, allowed, sentence: `${name} is ${shown}; allowed: ${allowed}${hint}` };
}

function choicesOf(node: SchemaNode): readonly string[] {
  return node.enum ?? node.anyOf?.flatMap(choicesOf) ?? [];
}

/** The field that holds what is at `path`: a place in a list belongs to the list. */
function ownField(path: readonly string[]): readonly string[] {
  let length = path.length;
  while (length > 0 && schemaAt(path.slice(0, length)) === null) length -= 1;
  return path.slice(0, length);
}

function unknownFault(path: readonly string[], given: Mapping): Fault {
  const name = path.at(-1) ?? '';
  const section = path.slice(0, -1);
  const siblings = Object.keys(fieldsOf(schemaAt(section) ?? {}));
  const guess = guessField(name, section, siblings);
  const hint = guess === null ? `known here: ${siblings.join(', ')}` : `did you mean ${guess}?`;
  return {
    path,
    value: showValue(valueAt(given, path)),
    allowed: `no such field; ${hint}`,
    sentence: `unknown field ${path.join('.')}; ${hint}`,
  };
}

/** What other tools call our fields. */
const FOREIGN_NAMES: Readonly<Record<string, string>> = {
  learning_rate: 'optimizer.lr',
  max_steps: 'steps',
  num_steps: 'steps',
  total_steps: 'steps',
  global_batch_size: 'batch_size',
  sequence_length: 'seq_len',
  max_length: 'seq_len',
  block_size: 'seq_len',
  alpha: 'method.scale',
  galore_rank: 'method.rank',
  num_layers: 'model.num_hidden_layers',
  num_heads: 'model.num_attention_heads',
};

/** A near name in this section, else the same name in another one, else a near one there. */
function guessField(name: string, section: readonly string[], siblings: readonly string[]): string | null {
  const near = closestName(name, siblings);
  if (near !== null) return [...section, near].join('.');
  const elsewhere = leafPaths().map((path) => ({ path, last: path.split('.').at(-1) ?? '' }));
  const exact = elsewhere.filter(({ last }) => last === name).map(({ path }) => path);
  if (exact.length > 0) return exact.slice(0, 3).join(' or ');
  if (Object.hasOwn(FOREIGN_NAMES, name)) return FOREIGN_NAMES[name] ?? null;
  const names = elsewhere.map(({ last }) => last);
  const other = closestName(name, names) ?? names.find((last) => name.length >= 4 && last.includes(name));
  return elsewhere.find(({ last }) => last === other)?.path ?? null;
}

/** The value at a path of plain data, or undefined. */
export function valueAt(root: unknown, path: readonly string[]): unknown {
  let value = root;
  for (const name of path) {
    if (!isMapping(value) || !Object.hasOwn(value, name)) return undefined;
    value = value[name];
  }
  return value;
}

const MAX_SHOWN_CHARACTERS = 60;

/** A value as a person would write it, on one line and not too long. */
export function showValue(value: unknown): string {
  if (value === undefined) return 'nothing';
  const text = stringify(value, { collectionStyle: 'flow', lineWidth: 0 })
    .trim()
    .replace(/\s*\n\s*/g, ' ');
  if (text.length <= MAX_SHOWN_CHARACTERS) return text;
  return `${text.slice(0, MAX_SHOWN_CHARACTERS - 1)}…`;
}
