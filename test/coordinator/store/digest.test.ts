import { createHash } from 'node:crypto';
import test from 'ava';
import { FIRST_PREVIOUS_DIGEST, recordDigest } from '../../../src/coordinator/store/digest.ts';

test('a digest covers the previous one, sequence and step in little-endian, and the frames', (t) => {
  const frames = [Uint8Array.of(1, 2), Uint8Array.of(3)];
  const bytes = Buffer.from([...FIRST_PREVIOUS_DIGEST, 1, 2, 0, 0, 7, 0, 0, 0, 1, 2, 3]);
  const expected = createHash('sha256').update(bytes).digest();
  t.deepEqual(Buffer.from(recordDigest(FIRST_PREVIOUS_DIGEST, 513, 7, frames)), expected);
});

test('a digest of another length is refused', (t) => {
  t.throws(() => recordDigest(new Uint8Array(31), 1, 1, []), { instanceOf: RangeError });
});
