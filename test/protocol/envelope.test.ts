import { galore } from '#messages';
import test from 'ava';
import fc from 'fast-check';
import { ProtocolError } from '../../src/errors.ts';
import { CLOSE_CODES } from '../../src/protocol/close-codes.ts';
import { decodeEnvelope, encodeEnvelope } from '../../src/protocol/envelope.ts';
import { MAX_FRAME_BYTES, MAX_HELLO_BYTES, MAX_PART_BYTES } from '../../src/protocol/limits.ts';
import { MESSAGE_RULES, type MessageKind, type Peer } from '../../src/protocol/messages.ts';
import { SAMPLES, sampleOf } from './samples.ts';

const { Envelope } = galore.v1;
const MALFORMED = CLOSE_CODES.MALFORMED_MESSAGE.code;
const UNEXPECTED = CLOSE_CODES.UNEXPECTED_MESSAGE.code;
const INVALID = CLOSE_CODES.INVALID_CONTRIBUTION.code;

/** The ProtocolError that decoding gives, or null if it gives a message. Fails on any other error. */
function refusalOf(frame: Uint8Array, from: Peer): ProtocolError | null {
  try {
    decodeEnvelope(frame, from);
    return null;
  } catch (error) {
    if (error instanceof ProtocolError) return error;
    throw error;
  }
}

/** A frame from raw protobuf fields, valid or not. */
function raw(fields: Parameters<typeof Envelope.encode>[0]): Uint8Array {
  return Envelope.encode(fields).finish();
}

test('every kind of message has a sample', (t) => {
  const kinds = new Set(SAMPLES.map(({ message }) => message.kind));
  t.deepEqual([...kinds].sort(), Object.keys(MESSAGE_RULES).sort());
});

for (const [i, { from, message }] of SAMPLES.entries()) {
  const what = message.kind === 'commit' ? `commit of a ${message.record.type} record` : message.kind;
  const name = `sample ${i}, ${what},`;

  test(`${name} is the same after encoding and decoding`, (t) => {
    t.deepEqual(decodeEnvelope(encodeEnvelope(message), from), message);
  });

  test(`${name} cut off at any byte is a message or a refusal, never another error`, (t) => {
    const frame = encodeEnvelope(message);
    for (let length = 0; length < frame.length; length++) refusalOf(frame.slice(0, length), from);
    t.is(refusalOf(frame.slice(0, 1), from)?.closeCode, MALFORMED);
  });

  test(`${name} with any byte changed is a message or a refusal, never another error`, (t) => {
    const frame = encodeEnvelope(message);
    fc.assert(
      fc.property(fc.nat(frame.length - 1), fc.integer({ min: 0, max: 255 }), (at, byte) => {
        const changed = frame.slice();
        changed[at] = byte;
        refusalOf(changed, from);
      }),
      { numRuns: 60 },
    );
    t.pass();
  });

  test(`${name} from the wrong side is refused as unexpected`, (t) => {
    const senders: readonly Peer[] = MESSAGE_RULES[message.kind].senders;
    for (const peer of ['trainer', 'coordinator'] as const) {
      if (!senders.includes(peer)) t.is(refusalOf(encodeEnvelope(message), peer)?.closeCode, UNEXPECTED);
    }
    t.true(senders.includes(from));
  });
}

test('an empty frame is malformed', (t) => {
  t.is(refusalOf(new Uint8Array(0), 'trainer')?.closeCode, MALFORMED);
});

test('a frame that is too long is malformed whatever is in it', (t) => {
  t.is(refusalOf(new Uint8Array(MAX_FRAME_BYTES + 1), 'trainer')?.closeCode, MALFORMED);
});

test('random bytes are a message or a refusal, never another error', (t) => {
  fc.assert(
    fc.property(
      fc.uint8Array({ maxLength: 200 }),
      fc.constantFrom('trainer', 'coordinator'),
      (bytes, from) => {
        refusalOf(bytes, from as Peer);
      },
    ),
    { numRuns: 2000 },
  );
  t.pass();
});

