/**
 * Reads a journal from end to end and says what is in it. Changes nothing: the journal cuts off a torn
 * tail after a scan, `galore inspect` only reports it.
 */
import { open, readdir } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { CheckpointError } from '../../errors.ts';
import { readFully } from '../../files/positional.ts';
import { explaining } from '../../files/system-error.ts';
import {
  COMMIT_TAG,
  ENTRY_HEADER_BYTES,
  MAX_JOURNAL_FRAME_BYTES,
  PART_TAG,
  SEGMENT_HEADER_BYTES,
  decodeCommit,
  entryCrc,
  faultOfSegmentHeader,
  foldCommit,
  parseSegmentName,
} from './journal-format.ts';
import type { CommitFacts, JournalHead, RecordKind } from './journal-format.ts';

/** Read at once when everything is read, and when only entry headers and Commits are. */
const FULL_WINDOW_BYTES = 4 * 1024 * 1024;
const SPARSE_WINDOW_BYTES = 4096;

/** Where a record lies. */
export interface RecordPlace {
  readonly sequence: number;
  readonly step: number;
  readonly kind: RecordKind;
  readonly digest: Uint8Array;
  readonly path: string;
  readonly start: number;
  readonly end: number;
}

/** One segment file. */
export interface SegmentPlace {
  readonly path: string;
  readonly firstSequence: number;
  /** Null: no record yet. */
  readonly lastSequence: number | null;
  /** End of the last complete record, or of the header. */
  readonly end: number;
  /** Length of the file when it was scanned. */
  readonly fileBytes: number;
}

/** What a scan found. */
export interface JournalScan {
  /** Ascending. */
  readonly segments: readonly SegmentPlace[];
  /** Ascending, without gaps. */
  readonly records: readonly RecordPlace[];
  readonly head: JournalHead | null;
  /** Digest of the record before the first one here; null when there is no record. */
  readonly baseDigest: Uint8Array | null;
  /** What follows the last complete record. */
  readonly torn: { readonly path: string; readonly bytes: number; readonly reason: string } | null;
}

/** How thorough a scan is. */
export interface ScanOptions {
  /** False: payloads of Parts are skipped, so that a large journal takes milliseconds. Default true. */
  readonly isFull?: boolean;
  /** Segments that end before this record are not looked at. Default 1. */
  readonly fromSequence?: number;
  /** Told of the Commit of every sound record, in order. */
  readonly onCommit?: (commit: CommitFacts) => void;
}

/** A journal up to the first record that is damaged. */
export interface SoundPart {
  readonly scan: JournalScan;
  /** What is damaged there; null: the journal is sound. */
  readonly fault: CheckpointError | null;
  /** Of the first segment looked at, by its name; 1 if there is none. */
  readonly firstSequence: number;
  /** First records of the segments behind the one that is damaged. */
  readonly laterSegments: readonly number[];
}

/**
 * Scans the journal in `dir`.
 * @throws CheckpointError naming file and byte when a record is damaged that was complete once,
 * OperatingError when a file cannot be read.
 */
export async function scanJournal(dir: string, options: ScanOptions = {}): Promise<JournalScan> {
  const { scan, fault } = await scanSoundPart(dir, options);
  if (fault !== null) throw fault;
  return scan;
}

/** As scanJournal; damage does not make what is before it useless. @throws OperatingError */
export async function scanSoundPart(dir: string, options: ScanOptions = {}): Promise<SoundPart> {
  const files = await listSegments(dir, options.fromSequence ?? 1);
  const fold: Fold = { segments: [], records: [], head: null, baseDigest: null, torn: null };
  const firstSequence = files[0]?.firstSequence ?? 1;
  for (const [i, file] of files.entries()) {
    const { path } = file;
    try {
      checkFollows(path, file.firstSequence, fold);
      const handle = await explaining(`read ${path}`, open(path, 'r'));
      try {
        await new SegmentScan(path, file.firstSequence, handle, fold, options).run(i === files.length - 1);
      } finally {
        await handle.close();
      }
    } catch (error) {
      if (!(error instanceof CheckpointError)) throw error;
      const laterSegments = files.slice(i + 1).map((later) => later.firstSequence);
      return { scan: fold, fault: error, firstSequence, laterSegments };
    }
  }
  return { scan: fold, fault: null, firstSequence, laterSegments: [] };
}

/** Ascending, from the one that holds `fromSequence`. */
async function listSegments(
  dir: string,
  fromSequence: number,
): Promise<{ readonly path: string; readonly firstSequence: number }[]> {
  const names = await explaining(`read ${dir}`, readdir(dir));
  const files = names
    .flatMap((name) => {
      const firstSequence = parseSegmentName(name);
      return firstSequence === null ? [] : [{ path: join(dir, name), firstSequence }];
    })
    .sort((a, b) => a.firstSequence - b.firstSequence);
  const first = files.findLastIndex(({ firstSequence }) => firstSequence <= fromSequence);
  return files.slice(Math.max(0, first));
}

/** The scan so far. */
interface Fold {
  segments: SegmentPlace[];
  records: RecordPlace[];
  head: JournalHead | null;
  baseDigest: Uint8Array | null;
  torn: JournalScan['torn'];
}

