/**
 * What a frame is, from its first bytes: for counting traffic without decoding what travels. Pure.
 * Frames are encoded Envelopes (proto/galore.proto), complete or not to be trusted: what cannot be read is
 * `other`.
 */
import { STREAM_NUMBERS } from './enums.ts';
import type { StreamName } from './messages.ts';

/**
 * What bytes are for: gradients and the sums of them, new bases (sketches, factors, bases), what a step or an
 * evaluation computes with, the state of a trainer that joins or of a checkpoint, and the rest.
 */
export const TRAFFIC_KINDS = ['contribution', 'update', 'refresh', 'data', 'snapshot', 'other'] as const;

export type TrafficKind = (typeof TRAFFIC_KINDS)[number];

/** A frame, as far as its beginning tells. */
export interface FrameKind {
  readonly kind: TrafficKind;
  /** The slot whose contribution or update it is a Part of. */
  readonly slot: number | null;
}

/** By field number of the Envelope's body; a Part says it by its stream, a Commit by its record. */
const BODIES: Readonly<Record<number, TrafficKind>> = {
  8: 'data', // StepAssignment
  9: 'refresh', // SketchRequest
  10: 'refresh', // Sketch
  11: 'refresh', // FactorAssignment
  12: 'refresh', // Factor
  13: 'contribution',
  16: 'data', // EvaluationAssignment
  18: 'snapshot', // SnapshotRequest
  19: 'snapshot', // SnapshotEnd
  21: 'update', // UpdateWithdrawn
};
const PART = 7;
const COMMIT = 14;

const STREAMS: Readonly<Record<StreamName, TrafficKind>> = {
  snapshot: 'snapshot',
  sketch: 'refresh',
  sketchSum: 'refresh',
  factor: 'refresh',
  contribution: 'contribution',
  update: 'update',
  basis: 'refresh',
};
const STREAM_KINDS = new Map<number, TrafficKind>(
  Object.entries(STREAM_NUMBERS).map(([name, number]) => [number, STREAMS[name as StreamName]]),
);

/** Fields of Part; all but the payload, which comes last, are numbers. */
const PART_STREAM = 1;
const PART_TENSOR = 4;
/** The records of a Commit. */
const COMMIT_BASIS = 5;
const COMMIT_UPDATE = 6;

/** What the frame is. */
export function frameKind(frame: Uint8Array): FrameKind {
  const reader = new FieldReader(frame);
  const body = reader.next()?.field ?? 0;
  reader.enter();
  if (body === PART) return partKind(reader);
  if (body !== COMMIT) return { kind: BODIES[body] ?? 'other', slot: null };
  for (let entry = reader.next(); entry !== null; entry = reader.next()) {
    if (entry.field === COMMIT_BASIS) return { kind: 'refresh', slot: null };
    if (entry.field === COMMIT_UPDATE) return { kind: 'update', slot: null };
    reader.skip();
  }
  return { kind: 'other', slot: null };
}

function partKind(reader: FieldReader): FrameKind {
  let kind: TrafficKind = 'other';
  let tensor = 0; // proto3 leaves zeros out
  for (let entry = reader.next(); entry !== null && entry.isNumber; entry = reader.next()) {
    const value = reader.number();
    if (entry.field === PART_STREAM) kind = STREAM_KINDS.get(value) ?? 'other';
    if (entry.field === PART_TENSOR) tensor = value;
  }
  return { kind, slot: kind === 'contribution' || kind === 'update' ? tensor : null };
}

/** Walks over the fields of an encoded message. Past the end everything is zero. */
class FieldReader {
  readonly #bytes: Uint8Array;
  #at = 0;
  #isNumber = false;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  /** The tag of the next field; null at the end and before what is neither a varint nor length-delimited. */
  next(): { readonly field: number; readonly isNumber: boolean } | null {
    if (this.#at >= this.#bytes.length) return null;
    const tag = this.number();
    const type = tag & 7;
    if (type !== 0 && type !== 2) return null;
    this.#isNumber = type === 0;
    return { field: tag >>> 3, isNumber: this.#isNumber };
  }

  /** A varint. */
  number(): number {
    let value = 0;
    for (let factor = 1; factor < 2 ** 56; factor *= 128) {
      const byte = this.#bytes[this.#at++] ?? 0;
      value += (byte & 0x7f) * factor;
      if (byte < 0x80) return value;
    }
    return value;
  }

  /** Into the message whose tag was read. */
  enter(): void {
    this.number();
  }

  /** Over the value whose tag was read. */
  skip(): void {
    const length = this.number();
    if (!this.#isNumber) this.#at += length;
  }
}
