import test from 'ava';
import fc from 'fast-check';
import { derive, randomUint32 } from '../../src/random.ts';
import { findLeaks, type SiteSecrets } from './find-leaks.ts';

const NOTHING: SiteSecrets = { texts: [], tokenSequences: [], names: [] };
const TEXT = 'The patient complains of Kopfschmerzen, gr\u00fc\u00dft nobody and sleeps badly.';
const IDS = [101, 7, 5776, 17612, 2015, 300, 1996, 102];

/** Bytes that look like the numbers of a contribution. */
function noise(count: number, seed = 1): Buffer {
  const key = derive(seed, 'noise');
  return Buffer.from(Uint8Array.from({ length: count }, (_, i) => randomUint32(key, i)));
}

const planted = (what: Uint8Array, at = 1000): Buffer => {
  const bytes = noise(5000);
  bytes.set(what, at);
  return bytes;
};

const numbers = (ids: ArrayLike<number>, bytesEach: 2 | 4): Buffer => {
  const typed = bytesEach === 2 ? Uint16Array.from(ids) : Int32Array.from(ids);
  return Buffer.from(typed.buffer);
};

test('any 8 bytes of a text are found, wherever they stand, and 7 are not', (t) => {
  const text = Buffer.from(TEXT);
  const secrets = { ...NOTHING, texts: ['another text of the site', TEXT] };
  for (let start = 0; start + 8 <= text.length; start++) {
    const piece = text.subarray(start, start + 8);
    t.like(
      findLeaks(planted(piece, 1000 + start), secrets)[0],
      { kind: 'text', offset: 1000 + start },
      piece.toString(),
    );
  }
  t.deepEqual(findLeaks(planted(text.subarray(4, 11)), secrets), []);
  t.deepEqual(findLeaks(text.subarray(0, 8), secrets), [{ kind: 'text', offset: 0, what: 'The pati' }]);
});

test('any four ids in a row are found as int32, uint16 and varint, at any alignment', (t) => {
  const secrets = { ...NOTHING, tokenSequences: [[5, 6, 7], IDS] };
  for (let first = 0; first + 4 <= IDS.length; first++) {
    const run = IDS.slice(first, first + 4);
    const what = run.join(' ');
    t.deepEqual(findLeaks(planted(numbers(run, 4), 1001), secrets), [
      { kind: 'tokens as int32', offset: 1001, what },
    ]);
    t.deepEqual(findLeaks(planted(numbers(run, 2), 1003), secrets), [
      { kind: 'tokens as uint16', offset: 1003, what },
    ]);
  }
  // 5776 17612 2015 300 as protobuf writes packed uint32: 2 + 3 + 2 + 2 bytes.
  const varints = Buffer.from([0x90, 0x2d, 0xcc, 0x89, 0x01, 0xdf, 0x0f, 0xac, 0x02]);
  const leak = { kind: 'tokens as varint', offset: 1000, what: '5776 17612 2015 300' } as const;
  t.deepEqual(findLeaks(planted(varints), secrets), [leak]);
  t.deepEqual(findLeaks(planted(numbers(IDS.slice(0, 3), 4)), secrets), [], 'three are none');
  t.deepEqual(findLeaks(planted(numbers([101, 7, 5776, 9], 4)), secrets), [], 'another fourth');
});

test('small ids, whose varints are one byte, are found from 8 in a row on', (t) => {
  const ids = [1, 2, 3, 4, 5, 6, 7, 8, 9];
  const secrets = { ...NOTHING, tokenSequences: [ids] };
  t.is(findLeaks(planted(Buffer.from(ids.slice(1))), secrets)[0]!.kind, 'tokens as varint');
  t.deepEqual(findLeaks(planted(Buffer.from(ids.slice(2))), secrets), []);
});

test('names of files are found', (t) => {
  const secrets = { ...NOTHING, names: ['/home/ann/private.jsonl', 'private.jsonl', 'x.txt'] };
  t.deepEqual(findLeaks(planted(Buffer.from('…private.jsonl…')), secrets), [
    { kind: 'name', offset: 1003, what: 'private.jsonl' },
  ]);
});

test('bytes that have nothing of the site are clean, and rows of one value say nothing', (t) => {
  const secrets: SiteSecrets = {
    texts: [TEXT, `${' '.repeat(50)}${'='.repeat(70)}`],
    tokenSequences: [IDS, [0, 0, 0, 0, 0, 0]],
    names: ['private.jsonl'],
  };
  t.deepEqual(findLeaks(noise(1_000_000), secrets), []);
  t.deepEqual(findLeaks(new Uint8Array(10_000), secrets), []);
  t.deepEqual(findLeaks(new Uint8Array(10_000).fill(0x20), secrets), []);
  t.deepEqual(findLeaks(new Uint8Array(0), secrets), []);
  t.deepEqual(findLeaks(noise(1000), NOTHING), []);
});

test('a stream full of the text gives the first ten places', (t) => {
  const leaks = findLeaks(Buffer.from(TEXT.repeat(10)), { ...NOTHING, texts: [TEXT] });
  t.is(leaks.length, 10);
  t.true(leaks.every((leak, i) => i === 0 || leak.offset >= leaks[i - 1]!.offset + 8));
});

test('whatever is planted is found', (t) => {
  const words = fc
    .string({ minLength: 8, maxLength: 40 })
    .filter((text) => new Set(text.slice(0, 8)).size >= 4);
  const ids = fc.uniqueArray(fc.integer({ min: 1, max: 60_000 }), { minLength: 4, maxLength: 12 });
  fc.assert(
    fc.property(words, ids, fc.nat(4000), fc.nat(2), (text, sequence, at, kind) => {
      const secrets = { texts: [text], tokenSequences: [sequence], names: [] };
      const what = [Buffer.from(text), numbers(sequence, 4), numbers(sequence, 2)][kind]!;
      const [leak] = findLeaks(planted(what, at), secrets);
      return leak !== undefined && leak.offset >= at && leak.offset < at + what.length;
    }),
    { numRuns: 200 },
  );
  t.pass();
});
