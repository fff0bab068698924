/**
 * The journal's bytes. A segment file is a 16-byte header and entries; an entry is one encoded Envelope
 * with its length and CRC; the entries of a record are its Parts and, last, its Commit. See
 * docs/state.md, "Journal". No files here.
 */
import { galore } from '#messages';
import { crc32c } from '../../protocol/crc32c.ts';
import type { Cursor } from '../core/state.ts';
import { DIGEST_BYTES } from '../../protocol/limits.ts';

const { Envelope } = galore.v1;

export const JOURNAL_VERSION = 1;
export const SEGMENT_HEADER_BYTES = 16;
export const ENTRY_HEADER_BYTES = 8;
/** Longest frame: a Part is 1 MiB and a little, a Commit lists the sequences of every trainer. */
export const MAX_JOURNAL_FRAME_BYTES = 4 * 1024 * 1024;
const MAGIC = Buffer.from('GALOREJL', 'latin1');

/** First byte of an encoded Envelope: field number * 8 + 2 (length-delimited). */
export const PART_TAG = (7 << 3) | 2;
export const COMMIT_TAG = (14 << 3) | 2;

/** What a record is: new bases, or the update of a step. */
export type RecordKind = 'basis' | 'update';

/** What of a Commit the journal keeps in memory. */
export interface CommitFacts {
  readonly sequence: number;
  readonly step: number;
  readonly kind: RecordKind;
  readonly previousDigest: Uint8Array;
  readonly digest: Uint8Array;
  readonly update: UpdateFacts | null;
}

/** What an update record says about its step. */
export interface UpdateFacts {
  readonly step: number;
  readonly learningRate: number;
  readonly tokens: number;
  readonly lossSum: number | null; // nats; null: every member keeps its losses to itself
  readonly gradientNorm: number;
  readonly members: readonly UpdateMember[];
  readonly cursor: Cursor;
}

/** One trainer's part in a step. */
export interface UpdateMember {
  readonly trainerId: string;
  readonly tokens: number;
  /** Of the sequences it was given and used. */
  readonly positions: readonly number[];
}

/** Name of the segment whose first record is `sequence`. */
export function segmentName(sequence: number): string {
  return `${String(sequence).padStart(10, '0')}.log`;
}

/** First sequence of a segment, by its file name; null for files of other names. */
export function parseSegmentName(name: string): number | null {
  const match = /^(\d{10})\.log$/.exec(name);
  const sequence = match === null ? 0 : Number(match[1]);
  return sequence >= 1 && sequence <= 0xffffffff ? sequence : null;
}

/** Magic, format version and first sequence. */
export function encodeSegmentHeader(firstSequence: number): Uint8Array {
  const header = new Uint8Array(SEGMENT_HEADER_BYTES);
  header.set(MAGIC);
  const view = new DataView(header.buffer);
  view.setUint32(8, JOURNAL_VERSION, true);
  view.setUint32(12, firstSequence, true);
  return header;
}

/** What is wrong with a segment's header; null when nothing is. */
export function faultOfSegmentHeader(header: Uint8Array, firstSequence: number): string | null {
  if (header.length < SEGMENT_HEADER_BYTES) return `its header is cut short at ${header.length} bytes`;
  if (!MAGIC.equals(header.subarray(0, MAGIC.length))) return 'it is not a journal file';
  const view = new DataView(header.buffer, header.byteOffset, header.byteLength);
  const version = view.getUint32(8, true);
  if (version !== JOURNAL_VERSION)
    return `its format version is ${version}, this build reads ${JOURNAL_VERSION}`;
  const stated = view.getUint32(12, true);
  return stated === firstSequence ? null : `its header says that record ${stated} comes first`;
}

/** Writes the header of the entry of `frame` at `offset` of `target`. */
export function encodeEntryHeader(target: Uint8Array, offset: number, frame: Uint8Array): void {
  const view = new DataView(target.buffer, target.byteOffset + offset, ENTRY_HEADER_BYTES);
  view.setUint32(0, frame.length, true);
  view.setUint32(4, entryCrc(target.subarray(offset, offset + 4), frame), true);
}

/** CRC-32C of the length's four bytes and the frame. */
export function entryCrc(lengthBytes: Uint8Array, frame: Uint8Array): number {
  return crc32c(frame, crc32c(lengthBytes));
}

/**
 * What a Commit frame says, copied out of the frame.
 * @throws RangeError or Error from the decoder, or RangeError when the frame is not a whole Commit.
 */
export function decodeCommit(frame: Uint8Array): CommitFacts {
  const { commit } = Envelope.decode(frame);
  if (!commit) throw new RangeError('it is not a Commit');
  const { previousDigest, digest, update } = commit;
  const sequence = commit.sequence ?? 0;
  const step = commit.step ?? 0;
  if (previousDigest?.length !== DIGEST_BYTES || digest?.length !== DIGEST_BYTES) {
    throw new RangeError('its digests do not have 32 bytes');
  }
  if (!commit.basis && !update) throw new RangeError('it has no kind');
  return {
    sequence,
    step,
    kind: (update ?? null) === null ? 'basis' : 'update',
    previousDigest: Uint8Array.from(previousDigest),
    digest: Uint8Array.from(digest),
    update:
      (update ?? null) === null ? null : factsOfUpdate(step, update as galore.v1.UpdateCommit.$Properties),
  };
}

function factsOfUpdate(step: number, update: galore.v1.UpdateCommit.$Properties): UpdateFacts {
  const members = update.members ?? [];
  return {
    step,
    learningRate: update.learningRate ?? 0,
    tokens: update.tokens ?? 0,
    lossSum: update.lossWithheld ? null : (update.lossSum ?? 0),
    gradientNorm: update.gradientNorm ?? 0,
    members: members.map(({ trainerId, tokens, positions }) => ({
      trainerId: trainerId ?? '',
      tokens: tokens ?? 0,
      positions: [...(positions ?? [])],
    })),
    cursor: { next: update.cursor?.next ?? 0, returned: [...(update.cursor?.returned ?? [])] },
  };
}

/** Where the journal stands: its last record and, of the last update, what a restart needs. */
export interface JournalHead {
  readonly sequence: number;
  readonly digest: Uint8Array;
  /** Committed steps. */
  readonly step: number;
  /** Step of the last basis record in the journal; 0: none. `step + 1` when its update is still to come. */
  readonly refreshedStep: number;
  /** The last update in the journal; null when there is only a basis record so far. */
  readonly lastUpdate: UpdateFacts | null;
  /** Its cursor. */
  readonly cursor: Cursor | null;
}

/** The head after one more record. */
export function foldCommit(head: JournalHead | null, commit: CommitFacts): JournalHead {
  const lastUpdate = commit.update ?? head?.lastUpdate ?? null;
  return {
    sequence: commit.sequence,
    digest: commit.digest,
    step: commit.kind === 'update' ? commit.step : commit.step - 1,
    refreshedStep: commit.kind === 'basis' ? commit.step : (head?.refreshedStep ?? 0),
    lastUpdate,
    cursor: lastUpdate?.cursor ?? null,
  };
}