/** A segment begins where the one before it ended. */
function checkFollows(path: string, firstSequence: number, { segments, head }: Fold): void {
  const before = segments.at(-1);
  if (before === undefined) return;
  const expected = head === null ? before.firstSequence : head.sequence + 1;
  if (firstSequence !== expected) {
    throw new CheckpointError(
      path,
      `${path}: the journal has a gap: record ${expected} should come first, ${before.path} ends before it`,
    );
  }
}

/** An entry, or why there is none. */
type EntryRead =
  | { readonly type: 'entry'; readonly tag: number; readonly frame: Uint8Array | null; readonly end: number }
  | { readonly type: 'end' }
  | { readonly type: 'bad'; readonly reason: string };

class SegmentScan {
  readonly #path: string;
  readonly #firstSequence: number;
  readonly #handle: FileHandle;
  readonly #fold: Fold;
  readonly #isFull: boolean;
  readonly #onCommit: (commit: CommitFacts) => void;
  #size = 0;
  #buffer: Uint8Array = new Uint8Array(0);
  /** The part of `#buffer` that was read last, and where in the file it begins. */
  #window: Uint8Array = new Uint8Array(0);
  #windowStart = 0;

  constructor(path: string, firstSequence: number, handle: FileHandle, fold: Fold, options: ScanOptions) {
    this.#path = path;
    this.#firstSequence = firstSequence;
    this.#handle = handle;
    this.#fold = fold;
    this.#isFull = options.isFull ?? true;
    this.#onCommit = options.onCommit ?? (() => {});
  }

  async run(isLast: boolean): Promise<void> {
    this.#size = (await explaining(`read ${this.#path}`, this.#handle.stat())).size;
    const header = await this.#bytes(0, Math.min(SEGMENT_HEADER_BYTES, this.#size));
    const fault = faultOfSegmentHeader(header, this.#firstSequence);
    if (fault !== null) throw new CheckpointError(this.#path, `${this.#path} is damaged: ${fault}`);
    const { end, stop, stopReason } = await this.#readRecords();
    if (end < this.#size) {
      const reason = stopReason ?? 'a record without its end';
      await this.#refuseDamage(stop, reason, isLast);
      this.#fold.torn = { path: this.#path, bytes: this.#size - end, reason: `${reason} at byte ${stop}` };
    }
    const last = this.#fold.records.at(-1);
    const lastSequence = last !== undefined && last.path === this.#path ? last.sequence : null;
    const { path } = this;
    this.#fold.segments.push({
      path,
      firstSequence: this.#firstSequence,
      lastSequence,
      end,
      fileBytes: this.#size,
    });
  }

  get path(): string {
    return this.#path;
  }

