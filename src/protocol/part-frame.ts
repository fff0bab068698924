/**
 * The frame of a Part whose payload is yet to be read: what comes off a disk goes straight to its place in the frame.
 * The same bytes as `encodeEnvelope` makes of the whole message; a test compares them.
 */
import { galore } from '#messages';
import { toEnvelope } from './encode.ts';
import type { PartMessage } from './messages.ts';

const { Part } = galore.v1;

/** Field numbers * 8 + 2 (length-delimited): `part` of an Envelope, `payload` of a Part, which is its last field. */
const PART_TAG = (7 << 3) | 2;
const PAYLOAD_TAG = (8 << 3) | 2;

/** Of a Part without its payload. */
export type PartHeader = Omit<PartMessage, 'kind' | 'payload'>;

/**
 * A frame whose payload has `payloadBytes` bytes, at least 1, and the place in it where they belong.
 */
export function partFrame(
  header: PartHeader,
  payloadBytes: number,
): { readonly frame: Uint8Array; readonly payload: Uint8Array } {
  const empty = toEnvelope({ kind: 'part', ...header, payload: new Uint8Array(0) }).part;
  const fields = Part.encode(empty ?? {}).finish();
  const payloadLength = varint(payloadBytes);
  const bodyLength = varint(fields.length + 1 + payloadLength.length + payloadBytes);
  const head = [PART_TAG, ...bodyLength, ...fields, PAYLOAD_TAG, ...payloadLength];
  const frame = new Uint8Array(head.length + payloadBytes);
  frame.set(head);
  return { frame, payload: frame.subarray(head.length) };
}

/** As protobuf writes lengths: seven bits a byte, the lowest first. */
function varint(value: number): number[] {
  return value < 0x80 ? [value] : [(value & 0x7f) | 0x80, ...varint(value >>> 7)];
}