test('random bytes inside any body are a message or a refusal, never another error', (t) => {
  const bodies = fc.tuple(fc.integer({ min: 1, max: 24 }), fc.uint8Array({ maxLength: 100 }));
  fc.assert(
    fc.property(bodies, ([field, body]) => {
      const tag = field < 16 ? [(field << 3) | 2] : [((field << 3) & 0x7f) | 2 | 0x80, field >> 4];
      const frame = Uint8Array.from([...tag, body.length, ...body]);
      refusalOf(frame, 'trainer');
      refusalOf(frame, 'coordinator');
    }),
    { numRuns: 2000 },
  );
  t.pass();
});

test('a field of the wrong type is treated as absent, so a required one is missed', (t) => {
  const trainerIdAsNumber = Uint8Array.from([0x0a, 2, 0x10, 5]); // hello { 2: varint 5 }
  t.regex(refusalOf(trainerIdAsNumber, 'trainer')?.message ?? '', /hello: .*protocol_versions/);
});

test('a Hello is refused with the name of the field that is wrong', (t) => {
  const good = { ...sampleOf('hello'), protocolVersions: [1], codecs: [1, 99] };
  const refusals: [string, object][] = [
    ['trainer_id', { trainerId: '' }],
    ['trainer_id', { trainerId: '../etc' }],
    ['trainer_id', { trainerId: 'a'.repeat(65) }],
    ['protocol_versions', { protocolVersions: [] }],
    ['protocol_versions', { protocolVersions: Array(17).fill(1) }],
    ['protocol_versions', { protocolVersions: [0] }],
    ['codecs', { codecs: Array(33).fill(1) }],
    ['run_name', { runName: 'x'.repeat(257) }],
    ['token', { token: 'x'.repeat(257) }],
    ['digest', { digest: new Uint8Array(31) }],
    ['digest', { runId: '' }],
    ['schema_hash', { schemaHash: new Uint8Array(1) }],
  ];
  for (const [field, change] of refusals) {
    const refusal = refusalOf(raw({ hello: { ...good, ...change } }), 'trainer');
    t.is(refusal?.closeCode, MALFORMED);
    t.true(refusal?.message.includes(field), `${field}: ${refusal?.message}`);
  }
});

test('codecs that are not known are left out of a Hello', (t) => {
  const frame = raw({ hello: { ...sampleOf('hello'), protocolVersions: [9], codecs: [1, 99 as 1, 5, 3] } });
  t.like(decodeEnvelope(frame, 'trainer'), { kind: 'hello', codecs: ['f32', 'int4'] });
});

test('a Hello longer than its own limit is malformed even if its known fields are short', (t) => {
  const unknownField = Uint8Array.from([0xfa, 0x07, 0x80, 0x46]); // field 127, 8960 bytes
  const hello = encodeEnvelope(sampleOf('hello'));
  const frame = new Uint8Array(hello.length + unknownField.length + 8960);
  frame.set(hello);
  frame.set(unknownField, hello.length);
  t.true(frame.length > MAX_HELLO_BYTES);
  t.is(refusalOf(frame, 'trainer')?.closeCode, MALFORMED);
});

test('a Part is refused unless stream, codec, round, place and length make sense', (t) => {
  const good = {
    stream: 5,
    step: 1,
    round: 0,
    tensor: 0,
    codec: 1,
    offset: 0,
    totalBytes: 8,
    payload: new Uint8Array(8),
  };
  t.is(refusalOf(raw({ part: good }), 'trainer'), null);
  const refusals: [string, object][] = [
    ['stream', { stream: 0 }],
    ['stream', { stream: 99 }],
    ['codec', { codec: 0 }],
    ['codec', { codec: 7 }],
    ['codec', { codec: 3 }], // u8: only in a snapshot
    ['codec', { stream: 1, codec: 2 }], // int8: not in a snapshot
    ['step', { step: 0 }],
    ['round', { round: 1 }],
    ['round', { stream: 2, round: 0 }],
    ['tensor', { tensor: 100_000 }],
    ['total_bytes', { totalBytes: 0 }],
    ['payload', { payload: new Uint8Array(0) }],
    ['payload', { payload: new Uint8Array(9) }],
    ['payload', { totalBytes: 2 * MAX_PART_BYTES, payload: new Uint8Array(MAX_PART_BYTES + 1) }],
    ['offset', { offset: 1 }],
    ['offset', { offset: 0xffffffff }],
  ];
  for (const [field, change] of refusals) {
    const refusal = refusalOf(raw({ part: { ...good, ...change } }), 'trainer');
    t.is(refusal?.closeCode, MALFORMED, field);
    t.true(refusal?.message.includes(field), `${field}: ${refusal?.message}`);
  }
});

