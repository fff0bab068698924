import test from 'ava';
import fc from 'fast-check';
import { ProtocolError } from '../../src/errors.ts';
import { CLOSE_CODES } from '../../src/protocol/close-codes.ts';
import { MAX_PART_BYTES } from '../../src/protocol/limits.ts';
import type { PartMessage } from '../../src/protocol/messages.ts';
import { PartAssembler, splitIntoParts, type TensorHeader } from '../../src/protocol/parts.ts';

const HEADER: TensorHeader = { stream: 'contribution', step: 3, round: 0, tensor: 2, codec: 'int8' };
const UNEXPECTED = { instanceOf: ProtocolError, code: 'ERR_GALORE_PROTOCOL' };

function bytesOf(length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, index) => index % 251);
}

/** The parts of a tensor of `length` bytes, with pieces of `pieceBytes`. */
function pieces(header: TensorHeader, length: number, pieceBytes: number): PartMessage[] {
  const parts: PartMessage[] = [];
  const bytes = bytesOf(length);
  for (let offset = 0; offset < length; offset += pieceBytes) {
    const payload = bytes.subarray(offset, offset + pieceBytes);
    parts.push({ kind: 'part', ...header, offset, totalBytes: length, payload });
  }
  return parts;
}

function expecting(totalBytes: number): PartAssembler {
  return new PartAssembler(() => ({ codec: 'int8', totalBytes }));
}

test('a tensor of any length comes back whole, in pieces of at most 1 MiB', (t) => {
  for (const length of [1, 100, MAX_PART_BYTES, MAX_PART_BYTES + 1, 3 * MAX_PART_BYTES + 5]) {
    const bytes = bytesOf(length);
    const parts = [...splitIntoParts(HEADER, bytes)];
    t.is(parts.length, Math.ceil(length / MAX_PART_BYTES));
    t.true(parts.every(({ payload }) => payload.length <= MAX_PART_BYTES));
    const assembler = expecting(length);
    const results = parts.map((part) => assembler.accept(part));
    t.true(results.slice(0, -1).every((result) => result === null));
    const last = results.at(-1);
    t.deepEqual({ ...last, bytes: null }, { ...HEADER, bytes: null });
    t.true(Buffer.from(last!.bytes).equals(bytes));
    t.is(assembler.bytesHeld, 0);
  }
});

test('the bytes of a tensor own an aligned buffer of their own length', (t) => {
  const [part] = pieces(HEADER, 8, 8);
  const tensor = expecting(8).accept(part!);
  t.is(tensor?.bytes.byteOffset, 0);
  t.is(tensor?.bytes.buffer.byteLength, 8);
  t.not(tensor?.bytes.buffer, part?.payload.buffer);
});

test('a tensor without bytes cannot be split', (t) => {
  t.throws(() => [...splitIntoParts(HEADER, new Uint8Array(0))], { instanceOf: RangeError });
});

test('nothing is allocated for a tensor that is refused, of another length or of another codec', (t) => {
  const total = 0xffffffff;
  const part: PartMessage = {
    kind: 'part',
    ...HEADER,
    offset: 0,
    totalBytes: total,
    payload: new Uint8Array(1),
  };
  const refusing = new PartAssembler(() => 'step 3 is not being collected');
  const error = t.throws(() => refusing.accept(part), UNEXPECTED);
  t.regex(error?.message ?? '', /tensor 2 of stream contribution, step 3: step 3 is not being collected/);
  t.is(error instanceof ProtocolError ? error.closeCode : 0, CLOSE_CODES.UNEXPECTED_MESSAGE.code);
  const shorter = expecting(12);
  t.throws(() => shorter.accept(part), {
    ...UNEXPECTED,
    message: /4294967295 bytes of int8; expected: 12 bytes/,
  });
  t.is(shorter.bytesHeld, 0);
  const f32 = new PartAssembler(() => ({ codec: 'f32', totalBytes: total }));
  t.throws(() => f32.accept(part), { ...UNEXPECTED, message: /bytes of f32/ });
  t.is(f32.bytesHeld, 0);
});

test('a gap, a repeated piece, a late start and another total length are refused', (t) => {
  const [first, second, third] = pieces(HEADER, 12, 4) as [PartMessage, PartMessage, PartMessage];
  t.throws(() => expecting(12).accept(second), { ...UNEXPECTED, message: /begins at byte 4, not at 0/ });
  for (const wrong of [
    third,
    first,
    { ...second, totalBytes: 16 },
    { ...second, tensor: 3 },
    { ...second, step: 4 },
  ]) {
    const assembler = expecting(12);
    assembler.accept(first);
    t.throws(() => assembler.accept(wrong), { ...UNEXPECTED, message: /the next part is of tensor 2/ });
  }
});

