/**
 * The journal: every record of the run since some checkpoint, on disk before it is announced. Appends
 * are synced; a record that could not be written whole is taken back and the journal stays usable.
 * Readers follow beside the appends. See docs/state.md, "Journal".
 */
import assert from 'node:assert/strict';
import { mkdir, open, readdir, rename, rm, unlink } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { CheckpointError } from '../../errors.ts';
import { syncDirectory, writeSynced } from '../../files/atomic.ts';
import { writevFully } from '../../files/positional.ts';
import { explainSystemError, explaining } from '../../files/system-error.ts';
import { FIRST_DIGEST } from '../../protocol/digest.ts';
import {
  COMMIT_TAG,
  ENTRY_HEADER_BYTES,
  MAX_JOURNAL_FRAME_BYTES,
  PART_TAG,
  SEGMENT_HEADER_BYTES,
  decodeCommit,
  encodeEntryHeader,
  encodeSegmentHeader,
  foldCommit,
  segmentName,
} from './journal-format.ts';
import type { CommitFacts, JournalHead, RecordKind } from './journal-format.ts';
import { readFrames } from './journal-read.ts';
import { scanJournal } from './journal-scan.ts';
import type { JournalScan, RecordPlace } from './journal-scan.ts';

export type { JournalHead, RecordKind, UpdateFacts } from './journal-format.ts';
export type { RecordPlace } from './journal-scan.ts';

/** Frames written with one call. */
const GROUP_BYTES = 8 * 1024 * 1024;

/** What the caller of `append` believes the record to be; its Commit must say the same. */
export interface RecordSummary {
  readonly sequence: number;
  readonly step: number;
  readonly digest: Uint8Array;
  readonly kind: RecordKind;
}

/** A segment file; the last one may be open for appending. */
interface Segment {
  readonly path: string;
  readonly firstSequence: number;
  /** End of its last complete record. */
  end: number;
}

export class Journal {
  readonly path: string;
  readonly #segments: Segment[];
  readonly #records: RecordPlace[];
  #head: JournalHead | null;
  /** The record before the first one here, and its digest where known. */
  #baseSequence: number;
  #baseDigest: Uint8Array | null;
  /** Of the last segment. */
  #handle: FileHandle | null = null;
  /** Bytes of a failed append may follow `end` of the last segment. */
  #needsRepair = false;
  /** Ends when every operation asked for so far has ended. */
  #idle: Promise<unknown> = Promise.resolve();
  #isClosed = false;

  private constructor(dir: string, scan: JournalScan) {
    this.path = dir;
    this.#segments = scan.segments.map(({ path, firstSequence, end }) => ({ path, firstSequence, end }));
    this.#records = [...scan.records];
    this.#head = scan.head;
    this.#baseSequence = (scan.segments[0]?.firstSequence ?? 1) - 1;
    this.#baseDigest = this.#baseSequence === 0 ? FIRST_DIGEST : scan.baseDigest;
  }

  /**
   * Opens the journal in `dir`, creating the directory if need be. What a crash left behind the last
   * complete record is cut off, and `onNotice` is told.
   * @throws CheckpointError naming file and byte when a record is damaged that was complete once;
   * nothing is changed then. OperatingError when the system refuses.
   */
  static async open(dir: string, onNotice: (text: string) => void): Promise<Journal> {
    await explaining(`write ${dir}`, mkdir(dir, { recursive: true }));
    const scan = await scanJournal(dir);
    for (const name of await readdir(dir)) {
      if (name.endsWith('.log.tmp')) await explaining(`write ${dir}`, rm(join(dir, name)));
    }
    const journal = new Journal(dir, scan);
    try {
      await journal.#openLastSegment();
      if (scan.torn !== null) {
        const { path, bytes, reason } = scan.torn;
        journal.#needsRepair = true;
        await journal.#repair();
        const last = scan.head === null ? 'no record' : `record ${scan.head.sequence}`;
        onNotice(`${path}: cut off ${bytes} bytes behind ${last} that a crash left (${reason})`);
      }
    } catch (error) {
      await journal.close();
      throw error;
    }
    return journal;
  }

  /** The last record; null when there is none here (then the newest checkpoint is all there is). */
  get head(): JournalHead | null {
    return this.#head;
  }

  /** The sequence the next record must have. */
  get nextSequence(): number {
    return this.#head === null ? this.#baseSequence + 1 : this.#head.sequence + 1;
  }

  /** The first record that can be read; `nextSequence` when there is none. */
  get firstSequence(): number {
    return this.#baseSequence + 1;
  }

  /** Bytes of all segments. */
  get totalBytes(): number {
    return this.#segments.reduce((sum, { end }) => sum + end, 0);
  }

