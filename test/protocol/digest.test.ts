import { createHash } from 'node:crypto';
import test from 'ava';
import { FIRST_DIGEST, isSameDigest, recordDigest, RecordDigest } from '../../src/protocol/digest.ts';

const frames = [Uint8Array.from([1, 2, 3]), Uint8Array.from([4])];

test('a digest covers the one before, sequence and step in little-endian order, and the frames', (t) => {
  const previous = new Uint8Array(32).fill(7);
  const covered = Buffer.concat([previous, Buffer.from([2, 1, 0, 0, 5, 0, 0, 0]), ...frames]);
  const expected = createHash('sha256').update(covered).digest();
  t.true(expected.equals(recordDigest(previous, 258, 5, frames)));
});

test('frame by frame gives the same digest as all at once', (t) => {
  const digest = new RecordDigest(FIRST_DIGEST, 1, 1);
  for (const frame of frames) digest.addPartFrame(frame);
  t.true(isSameDigest(digest.finish(), recordDigest(FIRST_DIGEST, 1, 1, frames)));
});

test('digests of different records differ', (t) => {
  const digest = recordDigest(FIRST_DIGEST, 1, 1, frames);
  t.false(isSameDigest(digest, recordDigest(FIRST_DIGEST, 2, 1, frames)));
  t.false(isSameDigest(digest, recordDigest(FIRST_DIGEST, 1, 2, frames)));
  t.false(isSameDigest(digest, recordDigest(FIRST_DIGEST, 1, 1, frames.slice(0, 1))));
  t.false(isSameDigest(digest, digest.subarray(0, 31)));
});
