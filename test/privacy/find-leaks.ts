/**
 * Whether bytes that left a site hold anything of its data: 8 bytes of a text in a row, four token ids in a row in any
 * of the ways in which numbers are written down, or the name of a file. Pure. The bytes must be what the program
 * sent, before TLS and before the masks of WebSocket, which would hide everything.
 */

/** What must not leave a site. */
export interface SiteSecrets {
  readonly texts: readonly string[];
  /** Without padding: numbers that are all alike are not looked for. */
  readonly tokenSequences: readonly ArrayLike<number>[];
  readonly names: readonly string[];
}

/** Something of the site at an offset of the bytes. */
export interface Leak {
  readonly kind: 'text' | 'tokens as int32' | 'tokens as uint16' | 'tokens as varint' | 'name';
  readonly offset: number;
  /** The part of the text, the ids, or the name. */
  readonly what: string;
}

const WINDOW = 8;
const RUN = 4;
/** With fewer in 8 bytes, such as a row of spaces, they are found anywhere and tell nothing. */
const FEWEST_DISTINCT_BYTES = 4;
/** With fewer in a run of ids likewise. */
const FEWEST_DISTINCT_IDS = 3;
const MAX_LEAKS = 10;

/** The first leaks, at most 10, in the order of their offsets; names last. */
export function findLeaks(bytes: Uint8Array, secrets: SiteSecrets): Leak[] {
  const texts = secrets.texts.map((text) => Buffer.from(text, 'utf8'));
  const runs = secrets.tokenSequences.flatMap((ids) => ENCODINGS.map((encode) => encode(ids)));
  const windows = new WindowSet(countWindows([...texts, ...runs.map((run) => run.bytes)]));
  for (const text of texts) {
    for (let start = 0; start + WINDOW <= text.length; start++) {
      const isTelling = new Set(text.subarray(start, start + WINDOW)).size >= FEWEST_DISTINCT_BYTES;
      if (isTelling) windows.add(text, start);
    }
  }
  for (const run of runs) for (const start of run.starts) windows.add(run.bytes, start);
  const leaks: Leak[] = [];
  let low = 0; // the last 8 bytes, the oldest in the lowest place
  let high = 0;
  for (let i = 0, from = 0; i < bytes.length && leaks.length < MAX_LEAKS; i++) {
    low = ((low >>> 8) | (high << 24)) >>> 0;
    high = ((high >>> 8) | (bytes[i]! << 24)) >>> 0;
    const offset = i - WINDOW + 1;
    if (offset < from || !windows.has(low, high)) continue;
    const found = leakAt(bytes, offset, texts, runs);
    if (found === null) continue;
    leaks.push(found);
    from = i + 1;
  }
  const haystack = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  for (const name of secrets.names) {
    const offset = haystack.indexOf(name, 0, 'utf8');
    if (offset >= 0) leaks.push({ kind: 'name', offset, what: name });
  }
  return leaks.slice(0, MAX_LEAKS);
}

/** Ids as bytes, and for every run of ids that is looked for where it begins and ends. */
interface EncodedIds {
  readonly kind: Leak['kind'];
  readonly ids: ArrayLike<number>;
  readonly bytes: Buffer;
  readonly starts: readonly number[];
  /** By start: the run's first id and the one after its last, and the byte after its last. */
  readonly runs: ReadonlyMap<
    number,
    { readonly first: number; readonly end: number; readonly bytesEnd: number }
  >;
}

const ENCODINGS: readonly ((ids: ArrayLike<number>) => EncodedIds)[] = [
  (ids) => encodeIds('tokens as int32', ids, (id) => [id, id >>> 8, id >>> 16, id >>> 24]),
  (ids) => encodeIds('tokens as uint16', ids, (id) => [id, id >>> 8]),
  (ids) => encodeIds('tokens as varint', ids, varint),
];

function varint(id: number): number[] {
  const bytes: number[] = [];
  for (let rest = id; ; rest >>>= 7) {
    if (rest < 0x80) return [...bytes, rest];
    bytes.push(rest | 0x80);
  }
}

/** Runs of at least 4 ids and 8 bytes. */
function encodeIds(kind: Leak['kind'], ids: ArrayLike<number>, encode: (id: number) => number[]): EncodedIds {
  const offsets: number[] = [];
  const all: number[] = [];
  for (let i = 0; i < ids.length; i++) {
    offsets.push(all.length);
    all.push(...encode(ids[i]!));
  }
  offsets.push(all.length);
  const runs = new Map<number, { first: number; end: number; bytesEnd: number }>();
  for (let first = 0; first + RUN <= ids.length; first++) {
    let end = first + RUN;
    while (end < ids.length && offsets[end]! - offsets[first]! < WINDOW) end++;
    if (offsets[end]! - offsets[first]! < WINDOW) break;
    if (new Set(Array.prototype.slice.call(ids, first, end)).size < FEWEST_DISTINCT_IDS) continue;
    runs.set(offsets[first]!, { first, end, bytesEnd: offsets[end]! });
  }
  return { kind, ids, bytes: Buffer.from(all), starts: [...runs.keys()], runs };
}

/** What the window at `offset` is of; null where only the begin of a run of ids is there. */
function leakAt(
  bytes: Uint8Array,
  offset: number,
  texts: readonly Buffer[],
  encoded: readonly EncodedIds[],
): Leak | null {
  const window = Buffer.from(bytes.subarray(offset, offset + WINDOW));
  if (texts.some((text) => text.includes(window)))
    return { kind: 'text', offset, what: window.toString('utf8') };
  for (const { kind, ids, bytes: known, runs } of encoded) {
    for (let at = known.indexOf(window); at >= 0; at = known.indexOf(window, at + 1)) {
      const run = runs.get(at);
      if (run === undefined) continue;
      const rest = bytes.subarray(offset, offset + run.bytesEnd - at);
      if (known.subarray(at, run.bytesEnd).equals(rest))
        return { kind, offset, what: Array.prototype.slice.call(ids, run.first, run.end).join(' ') };
    }
  }
  return null;
}

function countWindows(buffers: readonly Uint8Array[]): number {
  return buffers.reduce((sum, { length }) => sum + Math.max(0, length - WINDOW + 1), 0);
}

/** A set of 8-byte windows: a hash table with open addressing. One of zeros alone is not kept. */
class WindowSet {
  readonly #low: Uint32Array;
  readonly #high: Uint32Array; // both 0: free
  readonly #mask: number;

  constructor(count: number) {
    const size = 2 ** Math.ceil(Math.log2(2 * count + 2));
    this.#low = new Uint32Array(size);
    this.#high = new Uint32Array(size);
    this.#mask = size - 1;
  }

  add(bytes: Buffer, start: number): void {
    const low = bytes.readUInt32LE(start);
    const high = bytes.readUInt32LE(start + 4);
    const at = this.#find(low, high);
    this.#low[at] = low;
    this.#high[at] = high;
  }

  has(low: number, high: number): boolean {
    const at = this.#find(low, high);
    return (this.#low[at]! | this.#high[at]!) !== 0;
  }

  /** Where the window is, or the free place for it. */
  #find(low: number, high: number): number {
    let hash = Math.imul(low ^ Math.imul(high, 0x9e3779b1), 0x85ebca6b);
    hash ^= hash >>> 15;
    for (let at = hash & this.#mask; ; at = (at + 1) & this.#mask) {
      const isFree = (this.#low[at]! | this.#high[at]!) === 0;
      if (isFree || (this.#low[at] === low && this.#high[at] === high)) return at;
    }
  }
}
