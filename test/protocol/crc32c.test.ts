import test from 'ava';
import fc from 'fast-check';
import { crc32c } from '../../src/protocol/crc32c.ts';

const ascii = (text: string): Uint8Array => new TextEncoder().encode(text);

/** One bit at a time, straight from the definition. */
function plainCrc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  }
  return (crc ^ 0xffffffff) >>> 0;
}

test('the CRC of known texts is the published one', (t) => {
  t.is(crc32c(ascii('123456789')), 0xe3069283); // the check value of CRC-32C
  t.is(crc32c(new Uint8Array(32)), 0x8a9136aa); // RFC 3720, B.4: 32 bytes of zeroes
  t.is(crc32c(new Uint8Array(32).fill(0xff)), 0x62a8ab43); // RFC 3720, B.4: 32 bytes of ones
  t.is(crc32c(Uint8Array.from({ length: 32 }, (_, i) => i)), 0x46dd794e); // RFC 3720, B.4: incrementing
  t.is(crc32c(new Uint8Array(0)), 0);
});

test('the alignment of the bytes does not matter', (t) => {
  const whole = Uint8Array.from({ length: 80 }, (_, i) => (i * 37) % 256);
  for (let start = 0; start < 8; start++) {
    for (let end = start; end <= 80; end++) {
      const bytes = whole.subarray(start, end);
      if (crc32c(bytes) !== plainCrc32c(bytes)) t.fail(`${start} to ${end}`);
    }
  }
  t.pass();
});

test('the fast way equals one bit at a time, in one go or in two', (t) => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 100 }), fc.nat(100), (bytes, cut) => {
      const whole = plainCrc32c(bytes);
      t.is(crc32c(bytes), whole);
      t.is(crc32c(bytes.subarray(cut), crc32c(bytes.subarray(0, cut))), whole);
    }),
  );
});

test('long arrays, which are folded, equal one bit at a time, at any alignment and length', (t) => {
  // 64 KiB is folded at once, 13 376 bytes are the fewest that are folded, 16 bytes are a vector, 64 a step.
  const whole = Uint8Array.from({ length: 140_000 }, (_, i) => Math.imul(i ^ 0x5bd1, 0x9e3779b1) >>> 24);
  const lengths = [13_375, 13_376, 13_377, 13_440, 20_011, 65_536, 68_880, 68_881, 68_944, 131_072, 139_990];
  for (const [start, length] of lengths.entries()) {
    const bytes = whole.subarray(start % 7, (start % 7) + length);
    t.is(crc32c(bytes), plainCrc32c(bytes), `${length} bytes`);
    t.is(
      crc32c(bytes.subarray(5_000), crc32c(bytes.subarray(0, 5_000))),
      plainCrc32c(bytes),
      `${length} in two`,
    );
  }
});
