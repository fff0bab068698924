import test from 'ava';
import fc from 'fast-check';
import { ByteRanges } from '../../src/files/byte-ranges.ts';

test('the first gap is where a list of flags has its first false', (t) => {
  const range = fc.tuple(fc.nat(30), fc.nat(30));
  const property = fc.property(fc.array(range, { maxLength: 20 }), fc.nat(40), (ranges, total) => {
    const written = new ByteRanges();
    const flags = Array.from({ length: 100 }, () => false);
    for (const [start, length] of ranges) {
      written.add(start, start + length);
      flags.fill(true, start, start + length);
    }
    const gap = flags.indexOf(false);
    return written.firstGap(total) === (gap < total ? gap : null);
  });
  t.notThrows(() => fc.assert(property, { numRuns: 500 }));
});
