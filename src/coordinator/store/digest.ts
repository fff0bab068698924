/**
 * The digest of a record, which chains the records of a run: whoever holds (sequence, digest) of the
 * last record it applied has applied exactly the run's records. See Commit.digest in the protocol.
 */
import { createHash } from 'node:crypto';

/** Length of a digest. */
export const DIGEST_BYTES = 32;
/** The digest before the first record. */
export const FIRST_PREVIOUS_DIGEST: Uint8Array = new Uint8Array(DIGEST_BYTES);

/** SHA-256 of the previous digest, sequence and step (uint32 LE), and every Part frame in order. */
export function recordDigest(
  previous: Uint8Array,
  sequence: number,
  step: number,
  partFrames: Iterable<Uint8Array>,
): Uint8Array {
  if (previous.length !== DIGEST_BYTES)
    throw new RangeError(`a digest has ${DIGEST_BYTES} bytes, not ${previous.length}`);
  const numbers = new Uint8Array(8);
  const view = new DataView(numbers.buffer);
  view.setUint32(0, sequence, true);
  view.setUint32(4, step, true);
  const hash = createHash('sha256').update(previous).update(numbers);
  for (const frame of partFrames) hash.update(frame);
  return new Uint8Array(hash.digest());
}
