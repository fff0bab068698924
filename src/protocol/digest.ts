/**
 * The digest chain of records: each digest covers the one before it and the record's Part frames as
 * they are on the wire and in the journal. Coordinator, journal and trainers all use this one.
 */
import { createHash, type Hash } from 'node:crypto';
import { DIGEST_BYTES } from './limits.ts';

/** The digest before the first record: 32 zero bytes. */
export const FIRST_DIGEST: Uint8Array = new Uint8Array(DIGEST_BYTES);

/** Computes one record's digest while its frames come by. */
export class RecordDigest {
  readonly #hash: Hash;

  constructor(previousDigest: Uint8Array, sequence: number, step: number) {
    const numbers = new DataView(new ArrayBuffer(8));
    numbers.setUint32(0, sequence, true);
    numbers.setUint32(4, step, true);
    this.#hash = createHash('sha256').update(previousDigest).update(numbers);
  }

  /** Adds an encoded Envelope that holds a Part, in the order sent. */
  addPartFrame(frame: Uint8Array): void {
    this.#hash.update(frame);
  }

  /** 32 bytes. The object is spent afterwards. */
  finish(): Uint8Array {
    return new Uint8Array(this.#hash.digest());
  }
}

/** The digest of a whole record. */
export function recordDigest(
  previousDigest: Uint8Array,
  sequence: number,
  step: number,
  partFrames: Iterable<Uint8Array>,
): Uint8Array {
  const digest = new RecordDigest(previousDigest, sequence, step);
  for (const frame of partFrames) digest.addPartFrame(frame);
  return digest.finish();
}

/** Whether two digests are the same. */
export function isSameDigest(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, index) => byte === b[index]);
}