test('a piece that goes on after the end of its tensor is refused', (t) => {
  const assembler = expecting(4);
  const part: PartMessage = { kind: 'part', ...HEADER, offset: 0, totalBytes: 4, payload: new Uint8Array(5) };
  t.throws(() => assembler.accept(part), { ...UNEXPECTED, message: /goes on after its 4 bytes/ });
});

test('streams may interleave, tensors of one stream may not', (t) => {
  const assembler = expecting(8);
  const [c1, c2] = pieces(HEADER, 8, 4) as [PartMessage, PartMessage];
  const [s1, s2] = pieces({ ...HEADER, stream: 'snapshot', tensor: 0 }, 8, 4) as [PartMessage, PartMessage];
  t.is(assembler.accept(c1), null);
  t.is(assembler.accept(s1), null);
  t.is(assembler.bytesHeld, 16);
  t.is(assembler.accept(c2)?.stream, 'contribution');
  t.is(assembler.accept(s2)?.stream, 'snapshot');
  assembler.accept(c1);
  const [other] = pieces({ ...HEADER, tensor: 5 }, 8, 4) as [PartMessage];
  t.throws(() => assembler.accept(other), UNEXPECTED);
});

test('parts of an ignored tensor are dropped, whichever they are', (t) => {
  const assembler = new PartAssembler(({ step }) =>
    step < 4 ? { ignore: `step ${step} is over` } : { codec: 'int8', totalBytes: 12 },
  );
  for (const part of pieces(HEADER, 12, 4)) t.is(assembler.accept(part), null);
  t.is(assembler.bytesHeld, 0);
  const results = pieces({ ...HEADER, step: 4 }, 12, 4).map((part) => assembler.accept(part));
  t.is(results[2]?.step, 4);
});

test('the rest of a tensor that was reset is ignored once its step is over', (t) => {
  let step = 3;
  const assembler = new PartAssembler((place) =>
    place.step < step ? { ignore: 'over' } : { codec: 'int8', totalBytes: 12 },
  );
  const [first, second, third] = pieces(HEADER, 12, 4) as [PartMessage, PartMessage, PartMessage];
  assembler.accept(first);
  step = 4;
  assembler.reset((header) => header.step < 4);
  t.is(assembler.bytesHeld, 0);
  t.is(assembler.accept(second), null);
  t.is(assembler.accept(third), null);
});

test('reset keeps what its predicate does not pick, and drops everything without one', (t) => {
  const assembler = expecting(8);
  const [c1] = pieces(HEADER, 8, 4) as [PartMessage];
  const [s1] = pieces({ ...HEADER, stream: 'snapshot' }, 8, 4) as [PartMessage];
  assembler.accept(c1);
  assembler.accept(s1);
  assembler.reset(({ stream }) => stream === 'contribution');
  t.is(assembler.bytesHeld, 8);
  assembler.reset();
  t.is(assembler.bytesHeld, 0);
});

test('pieces in order up to some point and then in any order end in the right tensor or a ProtocolError', (t) => {
  const good = pieces(HEADER, 20, 4);
  fc.assert(
    fc.property(fc.nat(5), fc.array(fc.nat(4), { maxLength: 6 }), (inOrder, rest) => {
      const assembler = expecting(20);
      const parts = [...good.slice(0, inOrder), ...rest.map((index) => good[index]!)];
      try {
        for (const part of parts) {
          const tensor = assembler.accept(part);
          if (tensor !== null && !Buffer.from(tensor.bytes).equals(bytesOf(20))) t.fail();
        }
      } catch (error) {
        if (!(error instanceof ProtocolError)) throw error;
      }
    }),
  );
  t.pass();
});

test('memory is asked for once for a tensor that is taken, at its length, and never for another', (t) => {
  const asked: number[] = [];
  const dirty = new Uint8Array(10).fill(0xff);
  const assembler = new PartAssembler(
    ({ tensor }) => (tensor === 2 ? { codec: 'int8', totalBytes: 10 } : { ignore: 'over' }),
    (byteLength) => {
      asked.push(byteLength);
      return dirty;
    },
  );
  t.throws(() => assembler.accept(pieces(HEADER, 2 ** 10, 2 ** 10)[0]!), UNEXPECTED);
  t.is(assembler.accept(pieces({ ...HEADER, tensor: 1 }, 10, 10)[0]!), null);
  t.deepEqual(asked, []);
  const [tensor] = pieces(HEADER, 10, 4)
    .map((part) => assembler.accept(part))
    .slice(-1);
  t.deepEqual(asked, [10]);
  t.is(tensor?.bytes, dirty);
  t.deepEqual([...dirty], [...bytesOf(10)]);
});
