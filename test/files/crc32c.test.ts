import test from 'ava';
import fc from 'fast-check';
import { crc32c } from '../../src/files/crc32c.ts';

/** One bit at a time, straight from the definition. */
function plainCrc(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  }
  return ~crc >>> 0;
}

test('the CRCs of RFC 3720, appendix B.4, come out', (t) => {
  t.is(crc32c(new TextEncoder().encode('123456789')), 0xe3069283);
  t.is(crc32c(new Uint8Array(32)), 0x8a9136aa);
  t.is(crc32c(new Uint8Array(32).fill(0xff)), 0x62a8ab43);
  t.is(crc32c(Uint8Array.from({ length: 32 }, (_, i) => i)), 0x46dd794e);
  t.is(crc32c(Uint8Array.from({ length: 32 }, (_, i) => 31 - i)), 0x113fdb5c);
  t.is(crc32c(new Uint8Array(0)), 0);
});

test('any length at any alignment agrees with the definition', (t) => {
  const property = fc.property(fc.uint8Array({ maxLength: 100 }), fc.nat(9), (bytes, offset) => {
    const moved = new Uint8Array(offset + bytes.length);
    moved.set(bytes, offset);
    return crc32c(moved.subarray(offset)) === plainCrc(bytes);
  });
  t.notThrows(() => fc.assert(property));
});

test('the CRC of two pieces is that of the whole', (t) => {
  const property = fc.property(fc.uint8Array({ maxLength: 60 }), fc.uint8Array({ maxLength: 60 }), (a, b) => {
    return crc32c(b, crc32c(a)) === crc32c(Uint8Array.from([...a, ...b]));
  });
  t.notThrows(() => fc.assert(property));
});