test('a Part of a stream that is not its sender’s is unexpected', (t) => {
  const part = { ...sampleOf('part'), stream: 'update', round: 0 } as const;
  t.is(refusalOf(encodeEnvelope(part), 'trainer')?.closeCode, UNEXPECTED);
  t.is(refusalOf(encodeEnvelope(part), 'coordinator'), null);
});

test('numbers that are not finite are refused; a loss as an invalid contribution, the rest as malformed', (t) => {
  for (const value of [NaN, Infinity, -Infinity]) {
    const contribution = { ...sampleOf('contribution'), lossSum: value, members: [] };
    t.is(refusalOf(raw({ contribution }), 'trainer')?.closeCode, INVALID);
    const evaluation = { ...sampleOf('evaluation'), lossSum: value };
    t.is(refusalOf(raw({ evaluation }), 'trainer')?.closeCode, INVALID);
    const heartbeat = { ...sampleOf('heartbeat'), tokensPerSecond: value };
    t.is(refusalOf(raw({ heartbeat }), 'trainer')?.closeCode, MALFORMED);
  }
});

test('sequences whose tokens or mask do not fit their number and length are malformed', (t) => {
  const good = { positions: [1, 2], length: 3, tokens: new Uint8Array(24), mask: new Uint8Array(0) };
  const frame = (sequences: object) => raw({ evaluationAssignment: { step: 1, sequences } });
  t.is(refusalOf(frame(good), 'coordinator'), null);
  for (const change of [
    { tokens: new Uint8Array(23) },
    { positions: [1] },
    { length: 1 },
    { length: 0xffffffff },
    { mask: new Uint8Array(3) },
  ]) {
    t.is(refusalOf(frame({ ...good, ...change }), 'coordinator')?.closeCode, MALFORMED);
  }
  for (const rows of [
    { classes: [1] },
    { classes: [1, 0] },
    { classes: [1, 0], lengths: [3] },
    { classes: [1, 0], lengths: [3, 0] },
    { classes: [1, 0], lengths: [3, 4] },
    { classes: [1, 10_000], lengths: [3, 3] },
  ]) {
    t.is(refusalOf(frame({ ...good, ...rows }), 'coordinator')?.closeCode, MALFORMED);
  }
  t.is(refusalOf(frame({ ...good, classes: [1, 9999], lengths: [3, 1] }), 'coordinator'), null);
});

test('work is either sequences or a number of own ones, and a loss that is withheld is not there', (t) => {
  const sequences = { positions: [1], length: 3, tokens: new Uint8Array(12) };
  for (const stepAssignment of [{ step: 1 }, { step: 1, sequences, localExamples: 1 }]) {
    t.is(refusalOf(raw({ stepAssignment }), 'coordinator')?.closeCode, MALFORMED);
  }
  t.is(refusalOf(raw({ stepAssignment: { step: 1, localExamples: 1 } }), 'coordinator'), null);
  for (const told of [
    { contribution: { step: 1, tokens: 1, lossSum: 1, lossWithheld: true } },
    { contribution: { step: 1, tokens: 1, weight: -1 } },
    { contribution: { step: 1, tokens: 1, weight: Number.POSITIVE_INFINITY } },
    { evaluation: { step: 1, tokens: 2, correct: 3 } },
  ]) {
    t.truthy(refusalOf(raw(told), 'trainer'), JSON.stringify(told));
  }
});