  /**
   * The digest of a record; null unless every record after it can be read here. A trainer that holds
   * (sequence, digest) can be brought up to date from the journal exactly if this equals its digest.
   */
  digestOf(sequence: number): Uint8Array | null {
    if (sequence === this.#baseSequence) return this.#baseDigest;
    return this.#record(sequence)?.digest ?? null;
  }

  /** Step, kind and place of a record; null when it is not here. */
  describe(sequence: number): RecordPlace | null {
    return this.#record(sequence) ?? null;
  }

  /**
   * Appends one record, its Commit last, and syncs it. When this resolves the record survives a power
   * failure; when it throws, nothing of it remains.
   * @throws OperatingError naming the file when the disk is full or fails; the same record, or another
   * of the same sequence, can be appended later.
   */
  append(frames: readonly Uint8Array[], summary: RecordSummary): Promise<void> {
    return this.#enqueue(async () => {
      const commit = this.#check(frames, summary);
      const segment = this.#lastSegment() ?? (await this.#createSegment());
      if (this.#needsRepair) await this.#repair();
      const handle = this.#handle as FileHandle;
      const start = segment.end;
      let written: number;
      try {
        written = await writeEntries(handle, frames, start);
        await handle.datasync();
      } catch (error) {
        this.#needsRepair = true;
        // Failing again is no worse: the next append repairs first.
        await this.#repair().catch(() => {});
        throw explainSystemError(error, `append record ${commit.sequence} to ${segment.path}`);
      }
      segment.end = start + written;
      const { sequence, step, kind, digest } = commit;
      this.#records.push({ sequence, step, kind, digest, path: segment.path, start, end: segment.end });
      this.#baseDigest ??= commit.previousDigest;
      this.#head = foldCommit(this.#head, commit);
    });
  }

  /**
   * The frames of one record, read as they are asked for, so that a slow receiver costs no memory.
   * Appends go on meanwhile, and so does reading when the segment is removed.
   * @throws CheckpointError when the record is not in the journal or is damaged.
   */
  async *readRecord(sequence: number): AsyncGenerator<Uint8Array, void, void> {
    const record = this.#record(sequence);
    if (record === undefined) {
      throw new CheckpointError(this.path, `record ${sequence} is not in the journal: ${this.#extent()}`);
    }
    yield* readFrames(record);
  }

  /** The frames of every record from `fromSequence` to the head at the time of the call. */
  async *frames(fromSequence: number): AsyncGenerator<Uint8Array, void, void> {
    const last = this.#head?.sequence ?? this.#baseSequence;
    for (let sequence = fromSequence; sequence <= last; sequence++) yield* this.readRecord(sequence);
  }

