/**
 * Records as messages of a stream: the frames, each as an entry of the journal (length, checksum, bytes), one behind
 * the other and cut where a message is full. Headers say what a message is part of. Pure. See docs/state.md, "State
 * store".
 */
import { CheckpointError } from '../../../errors.ts';
import { ENTRY_HEADER_BYTES, encodeEntryHeader, entryCrc, type RecordKind } from '../journal-format.ts';
import type { RecordSummary } from '../journal.ts';
import type { StoredRecord } from '../state-store.ts';

/** Room in a message for headers and subject, which count too. */
const HEADERS_BYTES = 4096;
/** What a server takes that does not say. */
const DEFAULT_PAYLOAD_BYTES = 1024 * 1024;

const EPOCH = 'Galore-Epoch';
const RECORD = 'Galore-Record';
const PART = 'Galore-Part';
const STEP = 'Galore-Step';
const KIND = 'Galore-Kind';
const DIGEST = 'Galore-Digest';

/** What the headers of a message say. */
export type MessageFacts = EpochFacts | PartFacts;

/** A leader begins; `sequence` is that of the record that comes next. */
export interface EpochFacts {
  readonly type: 'epoch';
  readonly epoch: number;
  readonly sequence: number;
}

/** Part number `part` (from 1) of `parts` of a record. */
export interface PartFacts extends RecordSummary {
  readonly type: 'part';
  readonly epoch: number;
  readonly part: number;
  readonly parts: number;
}

/** Headers as NATS has them, in and out. */
export interface ReadableHeaders {
  get(name: string): string;
}

/** Bytes that a message of ours can have in a server that takes this much, headers included. */
export function roomIn(maxPayloadBytes: number = DEFAULT_PAYLOAD_BYTES): number {
  const room = maxPayloadBytes - HEADERS_BYTES;
  if (room < HEADERS_BYTES) throw new RangeError(`messages of ${maxPayloadBytes} bytes are too small`);
  return room;
}

/** The payloads of the messages of a record. `maxPayloadBytes`: what the server takes, headers included. */
export function packRecord(frames: readonly Uint8Array[], maxPayloadBytes?: number): readonly Uint8Array[] {
  const room = roomIn(maxPayloadBytes);
  const totalBytes = frames.reduce((sum, { length }) => sum + ENTRY_HEADER_BYTES + length, 0);
  const all = new Uint8Array(totalBytes);
  let offset = 0;
  for (const frame of frames) {
    encodeEntryHeader(all, offset, frame);
    all.set(frame, offset + ENTRY_HEADER_BYTES);
    offset += ENTRY_HEADER_BYTES + frame.length;
  }
  const payloads: Uint8Array[] = [];
  for (let start = 0; start < totalBytes; start += room) payloads.push(all.subarray(start, start + room));
  return payloads;
}

/** Headers of a part, or of the beginning of an epoch. */
export function headersOf(facts: MessageFacts): ReadonlyMap<string, string> {
  const { epoch, sequence } = facts;
  const headers = new Map([
    [EPOCH, String(epoch)],
    [RECORD, String(sequence)],
  ]);
  if (facts.type === 'epoch') return headers;
  headers.set(PART, `${facts.part}/${facts.parts}`);
  headers.set(STEP, String(facts.step));
  headers.set(KIND, facts.kind);
  return headers.set(DIGEST, Buffer.from(facts.digest).toString('hex'));
}

/** Null: it is not a message of ours. */
export function readHeaders(headers: ReadableHeaders | undefined): MessageFacts | null {
  const read = (name: string): string => headers?.get(name) ?? '';
  const epoch = Number(read(EPOCH));
  const sequence = Number(read(RECORD));
  if (read(EPOCH) === '' || !Number.isInteger(epoch) || !Number.isInteger(sequence) || sequence < 1)
    return null;
  const numbers = /^(\d+)\/(\d+)$/.exec(read(PART));
  if (numbers === null) return read(PART) === '' ? { type: 'epoch', epoch, sequence } : null;
  const [part, parts] = [Number(numbers[1]), Number(numbers[2])];
  const step = Number(read(STEP));
  const kind = read(KIND) as RecordKind;
  const digest = new Uint8Array(Buffer.from(read(DIGEST), 'hex'));
  return { type: 'part', epoch, sequence, part, parts, step, kind, digest };
}

/** The sequence that the record after this message has, if nothing more comes. */
export function nextSequenceAfter(facts: MessageFacts): number {
  return facts.type === 'part' && facts.part === facts.parts ? facts.sequence + 1 : facts.sequence;
}

/** Puts records together again. What a leader that died has left of one is dropped. */
export class RecordReader {
  readonly #path: string;
  #current: PartFacts | null = null;
  #payloads: Uint8Array[] = [];

  /** @param path for messages */
  constructor(path: string) {
    this.#path = path;
  }

  /** The record that this message completes; else null. @throws CheckpointError when it is damaged */
  accept(facts: MessageFacts, payload: Uint8Array): StoredRecord | null {
    const isFirst = facts.type === 'part' && facts.part === 1;
    if (facts.type === 'epoch' || isFirst || !this.#continues(facts)) {
      this.#payloads = [];
      this.#current = isFirst ? facts : null;
    }
    if (this.#current === null || facts.type === 'epoch') return null;
    this.#current = facts;
    this.#payloads.push(payload);
    if (facts.part < facts.parts) return null;
    const { sequence, step, kind, digest } = facts;
    const frames = this.#unpack(sequence);
    this.#current = null;
    this.#payloads = [];
    return { sequence, step, kind, digest, frames };
  }

  #continues(facts: PartFacts): boolean {
    const before = this.#current;
    return (
      before !== null &&
      before.sequence === facts.sequence &&
      before.epoch === facts.epoch &&
      before.part + 1 === facts.part &&
      before.parts === facts.parts &&
      Buffer.from(before.digest).equals(facts.digest)
    );
  }

  #unpack(sequence: number): readonly Uint8Array[] {
    const [only] = this.#payloads;
    const bytes = this.#payloads.length === 1 ? only! : Buffer.concat(this.#payloads);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const frames: Uint8Array[] = [];
    for (let offset = 0; offset < bytes.length;) {
      const start = offset + ENTRY_HEADER_BYTES;
      const end = start <= bytes.length ? start + view.getUint32(offset, true) : Infinity;
      if (end > bytes.length) throw this.#damaged(sequence, 'it is cut short');
      const frame = new Uint8Array(bytes.subarray(start, end)); // a copy
      if (entryCrc(bytes.subarray(offset, offset + 4), frame) !== view.getUint32(offset + 4, true)) {
        throw this.#damaged(sequence, 'a wrong checksum');
      }
      frames.push(frame);
      offset = end;
    }
    return frames;
  }

  #damaged(sequence: number, fault: string): CheckpointError {
    return new CheckpointError(this.#path, `${this.#path}: record ${sequence} is damaged: ${fault}`);
  }
}
