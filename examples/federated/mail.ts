/**
 * A mail as a classifier should see it: subject and body as plain text, all other headers left out. Simple and
 * forgiving, because spam keeps to no rules: what cannot be decoded is kept as it stands. Pure.
 * MIME: RFC 2045 (transfer encodings), 2046 (multipart), 2047 (encoded words in headers).
 */

const MAX_DEPTH = 5;
/** Longest text kept, in UTF-16 units: many times what a short sequence holds. */
const MAX_CHARACTERS = 2000;

/** Headers by lower-case name, the first of each, and what follows them; bytes as characters 0 to 255. */
interface Part {
  readonly headers: ReadonlyMap<string, string>;
  readonly content: string;
}

/** Subject and body of a mail in one line of at most 2000 characters. */
export function mailText(bytes: Uint8Array): string {
  const mail = partOf(Buffer.from(bytes).toString('latin1').replaceAll('\r\n', '\n'));
  const subject = decodeWords(mail.headers.get('subject') ?? '');
  const text = `${subject} ${bodyOf(mail, 0) ?? ''}`.replace(/\s+/g, ' ').trim();
  return cut(text, MAX_CHARACTERS);
}

function partOf(text: string): Part {
  const end = text.startsWith('\n') ? 0 : text.indexOf('\n\n');
  const head = end < 0 ? text : text.slice(0, end);
  const headers = new Map<string, string>();
  for (const line of head.replace(/\n[ \t]+/g, ' ').split('\n')) {
    const [, name, value] = /^([!-9;-~]+):\s*(.*)$/.exec(line) ?? []; // not the "From " line of a mailbox
    if (name !== undefined && !headers.has(name.toLowerCase())) headers.set(name.toLowerCase(), value!);
  }
  return { headers, content: end < 0 ? '' : text.slice(end).replace(/^\n{1,2}/, '') };
}

/** The plain text of a part, or of its HTML; null where it has neither. */
function bodyOf(part: Part, depth: number): string | null {
  const type = part.headers.get('content-type') ?? 'text/plain';
  if (/^\s*multipart\//i.test(type)) return depth < MAX_DEPTH ? multipartBody(part, type, depth) : null;
  const isHtml = /^\s*text\/html/i.test(type);
  if (!isHtml && /^\s*[\w-]+\/[\w-]/.test(type) && !/^\s*(text|message)\//i.test(type)) return null;
  const bytes = decodeTransfer(part);
  const text = decodeBytes(bytes, parameterOf(type, 'charset'));
  return isHtml || /<html|<body|<table|<a href/i.test(text) ? withoutTags(text) : text;
}

/** The first part with plain text, else the first with any. */
function multipartBody({ content }: Part, type: string, depth: number): string | null {
  const boundary = parameterOf(type, 'boundary');
  if (boundary === null) return content;
  const pieces = `\n${content}`.split(`\n--${boundary}`).slice(1);
  const parts = pieces.filter((piece) => !piece.startsWith('--')).map((piece) => partOf(afterLine(piece)));
  if (parts.length === 0) return content;
  const isPlain = ({ headers }: Part): boolean =>
    /^\s*text\/plain/i.test(headers.get('content-type') ?? 'text/plain');
  for (const part of [...parts.filter(isPlain), ...parts.filter((each) => !isPlain(each))]) {
    const body = bodyOf(part, depth + 1);
    if (body !== null && body.trim() !== '') return body;
  }
  return null;
}

/** What follows the first line break: the rest of a boundary's line may hold spaces. */
function afterLine(text: string): string {
  return text.slice(text.indexOf('\n') + 1);
}

function parameterOf(type: string, name: string): string | null {
  const found = new RegExp(`;\\s*${name}\\s*=\\s*(?:"([^"]*)"|([^\\s;"]+))`, 'i').exec(type);
  return found?.[1] ?? found?.[2] ?? null;
}

function decodeTransfer({ headers, content }: Part): string {
  const encoding = headers.get('content-transfer-encoding')?.trim().toLowerCase();
  if (encoding === 'base64') return Buffer.from(content, 'base64').toString('latin1');
  return encoding === 'quoted-printable' ? decodeQuoted(content) : content;
}

function decodeQuoted(text: string): string {
  return text
    .replace(/=[ \t]*\n/g, '')
    .replace(/=([0-9A-Fa-f]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)));
}

/** UTF-8 where it is, else what the mail says, else Latin-1, which any bytes are. */
function decodeBytes(binary: string, charset: string | null): string {
  const bytes = Buffer.from(binary, 'latin1');
  // Of the Latin alphabet of Windows, Node's decoder has become another one over its versions.
  const isLatin = charset === null || /^(us-ascii|latin-?1|iso-?8859-1|windows-1252|cp1252)$/i.test(charset);
  for (const label of isLatin ? ['utf-8'] : ['utf-8', charset]) {
    try {
      return new TextDecoder(label, { fatal: label === 'utf-8' }).decode(bytes);
    } catch {
      continue; // not this one, or a name that nobody knows
    }
  }
  return binary;
}

/** `=?charset?B?…?=` and `=?charset?Q?…?=` in a header. */
function decodeWords(text: string): string {
  const word = /=\?([^?\s]+)\?([bq])\?([^?\s]*)\?=/gi;
  const joined = text.replace(/(\?=)\s+(=\?)/g, '$1$2');
  return decodeBytes(joined, null).replace(word, (_, charset: string, kind: string, encoded: string) => {
    const isBase64 = kind.toLowerCase() === 'b';
    const binary = isBase64
      ? Buffer.from(encoded, 'base64').toString('latin1')
      : decodeQuoted(encoded.replaceAll('_', ' '));
    return decodeBytes(binary, charset);
  });
}

const ENTITIES: Readonly<Record<string, string>> = {
  nbsp: ' ',
  lt: '<',
  gt: '>',
  quot: '"',
  apos: "'",
  amp: '&',
};

/** HTML as text, roughly: no styles, scripts, comments and tags, the commonest entities read. */
function withoutTags(html: string): string {
  return html
    .replace(/<(script|style)\b[\s\S]*?(<\/\1\s*>|$)/gi, ' ')
    .replace(/<!--[\s\S]*?(-->|$)/g, '')
    .replace(/<[/!?a-z][^>]*(>|$)/gi, ' ')
    .replace(/&(?:#(\d{1,6})|([a-z]+));?/gi, (whole, number: string | undefined, name: string | undefined) =>
      number === undefined ? (ENTITIES[name!.toLowerCase()] ?? whole) : String.fromCodePoint(Number(number)),
    );
}

/** The first `length` units of a text, one fewer where that would cut a character in two. */
function cut(text: string, length: number): string {
  const isHalf = (text.charCodeAt(length - 1) & 0xfc00) === 0xd800;
  return text.slice(0, isHalf ? length - 1 : length);
}
