/**
 * JSON from a file nobody vouches for: UTF-8 only, no name twice in one object (the language's own parser
 * keeps the last without a word), and limits that hold before anything is built. Pure.
 */

/** Most of what a document may hold. */
export interface JsonLimits {
  /** Levels of brackets. */
  readonly depth: number;
  /** Names of fields, in all objects together. */
  readonly keys: number;
  /** Values, those in lists included. */
  readonly values: number;
}

const QUOTE = 0x22;
const BACKSLASH = 0x5c;

/** The value in `bytes`. `fail` is given the reason in words, such as "it is not UTF-8", and must throw. */
export function parseStrictJson(
  bytes: Uint8Array,
  limits: JsonLimits,
  fail: (reason: string) => never,
): unknown {
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    return fail('it is not UTF-8');
  }
  checkStructure(text, limits, fail);
  try {
    return JSON.parse(text) as unknown;
  } catch (error) {
    return fail(`it is not JSON (${(error as Error).message.slice(0, 100)})`);
  }
}

/** An object or list that is open: the names seen so far, null in a list. */
interface Level {
  readonly keys: Set<string> | null;
  isKeyNext: boolean;
}

/** Follows brackets, commas and names. Text that is no JSON may pass: the parser is next. */
function checkStructure(text: string, limits: JsonLimits, fail: (reason: string) => never): void {
  const levels: Level[] = [];
  let keys = 0;
  let values = 0;
  for (let i = 0; i < text.length; i++) {
    const level = levels.at(-1);
    switch (text.charCodeAt(i)) {
      case QUOTE: {
        const end = endOfString(text, i + 1);
        if (level?.isKeyNext && level.keys !== null) {
          const key = unescaped(text.slice(i + 1, end));
          if (level.keys.has(key)) fail(`the name ${JSON.stringify(key).slice(0, 200)} is there twice`);
          if (++keys > limits.keys) fail(`more than ${limits.keys} names`);
          level.keys.add(key);
          level.isKeyNext = false;
        }
        i = end;
        break;
      }
      case 0x7b: // {
      case 0x5b: // [
        if (levels.length === limits.depth) fail(`brackets more than ${limits.depth} deep`);
        if (++values > limits.values) fail(`more than ${limits.values} values`);
        levels.push({ keys: text[i] === '{' ? new Set() : null, isKeyNext: true });
        break;
      case 0x7d: // }
      case 0x5d: // ]
        levels.pop();
        break;
      case 0x2c: // ,
        if (++values > limits.values) fail(`more than ${limits.values} values`);
        if (level !== undefined) level.isKeyNext = true;
        break;
    }
  }
}

/** Where the string that begins at `start` has its closing quote, or the end of the text. */
function endOfString(text: string, start: number): number {
  let end = start;
  for (; end < text.length; end++) {
    const code = text.charCodeAt(end);
    if (code === QUOTE) break;
    if (code === BACKSLASH) end++;
  }
  return end;
}

function unescaped(key: string): string {
  if (!key.includes('\\')) return key;
  try {
    return JSON.parse(`"${key}"`) as string;
  } catch {
    return key; // the parser will say so
  }
}
