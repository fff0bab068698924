/**
 * Reads JSONL: one JSON object a line, with `text`, or with `prompt` and `completion`. Blank lines are
 * passed over; anything else that is not such an object stops the run with its line number.
 */
import { DataError } from '../errors.ts';
import { readText } from './text.ts';

/** A line is held in memory as a whole. */
const MAX_LINE_CHARACTERS = 64 * 1024 * 1024;
const MAX_SHOWN_FIELDS = 8;

/** One line. The loss is computed on `text`, or on `completion` alone. */
export type JsonlRecord =
  | { readonly type: 'text'; readonly text: string }
  | { readonly type: 'completion'; readonly prompt: string; readonly completion: string };

/** The records of a file in order; those without any characters are left out. */
export async function* readJsonl(path: string, sha256?: string): AsyncGenerator<JsonlRecord, void, void> {
  let lineNumber = 0;
  for await (const line of readLines(path, sha256)) {
    lineNumber++;
    if (line.trim().length === 0) continue;
    const record = parseRecord(path, lineNumber, line);
    const isEmpty = record.type === 'text' ? record.text.length === 0 : record.completion.length === 0;
    if (!isEmpty) yield record;
  }
}

function parseRecord(path: string, lineNumber: number, line: string): JsonlRecord {
  const at = `${path}, line ${lineNumber}`;
  const wanted = 'wanted an object with "text", or with "prompt" and "completion"';
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (error) {
    throw new DataError(path, `${at} is not JSON (${(error as Error).message}); ${wanted}`, { cause: error });
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new DataError(path, `${at} is ${describe(value)}; ${wanted}`);
  }
  const fields = value as Readonly<Record<string, unknown>>;
  const textOf = (name: string): string => {
    const field = fields[name];
    if (typeof field === 'string') return field;
    throw new DataError(path, `${at}: "${name}" is ${describe(field)}; it must be a text`);
  };
  if ('text' in fields) return { type: 'text', text: textOf('text') };
  if ('prompt' in fields && 'completion' in fields) {
    return { type: 'completion', prompt: textOf('prompt'), completion: textOf('completion') };
  }
  const names = Object.keys(fields).slice(0, MAX_SHOWN_FIELDS);
  const found =
    names.length === 0 ? 'no fields' : `the fields ${names.map((name) => `"${name}"`).join(', ')}`;
  throw new DataError(path, `${at} has ${found}; ${wanted}`);
}

function describe(value: unknown): string {
  if (value === null) return 'null';
  if (Array.isArray(value)) return 'a list';
  return typeof value === 'object' ? 'an object' : `a ${typeof value}`;
}

async function* readLines(path: string, sha256?: string): AsyncGenerator<string, void, void> {
  let rest = '';
  for await (const chunk of readText(path, sha256)) {
    const lines = chunk.split('\n');
    lines[0] = rest + lines[0]!;
    rest = lines.pop()!;
    yield* lines;
    if (rest.length > MAX_LINE_CHARACTERS) {
      throw new DataError(path, `${path} has a line of more than ${MAX_LINE_CHARACTERS} characters`);
    }
  }
  if (rest.length > 0) yield rest;
}