  /** Later records go to a new file; nothing happens while the current one has no record. */
  startSegment(): Promise<void> {
    return this.#enqueue(async () => {
      const last = this.#lastSegment();
      if (last === undefined || last.firstSequence === this.nextSequence) return;
      if (this.#needsRepair) await this.#repair();
      await this.#createSegment();
    });
  }

  /** Deletes the segments that hold only records before `sequence`, but never the last one. */
  removeSegmentsBefore(sequence: number): Promise<void> {
    return this.#enqueue(async () => {
      const isPast = (next: Segment | undefined): boolean =>
        next !== undefined && next.firstSequence <= sequence;
      if (!isPast(this.#segments[1])) return;
      while (isPast(this.#segments[1])) {
        const { path } = this.#segments[0] as Segment;
        const base = (this.#segments[1] as Segment).firstSequence - 1;
        await explaining(`delete ${path}`, unlink(path));
        this.#baseDigest = this.digestOf(base);
        this.#records.splice(0, base - this.#baseSequence);
        this.#baseSequence = base;
        this.#segments.shift();
      }
      await explaining(`write ${this.path}`, syncDirectory(this.path));
    });
  }

  /**
   * Makes the digest of the record before `firstSequence` known, which a journal without records does
   * not hold. A checkpoint does.
   */
  setBaseDigest(digest: Uint8Array): void {
    this.#baseDigest ??= Uint8Array.from(digest);
  }

  /**
   * Starts over behind record `sequence`, whose state a checkpoint holds though the journal lacks it
   * (it was lost or damaged). Every record here is deleted.
   */
  restartAfter(sequence: number, digest: Uint8Array): Promise<void> {
    return this.#enqueue(async () => {
      assert(sequence >= this.nextSequence - 1, 'records the checkpoint lacks would be lost');
      await this.#handle?.close();
      this.#handle = null;
      this.#needsRepair = false;
      for (const { path } of this.#segments) await explaining(`delete ${path}`, unlink(path));
      this.#segments.length = 0;
      this.#records.length = 0;
      this.#head = null;
      this.#baseSequence = sequence;
      this.#baseDigest = Uint8Array.from(digest);
      await this.#createSegment();
    });
  }

  /** Waits for what was asked for, then closes the files. */
  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    await this.#idle;
    await this.#handle?.close();
    this.#handle = null;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** One operation at a time, in the order asked for; a failed one does not stop the next. */
  #enqueue<T>(work: () => Promise<T>): Promise<T> {
    assert(!this.#isClosed, 'the journal is closed');
    const result = this.#idle.then(work);
    this.#idle = result.catch(() => {});
    return result;
  }

  #check(frames: readonly Uint8Array[], summary: RecordSummary): CommitFacts {
    const last = frames.at(-1);
    assert(last !== undefined && last[0] === COMMIT_TAG, 'a record ends with its Commit');
    assert(
      frames.every((frame, i) => i === frames.length - 1 || frame[0] === PART_TAG),
      'a record consists of Parts and a Commit',
    );
    assert(
      frames.every(({ length }) => length <= MAX_JOURNAL_FRAME_BYTES),
      `a frame has at most ${MAX_JOURNAL_FRAME_BYTES} bytes`,
    );
    const commit = decodeCommit(last);
    assert.equal(commit.sequence, this.nextSequence, 'records are appended in order of sequence');
    const { sequence, step, kind } = summary;
    assert.deepEqual(
      { sequence: commit.sequence, step: commit.step, kind: commit.kind },
      { sequence, step, kind },
    );
    assert(Buffer.from(commit.digest).equals(summary.digest), 'the Commit has another digest');
    const previous = this.digestOf(commit.sequence - 1);
    assert(
      previous === null || Buffer.from(previous).equals(commit.previousDigest),
      'the record does not follow the last one: the digests differ',
    );
    return commit;
  }

  #record(sequence: number): RecordPlace | undefined {
    return sequence > this.#baseSequence ? this.#records[sequence - this.#baseSequence - 1] : undefined;
  }

  #lastSegment(): Segment | undefined {
    return this.#segments.at(-1);
  }

  #extent(): string {
    if (this.#head === null) return `it is empty behind record ${this.#baseSequence}`;
    return `it holds ${this.#baseSequence + 1} to ${this.#head.sequence}`;
  }

  async #openLastSegment(): Promise<void> {
    const segment = this.#lastSegment();
    if (segment === undefined) return;
    this.#handle = await explaining(`write ${segment.path}`, open(segment.path, 'r+'));
  }

  /** A file of that name has its header from the start: it is written under another name first. */
  async #createSegment(): Promise<Segment> {
    const firstSequence = this.nextSequence;
    const path = join(this.path, segmentName(firstSequence));
    const temporary = `${path}.tmp`;
    const create = async (): Promise<FileHandle> => {
      await writeSynced(temporary, encodeSegmentHeader(firstSequence));
      await rename(temporary, path);
      await syncDirectory(this.path);
      return await open(path, 'r+');
    };
    let handle: FileHandle;
    try {
      handle = await explaining(`write ${path}`, create());
    } catch (error) {
      // Records go on in the segment before; an empty one of this name would look like a gap then.
      for (const left of [temporary, path]) await rm(left, { force: true }).catch(() => {});
      throw error;
    }
    await this.#handle?.close();
    this.#handle = handle;
    const segment = { path, firstSequence, end: SEGMENT_HEADER_BYTES };
    this.#segments.push(segment);
    return segment;
  }

  /** Cuts off whatever follows the last complete record. */
  async #repair(): Promise<void> {
    const { path, end } = this.#lastSegment() as Segment;
    const handle = this.#handle as FileHandle;
    await explaining(
      `cut ${path} back to its last record`,
      handle.truncate(end).then(() => handle.sync()),
    );
    this.#needsRepair = false;
  }
}

/** Writes frames as entries from `start` on and returns the bytes written. Checksums are computed while the group before is written. */
async function writeEntries(
  handle: FileHandle,
  frames: readonly Uint8Array[],
  start: number,
): Promise<number> {
  let end = start;
  let writing: Promise<number> = Promise.resolve(0);
  for (let first = 0; first < frames.length;) {
    let next = first;
    for (let bytes = 0; next < frames.length && bytes < GROUP_BYTES; next++)
      bytes += (frames[next] as Uint8Array).length;
    const buffers = encodeEntries(frames.slice(first, next));
    end += await writing;
    writing = writevFully(handle, buffers, end);
    writing.catch(() => {}); // seen where it is awaited
    first = next;
  }
  return end + (await writing) - start;
}

/** Headers and frames in the order they are written. */
function encodeEntries(frames: readonly Uint8Array[]): Uint8Array[] {
  const headers = new Uint8Array(ENTRY_HEADER_BYTES * frames.length);
  return frames.flatMap((frame, i) => {
    const offset = ENTRY_HEADER_BYTES * i;
    encodeEntryHeader(headers, offset, frame);
    return [headers.subarray(offset, offset + ENTRY_HEADER_BYTES), frame];
  });
}