  /** Takes in every complete record. `end`: of the last one; `stop`: where reading stopped, and why. */
  async #readRecords(): Promise<{ end: number; stop: number; stopReason: string | null }> {
    let start = SEGMENT_HEADER_BYTES;
    let position = start;
    for (;;) {
      const entry = await this.#readEntry(position);
      if (entry.type === 'end') return { end: start, stop: position, stopReason: null };
      if (entry.type === 'bad') return { end: start, stop: position, stopReason: entry.reason };
      if (entry.frame !== null && entry.tag === COMMIT_TAG) {
        this.#addRecord(this.#decode(entry.frame, position), start, entry.end);
        start = entry.end;
      } else if (entry.tag !== PART_TAG) {
        throw this.#damaged(position, 'a message that does not belong into a journal');
      }
      position = entry.end;
    }
  }

  async #readEntry(position: number): Promise<EntryRead> {
    const left = this.#size - position;
    if (left === 0) return { type: 'end' };
    if (left <= ENTRY_HEADER_BYTES) return { type: 'bad', reason: 'an entry cut short' };
    // One byte beyond the header: the frame's tag.
    const header = Uint8Array.from(await this.#bytes(position, ENTRY_HEADER_BYTES + 1));
    const view = new DataView(header.buffer);
    const length = view.getUint32(0, true);
    if (length === 0 || length > MAX_JOURNAL_FRAME_BYTES) {
      return { type: 'bad', reason: `an entry with the impossible length ${length}` };
    }
    const end = position + ENTRY_HEADER_BYTES + length;
    if (end > this.#size) return { type: 'bad', reason: 'an entry cut short' };
    const tag = header[ENTRY_HEADER_BYTES] as number;
    if (!this.#isFull && tag === PART_TAG) return { type: 'entry', tag, frame: null, end };
    const frame = await this.#bytes(position + ENTRY_HEADER_BYTES, length);
    if (entryCrc(header.subarray(0, 4), frame) !== view.getUint32(4, true)) {
      return { type: 'bad', reason: 'an entry whose checksum is wrong' };
    }
    return { type: 'entry', tag, frame, end };
  }

  #decode(frame: Uint8Array, position: number): CommitFacts {
    try {
      return decodeCommit(frame);
    } catch (error) {
      throw this.#damaged(position, `a Commit that cannot be read: ${(error as Error).message}`);
    }
  }

  #addRecord(commit: CommitFacts, start: number, end: number): void {
    const { head } = this.#fold;
    const expected = head === null ? this.#firstSequence : head.sequence + 1;
    if (commit.sequence !== expected) {
      throw this.#damaged(start, `record ${commit.sequence} where ${expected} should be`);
    }
    if (head !== null && !Buffer.from(head.digest).equals(commit.previousDigest)) {
      throw this.#damaged(
        start,
        `record ${commit.sequence} does not follow the one before it: the digests differ`,
      );
    }
    if (head === null) this.#fold.baseDigest = commit.previousDigest;
    const { sequence, step, kind, digest } = commit;
    this.#fold.head = foldCommit(head, commit);
    this.#fold.records.push({ sequence, step, kind, digest, path: this.#path, start, end });
    this.#onCommit(commit);
  }

  /**
   * A crash leaves a bad record only at the very end. Anything complete behind it means that a record
   * was damaged that had been safe on disk: then nothing may be cut off.
   */
  async #refuseDamage(stop: number, reason: string, isLast: boolean): Promise<void> {
    if (!isLast) throw this.#damaged(stop, `${reason}, and later segments exist`);
    const expected = (this.#fold.head?.sequence ?? this.#firstSequence - 1) + 1;
    const later = await this.#findCommit(stop, expected);
    if (later !== null) {
      throw this.#damaged(
        stop,
        `${reason}, and record ${later.sequence} behind it is complete at byte ${later.end}`,
      );
    }
  }

  /**
   * Looks at every byte from `from` on for a whole Commit of record `expected` or later. The record
   * `expected` itself counts only if something follows it: its end alone may have reached the disk
   * when power failed.
   */
  async #findCommit(from: number, expected: number): Promise<{ sequence: number; end: number } | null> {
    const overlap = ENTRY_HEADER_BYTES + 8;
    for (let base = from; base < this.#size; base += FULL_WINDOW_BYTES) {
      const window = new Uint8Array(Math.min(FULL_WINDOW_BYTES + overlap, this.#size - base));
      await explaining(`read ${this.#path}`, readFully(this.#handle, window, base));
      const bytes = Buffer.from(window.buffer);
      for (
        let at = bytes.indexOf(COMMIT_TAG, ENTRY_HEADER_BYTES);
        at !== -1;
        at = bytes.indexOf(COMMIT_TAG, at + 1)
      ) {
        const length = bytes.readUInt32LE(at - ENTRY_HEADER_BYTES);
        const end = base + at + length;
        if (length > MAX_JOURNAL_FRAME_BYTES || end > this.#size || !isEnvelopeLength(bytes, at + 1, length))
          continue;
        const sequence = await this.#commitAt(base + at - ENTRY_HEADER_BYTES, length);
        if (sequence === null) continue;
        if (sequence > expected || (sequence === expected && end < this.#size)) return { sequence, end };
      }
    }
    return null;
  }

  /** Sequence of the Commit whose entry begins at `position`; null when there is no sound one. */
  async #commitAt(position: number, length: number): Promise<number | null> {
    const entry = new Uint8Array(ENTRY_HEADER_BYTES + length);
    await explaining(`read ${this.#path}`, readFully(this.#handle, entry, position));
    const crc = new DataView(entry.buffer).getUint32(4, true);
    const frame = entry.subarray(ENTRY_HEADER_BYTES);
    if (entryCrc(entry.subarray(0, 4), frame) !== crc) return null;
    try {
      return decodeCommit(frame).sequence;
    } catch {
      return null;
    }
  }

  /** A view that is good until the next call. The range lies within the file. */
  async #bytes(position: number, length: number): Promise<Uint8Array> {
    const isInside =
      position >= this.#windowStart && position + length <= this.#windowStart + this.#window.length;
    if (!isInside) {
      const wanted = Math.max(length, this.#isFull ? FULL_WINDOW_BYTES : SPARSE_WINDOW_BYTES);
      if (this.#buffer.length < wanted) this.#buffer = new Uint8Array(wanted);
      const window = this.#buffer.subarray(0, Math.min(wanted, this.#size - position));
      const done = await explaining(`read ${this.#path}`, readFully(this.#handle, window, position));
      if (done < length) throw this.#damaged(position + done, 'the file became shorter while it was read');
      this.#window = window.subarray(0, done);
      this.#windowStart = position;
    }
    const offset = position - this.#windowStart;
    return this.#window.subarray(offset, offset + length);
  }

  #damaged(position: number, reason: string): CheckpointError {
    return new CheckpointError(this.#path, `${this.#path} is damaged at byte ${position}: ${reason}`);
  }
}

/** Whether a varint at `at` says that the message fills the rest of a frame of `frameLength` bytes. */
function isEnvelopeLength(bytes: Uint8Array, at: number, frameLength: number): boolean {
  let value = 0;
  for (let i = 0; i < 4; i++) {
    const byte = bytes[at + i];
    if (byte === undefined) return false;
    value |= (byte & 0x7f) << (7 * i);
    if (byte < 0x80) return 1 + i + 1 + value === frameLength;
  }
  return false;
}
