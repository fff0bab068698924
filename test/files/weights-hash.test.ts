import { createHash } from 'node:crypto';
import test from 'ava';
import { WeightsHasher, hashWeights } from '../../src/files/weights-hash.ts';

const bytes = (...values: number[]): Uint8Array => new Uint8Array(new Float32Array(values).buffer);

test('the hash covers name, a zero byte and the data of each tensor in order of name', (t) => {
  // 'Z' (0x5a) comes before 'a' (0x61): code units, not a dictionary.
  const expected = createHash('sha256')
    .update('Z\0')
    .update(bytes(3))
    .update('a\0')
    .update(bytes(1, 2))
    .digest();
  const hash = hashWeights([
    { name: 'a', bytes: bytes(1, 2) },
    { name: 'Z', bytes: bytes(3) },
  ]);
  t.deepEqual(Buffer.from(hash), expected);
});

test('pieces give the same hash as the whole', (t) => {
  const hasher = new WeightsHasher();
  hasher.begin('w');
  hasher.update(bytes(1));
  hasher.update(bytes(2, 3));
  t.deepEqual(hasher.digest(), hashWeights([{ name: 'w', bytes: bytes(1, 2, 3) }]));
});

test('tensors out of order are refused', (t) => {
  const hasher = new WeightsHasher();
  hasher.begin('b');
  t.throws(() => hasher.begin('a'), { instanceOf: RangeError, message: /a comes after b/ });
  t.throws(() => hasher.begin('b'), { instanceOf: RangeError });
});