test('a Commit without a record, without a cursor or with a short digest is malformed', (t) => {
  const digests = { previousDigest: new Uint8Array(32), digest: new Uint8Array(32) };
  const good = { sequence: 1, step: 1, ...digests };
  for (const commit of [
    good,
    { ...good, update: {} },
    { ...good, basis: { slots: [1, 1] } },
    { ...good, basis: { slots: [9000] } },
    { ...good, digest: new Uint8Array(31), basis: { slots: [1] } },
    { ...good, sequence: 0, basis: { slots: [1] } },
    { ...good, update: { cursor: { next: 1.5 } } },
    { ...good, update: { cursor: { next: -1 } } },
    { ...good, update: { cursor: { next: 2 ** 60 } } },
  ]) {
    t.is(refusalOf(raw({ commit }), 'coordinator')?.closeCode, MALFORMED, JSON.stringify(commit));
  }
});

test('a snapshot tensor whose bytes do not fit its shape is malformed', (t) => {
  const welcome = (change: object) => {
    const info = { name: 'weights/a', shape: [2, 3], codec: 1, totalBytes: 24, ...change };
    return raw({ welcome: { ...sampleOf('welcome'), snapshot: { step: 0, sequence: 0, tensors: [info] } } });
  };
  t.is(refusalOf(welcome({}), 'coordinator'), null);
  t.is(refusalOf(welcome({ codec: 3, totalBytes: 6 }), 'coordinator'), null, 'u8: one byte a number');
  for (const change of [
    { totalBytes: 23 },
    { shape: [2, 0] },
    { shape: Array(9).fill(1) },
    { name: '' },
    { codec: 3 },
    { codec: 3, totalBytes: 7 },
    { codec: 2, totalBytes: 10 },
    { shape: [0xffffffff, 0xffffffff], totalBytes: 0xffffffff },
  ]) {
    t.is(refusalOf(welcome(change), 'coordinator')?.closeCode, MALFORMED);
  }
});

test('a payload is a view of the frame, digests and tokens are copies', (t) => {
  const frame = encodeEnvelope(sampleOf('part'));
  const part = decodeEnvelope(frame, 'trainer');
  t.is(part.kind === 'part' ? part.payload.buffer : null, frame.buffer);
  const assignment = decodeEnvelope(encodeEnvelope(sampleOf('stepAssignment')), 'coordinator');
  t.is(assignment.kind === 'stepAssignment' ? assignment.sequences?.tokens.byteOffset : null, 0);
  const hash = decodeEnvelope(encodeEnvelope(sampleOf('stateHash')), 'trainer');
  t.is(hash.kind === 'stateHash' ? hash.weightsSha256.buffer.byteLength : null, 32);
});

test('a message of ours that is too long is a RangeError before it is sent', (t) => {
  const part = { ...sampleOf('part'), payload: new Uint8Array(MAX_FRAME_BYTES), totalBytes: MAX_FRAME_BYTES };
  t.throws(() => encodeEnvelope(part), { instanceOf: RangeError, message: /part message has/ });
});

test('a full Part fits into a frame', (t) => {
  const part = {
    ...sampleOf('part'),
    step: 0xffffffff,
    offset: 0xffffffff - MAX_PART_BYTES,
    totalBytes: 0xffffffff,
    payload: new Uint8Array(MAX_PART_BYTES),
  };
  t.true(encodeEnvelope(part).length <= MAX_FRAME_BYTES);
});

test('the largest batch that limits.ts allows fits into one assignment', async (t) => {
  const { maxSequencesPerAssignment } = await import('../../src/protocol/limits.ts');
  for (const length of [2, 129, 1025]) {
    const count = maxSequencesPerAssignment(length);
    const sequences = {
      positions: Array.from({ length: count }, () => 0xffffffff),
      length,
      tokens: new Int32Array(count * length),
      mask: new Uint8Array(count * (length - 1)),
    };
    const message = { ...sampleOf('stepAssignment'), sequences };
    t.deepEqual(decodeEnvelope(encodeEnvelope(message), 'coordinator'), message);
  }
});

test('kinds are named like the fields of the Envelope', (t) => {
  for (const kind of Object.keys(MESSAGE_RULES) as MessageKind[]) {
    t.is(Envelope.decode(raw({ [kind]: {} })).body, kind);
  }
});
