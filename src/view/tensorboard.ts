/**
 * The event files that TensorBoard reads: records of a length, its checksum, an Event message and its checksum
 * (tensorflow/core/lib/io/record_writer.h, tensorflow/core/util/event.proto). Scalars alone are written. Pure.
 *
 *   uint64 length, uint32 masked crc32c of these 8 bytes, the message, uint32 masked crc32c of it; little-endian
 */
import { Reader, Writer } from 'protobufjs/minimal.js';
import { crc32c } from '../protocol/crc32c.ts';

/** In a file's first event; readers of this version discard nothing when a step comes twice. */
const FILE_VERSION = 'brain.Event:2';
const HEADER_BYTES = 12;
const FOOTER_BYTES = 4;
/** A longer message is not one of ours. */
const MAX_MESSAGE_BYTES = 1024 * 1024;

/** A number for a curve. */
export interface Scalar {
  readonly tag: string;
  readonly value: number;
}

/** What a file says at a step; no scalars: its first event. */
export interface ScalarEvent {
  readonly wallSeconds: number;
  readonly step: number;
  readonly scalars: readonly Scalar[];
}

/** The first record of a file. */
export function firstRecord(wallSeconds: number): Uint8Array {
  return record(Writer.create().uint32(9).double(wallSeconds).uint32(26).string(FILE_VERSION).finish());
}

/** The record of some scalars. */
export function scalarRecord({ wallSeconds, step, scalars }: ScalarEvent): Uint8Array {
  const event = Writer.create().uint32(9).double(wallSeconds).uint32(16).int64(step);
  event.uint32(42).fork();
  for (const { tag, value } of scalars)
    event.uint32(10).fork().uint32(10).string(tag).uint32(21).float(value).ldelim();
  return record(event.ldelim().finish());
}

function record(message: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES + message.length + FOOTER_BYTES);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(message.length), true);
  view.setUint32(8, masked(bytes.subarray(0, 8)), true);
  bytes.set(message, HEADER_BYTES);
  view.setUint32(HEADER_BYTES + message.length, masked(message), true);
  return bytes;
}

/** A crc of bytes that hold crcs is weak: it is rotated by 15 bits and moved. */
function masked(bytes: Uint8Array): number {
  const crc = crc32c(bytes) >>> 0;
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}

/** A record as found; `end` is where it ends. */
export interface FoundEvent extends ScalarEvent {
  readonly end: number;
}

/** The records of a file up to the first that is not whole, which a crash has left. */
export function* readEvents(bytes: Uint8Array): Generator<FoundEvent, void, void> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 0; at + HEADER_BYTES + FOOTER_BYTES <= bytes.length;) {
    const length = Number(view.getBigUint64(at, true));
    const start = at + HEADER_BYTES;
    const end = start + length + FOOTER_BYTES;
    if (length > MAX_MESSAGE_BYTES || end > bytes.length) return;
    if (view.getUint32(at + 8, true) !== masked(bytes.subarray(at, at + 8))) return;
    const message = bytes.subarray(start, start + length);
    if (view.getUint32(start + length, true) !== masked(message)) return;
    yield { ...parseEvent(message), end };
    at = end;
  }
}

function parseEvent(message: Uint8Array): ScalarEvent {
  const reader = Reader.create(message);
  let [wallSeconds, step] = [0, 0];
  const scalars: Scalar[] = [];
  while (reader.pos < reader.len) {
    const tag = reader.uint32();
    if (tag === 9) wallSeconds = reader.double();
    else if (tag === 16) step = Number(String(reader.int64()));
    else if (tag === 42) scalars.push(...parseSummary(reader.bytes()));
    else reader.skipType(tag & 7);
  }
  return { wallSeconds, step, scalars };
}

function parseSummary(bytes: Uint8Array): Scalar[] {
  const reader = Reader.create(bytes);
  const scalars: Scalar[] = [];
  while (reader.pos < reader.len) {
    const tag = reader.uint32();
    if (tag !== 10) {
      reader.skipType(tag & 7);
      continue;
    }
    const value = Reader.create(reader.bytes());
    let scalar: Scalar = { tag: '', value: NaN };
    while (value.pos < value.len) {
      const field = value.uint32();
      if (field === 10) scalar = { ...scalar, tag: value.string() };
      else if (field === 21) scalar = { ...scalar, value: value.float() };
      else value.skipType(field & 7);
    }
    scalars.push(scalar);
  }
  return scalars;
}
