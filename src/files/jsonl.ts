/**
 * Reads JSONL: one JSON object a line. Blank lines are passed over; a line that is anything else, or an
 * object that is not what is wanted, stops the reading with its number, or is told to `onBadLine` and
 * left out. What is wanted is up to `parse`: texts here, labelled examples in examples.ts.
 */
import { DataError } from '../errors.ts';
import { readLines, type Line } from './text.ts';

/** A line is held in memory as a whole. */
const MAX_LINE_BYTES = 64 * 1024 * 1024;
const MAX_SHOWN_FIELDS = 8;

/** A line that was left out. */
export interface BadLine {
  /** From 1. */
  readonly line: number;
  /** What is wrong with it, in words that lines with the same fault share, such as "no JSON". */
  readonly fault: string;
}

/** How lines that cannot be used are met, and what the file must be. */
export interface JsonlOptions {
  /** What the file must hash to; anything goes without it. */
  readonly sha256?: string | undefined;
  /** Told of each line that is left out; without it the first one stops the reading. */
  readonly onBadLine?: ((line: BadLine) => void) | undefined;
}

/** The object of a line. */
export type Fields = Readonly<Record<string, unknown>>;

/** Thrown by a `parse`: why a line cannot be used. `detail` follows "FILE, line N" and says it with what was found. */
export class LineFault extends Error {
  readonly fault: string;
  constructor(fault: string, detail: string, options?: ErrorOptions) {
    super(detail, options);
    this.fault = fault;
  }
}

/**
 * What `parse` makes of the objects of a file, in order; `wanted` says in words what they must be.
 * @throws DataError naming file, line and fault, without `onBadLine`; for a file that is not text, always.
 */
export async function* readObjects<T>(
  path: string,
  wanted: string,
  parse: (fields: Fields) => T,
  { sha256, onBadLine }: JsonlOptions = {},
): AsyncGenerator<T, void, void> {
  for await (const line of readLines(path, MAX_LINE_BYTES, sha256)) {
    if ('text' in line && line.text.trim().length === 0) continue;
    let value: T;
    try {
      value = parse(objectOf(line, wanted));
    } catch (error) {
      if (!(error instanceof LineFault)) throw error;
      if (onBadLine === undefined) {
        throw new DataError(path, `${path}, line ${line.number}${error.message}`, { cause: error });
      }
      onBadLine({ line: line.number, fault: error.fault });
      continue;
    }
    yield value;
  }
}

function objectOf(line: Line, wanted: string): Fields {
  if ('invalidAt' in line) {
    const detail = ` is not UTF-8: the byte at offset ${line.invalidAt} begins no character; convert the file first`;
    throw new LineFault('bytes that are not UTF-8', detail);
  }
  let value: unknown;
  try {
    value = JSON.parse(line.text);
  } catch (error) {
    throw new LineFault('no JSON', ` is not JSON (${(error as Error).message}); ${wanted}`, { cause: error });
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new LineFault('no JSON object', ` is ${kindOf(value)}; ${wanted}`);
  }
  return value as Fields;
}

/** The text in a field. @throws LineFault where it is none */
export function textField(fields: Fields, name: string): string {
  const field = fields[name];
  if (typeof field === 'string') return field;
  throw new LineFault(`a "${name}" that is no text`, `: "${name}" is ${kindOf(field)}; it must be a text`);
}

/** Which fields there are, for an object that has not the right ones. */
export function fieldNames(fields: Fields): string {
  const names = Object.keys(fields).slice(0, MAX_SHOWN_FIELDS);
  return names.length === 0 ? 'no fields' : `the fields ${names.map((name) => `"${name}"`).join(', ')}`;
}

/** What a value is, in words: "a number", "a list". */
export function kindOf(value: unknown): string {
  if (value === null) return 'null';
  if (Array.isArray(value)) return 'a list';
  return typeof value === 'object' ? 'an object' : `a ${typeof value}`;
}

/** One line of text to learn. The loss is computed on `text`, or on `completion` alone. */
export type JsonlRecord =
  | { readonly type: 'text'; readonly text: string }
  | { readonly type: 'completion'; readonly prompt: string; readonly completion: string };

const WANTED_RECORD = 'wanted an object with "text", or with "prompt" and "completion"';

/** The records of a file in order; those without any characters are left out. */
export async function* readJsonl(
  path: string,
  options: JsonlOptions = {},
): AsyncGenerator<JsonlRecord, void, void> {
  for await (const record of readObjects(path, WANTED_RECORD, recordOf, options)) {
    const isEmpty = record.type === 'text' ? record.text.length === 0 : record.completion.length === 0;
    if (!isEmpty) yield record;
  }
}

function recordOf(fields: Fields): JsonlRecord {
  if ('text' in fields) return { type: 'text', text: textField(fields, 'text') };
  if ('prompt' in fields && 'completion' in fields) {
    return {
      type: 'completion',
      prompt: textField(fields, 'prompt'),
      completion: textField(fields, 'completion'),
    };
  }
  throw new LineFault('no "text"', ` has ${fieldNames(fields)}; ${WANTED_RECORD}`);
}
