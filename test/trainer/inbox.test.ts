import test from 'ava';
import fc from 'fast-check';
import { ProtocolError } from '../../src/errors.ts';
import type { RowSparseSlot } from '../../src/galore/slot.ts';
import { CLOSE_CODES, type CloseReason } from '../../src/protocol/close-codes.ts';
import { FIRST_DIGEST, recordDigest } from '../../src/protocol/digest.ts';
import { encodeEnvelope } from '../../src/protocol/envelope.ts';
import type {
  CommitMessage,
  Message,
  PartMessage,
  SnapshotHeader,
  WelcomeMessage,
} from '../../src/protocol/messages.ts';
import { payloadSize, sameCodec, type SlotSizes } from '../../src/protocol/slot-sizes.ts';
import { Inbox, type InboxItem, type StateHead } from '../../src/trainer/inbox.ts';
import { tinyRun } from '../coordinator/tiny-run.ts';
import { SAMPLES, sampleOf } from '../protocol/samples.ts';
import { WELCOME } from '../support/wire.ts';

/** A dense slot of two numbers and a projected one with two rounds of sketches. */
const SLOTS = [
  { name: 'a', shape: [2], index: 0, policy: 'dense', rule: 'adamw' },
  { name: 'b', shape: [3, 4], index: 1, policy: 'one-sided', rule: 'adamw', side: 'right', rank: 1 },
] as const;
const [CODECS] = sameCodec(SLOTS, 'f32');
const SIZES: readonly SlotSizes[] = [
  { slot: SLOTS[0], codecs: CODECS!, basis: null, sketches: [] },
  {
    slot: SLOTS[1],
    codecs: CODECS!,
    basis: { codec: 'f32', totalBytes: 16 },
    sketches: [
      { codec: 'f32', totalBytes: 24 },
      { codec: 'f32', totalBytes: 32 },
    ],
  },
];
const HEAD: StateHead = { sequence: 0, digest: FIRST_DIGEST };
const TENSORS = [
  { name: 'weights/a', shape: [2], codec: 'f32', totalBytes: 8 },
  { name: 'weights/b', shape: [3], codec: 'f32', totalBytes: 12 },
] as const;
function header(tensors: SnapshotHeader['tensors'], firstTensor = 0): SnapshotHeader {
  return { step: 4, sequence: 5, tensors, digest: new Uint8Array(32), firstTensor };
}
const WITH_SNAPSHOT: WelcomeMessage = { ...WELCOME, snapshot: header(TENSORS) };

function part(
  stream: PartMessage['stream'],
  tensor: number,
  totalBytes: number,
  change: Partial<PartMessage> = {},
): PartMessage {
  const payload = new Uint8Array(totalBytes).fill(tensor + 1);
  return {
    kind: 'part',
    stream,
    step: 1,
    round: 0,
    tensor,
    codec: 'f32',
    offset: 0,
    totalBytes,
    payload,
    ...change,
  };
}

const UPDATE = [part('update', 0, 8), part('update', 1, 12)];

/** The Commit that fits after these parts. */
function commitOf(parts: readonly PartMessage[], change: Partial<CommitMessage> = {}): CommitMessage {
  const { record } = sampleOf('commit');
  const base = {
    kind: 'commit',
    sequence: 1,
    step: 1,
    previousDigest: FIRST_DIGEST,
    record,
    ...change,
  } as const;
  const digest = recordDigest(base.previousDigest, base.sequence, base.step, parts.map(encodeEnvelope));
  return { ...base, digest, ...change };
}

const UPDATE_RECORD: CommitMessage['record'] = {
  type: 'update',
  learningRate: 0.1,
  tokens: 4,
  lossSum: 2,
  members: [],
  cursor: { next: 2, returned: [] },
  gradientNorm: 1,
  slotNorms: [],
};

function basisRecord(slots: readonly number[], keptSlots: readonly number[]): CommitMessage['record'] {
  return { type: 'basis', slots, keptSlots, isGenerated: false, ranks: [], similarities: [] };
}

function feed(inbox: Inbox, messages: readonly Message[]): (InboxItem | null)[] {
  return messages.map((message) => inbox.accept(message, encodeEnvelope(message)));
}

/** The name of the close code with which the last of these messages is refused. */
function refusalOf(
  inbox: Inbox,
  messages: readonly Message[],
): { reason: CloseReason | null; message: string } {
  feed(inbox, messages.slice(0, -1));
  const last = messages.at(-1)!;
  try {
    inbox.accept(last, encodeEnvelope(last));
  } catch (error) {
    if (!(error instanceof ProtocolError)) throw error;
    const entry = Object.entries(CLOSE_CODES).find(([, { code }]) => code === error.closeCode);
    return { reason: (entry?.[0] ?? null) as CloseReason | null, message: error.message };
  }
  return { reason: null, message: 'it was accepted' };
}

test('a record is handed over whole, with its Commit, once its digest is right', (t) => {
  const inbox = new Inbox(WELCOME, HEAD, SIZES);
  const commit = commitOf(UPDATE, { record: UPDATE_RECORD });
  const [first, second, record] = feed(inbox, [...UPDATE, commit]);
  t.is(first, null);
  t.is(second, null);
  if (record?.type !== 'record') return t.fail();
  t.deepEqual(record.commit, commit);
  t.deepEqual(
    record.tensors.map(({ tensor, bytes }) => [tensor, [...bytes]]),
    [
      [0, Array(8).fill(1)],
      [1, Array(12).fill(2)],
    ],
  );
});

test('Parts of an update that was withdrawn count for nothing, and the record may come in another form', (t) => {
  const inbox = new Inbox(WELCOME, HEAD, SIZES);
  const first = part('update', 1, 12, { payload: new Uint8Array(12).fill(9) });
  const withdrawn = { kind: 'updateWithdrawn', step: 1 } as const;
  const commit = commitOf(UPDATE, { record: UPDATE_RECORD });
  const record = feed(inbox, [first, withdrawn, ...UPDATE, commit]).at(-1);
  t.deepEqual(record?.type === 'record' && record.tensors.map(({ tensor, bytes }) => [tensor, bytes[0]]), [
    [0, 1],
    [1, 2],
  ]);
});

test('a withdrawal of another step, or of nothing, changes nothing', (t) => {
  const inbox = new Inbox(WELCOME, HEAD, SIZES);
  const [first, second] = UPDATE as [PartMessage, PartMessage];
  const commit = commitOf(UPDATE, { record: UPDATE_RECORD });
  const messages: Message[] = [
    { kind: 'updateWithdrawn', step: 1 },
    first,
    { kind: 'updateWithdrawn', step: 2 },
    second,
    commit,
  ];
  t.is(feed(inbox, messages).at(-1)?.type, 'record');
});

test('records follow each other by sequence and digest', (t) => {
  const inbox = new Inbox(WELCOME, HEAD, SIZES);
  const first = commitOf([part('basis', 1, 16)], { record: basisRecord([1], []) });
  const kept = commitOf([], {
    sequence: 2,
    previousDigest: first.digest,
    record: basisRecord([], [1]),
  });
  const update = commitOf(UPDATE, { sequence: 3, previousDigest: kept.digest, record: UPDATE_RECORD });
  const items = feed(inbox, [part('basis', 1, 16), first, kept, ...UPDATE, update]);
  t.deepEqual(
    items.map((item) => item?.type ?? null),
    [null, 'record', 'record', null, null, 'record'],
  );
});

test('a record that does not continue the state, or has another digest, means the state has diverged', (t) => {
  const diverged: [string, CommitMessage][] = [
    ['sequence', commitOf(UPDATE, { sequence: 2, record: UPDATE_RECORD })],
    [
      'previous digest',
      commitOf(UPDATE, { previousDigest: new Uint8Array(32).fill(1), record: UPDATE_RECORD }),
    ],
    ['digest', commitOf(UPDATE, { digest: new Uint8Array(32), record: UPDATE_RECORD })],
    ['digest of other bytes', commitOf([UPDATE[0]!], { record: UPDATE_RECORD })],
  ];
  for (const [what, commit] of diverged) {
    const { reason, message } = refusalOf(new Inbox(WELCOME, HEAD, SIZES), [...UPDATE, commit]);
    t.is(reason, 'STATE_DIVERGED', `${what}: ${message}`);
  }
});

test('a record must have exactly the tensors its Commit speaks of', (t) => {
  const basis = [part('basis', 1, 16)];
  const cases: Message[][] = [
    [UPDATE[0]!, commitOf([UPDATE[0]!], { record: UPDATE_RECORD })],
    [...basis, commitOf(basis, { record: UPDATE_RECORD })],
    [...basis, commitOf(basis, { step: 2, record: basisRecord([1], []) })],
    [...basis, commitOf(basis, { record: basisRecord([], [1]) })],
    [commitOf([], { record: basisRecord([1], []) })],
    [UPDATE[0]!, UPDATE[0]!],
    [UPDATE[0]!, part('basis', 1, 16)],
    [UPDATE[0]!, part('update', 1, 12, { step: 2 })],
    [part('basis', 0, 16)],
    [part('update', 2, 8)],
  ];
  for (const messages of cases) {
    const { reason, message } = refusalOf(new Inbox(WELCOME, HEAD, SIZES), messages);
    t.is(reason, 'UNEXPECTED_MESSAGE', message);
  }
});

test('nothing of a record is accepted before there is a state', (t) => {
  t.is(refusalOf(new Inbox(WELCOME, null, SIZES), [UPDATE[0]!]).reason, 'UNEXPECTED_MESSAGE');
  const commit = commitOf(UPDATE, { record: UPDATE_RECORD });
  t.is(refusalOf(new Inbox(WELCOME, null, SIZES), [commit]).reason, 'UNEXPECTED_MESSAGE');
  t.is(refusalOf(new Inbox(WITH_SNAPSHOT, HEAD, SIZES), [UPDATE[0]!]).reason, 'UNEXPECTED_MESSAGE');
});

test('after a snapshot the records continue its sequence and digest', (t) => {
  const inbox = new Inbox(WITH_SNAPSHOT, null, SIZES);
  const digest = new Uint8Array(32).fill(9);
  const end = { kind: 'snapshotEnd', step: 4, sequence: 5, digest, tensors: [] } as const;
  const update = UPDATE.map((message) => ({ ...message, step: 5 }));
  const commit = commitOf(update, { sequence: 6, step: 5, previousDigest: digest, record: UPDATE_RECORD });
  const snapshot = [part('snapshot', 1, 12, { step: 4 }), part('snapshot', 0, 8, { step: 4 })];
  const items = feed(inbox, [...snapshot, end, ...update, commit]);
  t.deepEqual(
    items.map((item) => item?.type ?? null),
    ['tensor', 'tensor', 'snapshotEnd', null, null, 'record'],
  );
});

test('a snapshot must bring every tensor it announced, once, and end as announced', (t) => {
  const first = part('snapshot', 0, 8, { step: 4 });
  const second = part('snapshot', 1, 12, { step: 4 });
  const end = { kind: 'snapshotEnd', step: 4, sequence: 5, digest: new Uint8Array(32), tensors: [] } as const;
  const cases: Message[][] = [
    [first, end],
    [first, first],
    [part('snapshot', 2, 8, { step: 4 })],
    [part('snapshot', 0, 8, { step: 3 })],
    [first, second, { ...end, step: 3 }],
    [first, second, { ...end, sequence: 4 }],
    [first, second, end, end],
    [first, second, end, first],
  ];
  for (const messages of cases) {
    const { reason, message } = refusalOf(new Inbox(WITH_SNAPSHOT, null, SIZES), messages);
    t.is(reason, 'UNEXPECTED_MESSAGE', message);
  }
  t.is(
    refusalOf(new Inbox(WITH_SNAPSHOT, null, SIZES), [part('snapshot', 0, 12, { step: 4 })]).reason,
    'MALFORMED_MESSAGE',
  );
});

test('sums and factors of a refresh are handed over tensor by tensor, each with the size of its round', (t) => {
  const inbox = new Inbox(WELCOME, HEAD, SIZES);
  const items = feed(inbox, [part('sketchSum', 1, 24, { round: 1 }), part('factor', 1, 32, { round: 2 })]);
  t.deepEqual(
    items.map((item) =>
      item?.type === 'tensor' ? [item.tensor.stream, item.tensor.round, item.tensor.bytes.length] : null,
    ),
    [
      ['sketchSum', 1, 24],
      ['factor', 2, 32],
    ],
  );
  t.is(refusalOf(inbox, [part('sketchSum', 1, 24, { round: 2 })]).reason, 'MALFORMED_MESSAGE');
  t.is(refusalOf(inbox, [part('factor', 1, 24, { round: 3 })]).reason, 'UNEXPECTED_MESSAGE');
  t.is(refusalOf(inbox, [part('factor', 0, 24, { round: 1 })]).reason, 'UNEXPECTED_MESSAGE');
});

test('assignments and notices pass, a second Welcome does not', (t) => {
  const inbox = new Inbox(WELCOME, HEAD, SIZES);
  for (const kind of [
    'stepAssignment',
    'sketchRequest',
    'factorAssignment',
    'evaluationAssignment',
    'snapshotRequest',
    'stepRejected',
    'notice',
  ] as const) {
    const [item] = feed(inbox, [sampleOf(kind)]);
    t.is(item?.type === 'message' ? item.message.kind : null, kind);
  }
  t.is(refusalOf(inbox, [WELCOME]).reason, 'UNEXPECTED_MESSAGE');
});

test('any messages in any order are handed over or refused, never another error', (t) => {
  const pool = [
    ...SAMPLES.map(({ message }) => message),
    ...UPDATE,
    commitOf(UPDATE, { record: UPDATE_RECORD }),
  ];
  fc.assert(
    fc.property(fc.boolean(), fc.array(fc.nat(pool.length - 1), { maxLength: 12 }), (hasState, order) => {
      const inbox = new Inbox(hasState ? WELCOME : WITH_SNAPSHOT, hasState ? HEAD : null, SIZES);
      try {
        feed(
          inbox,
          order.map((index) => pool[index]!),
        );
      } catch (error) {
        if (!(error instanceof ProtocolError)) throw error;
      }
    }),
    { numRuns: 300 },
  );
  t.pass();
});

const { shape: ADAPTIVE, projected: PROJECTED } = tinyRun(
  'method.rank=8',
  'method.adaptive_rank.threshold=0.5',
  'method.adaptive_rank.min_rank=2',
  'method.adaptive_rank.multiple=2',
);
const [SLOT = 0] = PROJECTED;
const FULL = ADAPTIVE.sizes[SLOT]!;
function payloadBytes(sizes: SlotSizes): number {
  return payloadSize(sizes, 'update', 1).totalBytes;
}

/** Bytes of the slot's basis and payload at rank 4, a half of 8. */
const HALF = { basis: FULL.basis!.totalBytes / 2, payload: payloadBytes(FULL) / 2 };

function updateOf(bytes: number): PartMessage[] {
  return ADAPTIVE.sizes.map((sizes, index) =>
    part('update', index, index === SLOT ? bytes : payloadBytes(sizes)),
  );
}

/** A record of the slot's basis at rank 4 that states `ranks`. */
function rankedBasis(ranks: readonly number[]): Message[] {
  const parts = [part('basis', SLOT, HALF.basis)];
  const record = {
    type: 'basis',
    slots: [SLOT],
    keptSlots: [],
    isGenerated: false,
    ranks,
    similarities: [],
  } as const;
  return [...parts, commitOf(parts, { record })];
}

test('after a basis of another rank updates have its size, on the next connection too', (t) => {
  const inbox = new Inbox(WELCOME, HEAD, ADAPTIVE.sizes);
  feed(inbox, rankedBasis([4]));
  t.deepEqual(inbox.ranks, new Map([[SLOT, 4]]));
  const digest = (rankedBasis([4])[1] as CommitMessage).digest;
  const next = new Inbox(WELCOME, { sequence: 1, digest }, ADAPTIVE.sizes, inbox.ranks);
  for (const each of [inbox, next]) {
    const parts = updateOf(HALF.payload);
    const commit = commitOf(parts, { sequence: 2, previousDigest: digest, record: UPDATE_RECORD });
    t.is(feed(each, [...parts, commit]).at(-1)?.type, 'record');
  }
  const stale = new Inbox(WELCOME, { sequence: 1, digest }, ADAPTIVE.sizes);
  t.throws(() => feed(stale, updateOf(HALF.payload)), { message: /expected: \d+ bytes of f32/ });
});

test('a Commit whose ranks are not those of its bases is refused', (t) => {
  for (const ranks of [[], [6], [8]]) {
    const { reason, message } = refusalOf(new Inbox(WELCOME, HEAD, ADAPTIVE.sizes), rankedBasis(ranks));
    t.is(reason, 'UNEXPECTED_MESSAGE');
    t.regex(message, /slot \d+ has rank 4, not (6|8|as before)/);
  }
  const odd = [part('basis', SLOT, (FULL.basis!.totalBytes * 3) / 8)];
  t.regex(refusalOf(new Inbox(WELCOME, HEAD, ADAPTIVE.sizes), odd).message, /rank 3 is not allowed/);
});

test('the ranks of a snapshot are those of its bases, and the ranks of before are forgotten', (t) => {
  const { name } = ADAPTIVE.slots[SLOT]!;
  const totalBytes = HALF.basis;
  const tensors = [{ name: `basis/${name}`, shape: [totalBytes / 16, 4], codec: 'f32', totalBytes } as const];
  const welcome = { ...WELCOME, snapshot: header(tensors) };
  const inbox = new Inbox(welcome, null, ADAPTIVE.sizes, new Map([[SLOT, 2]]));
  t.deepEqual(inbox.ranks, new Map([[SLOT, 4]]));
});

test('a record of generated bases has no Parts', (t) => {
  const record = { ...(basisRecord([1], []) as object), isGenerated: true } as CommitMessage['record'];
  const [item] = feed(new Inbox(WELCOME, HEAD, SIZES), [commitOf([], { record })]);
  t.is(item?.type, 'record');
  const parts = [part('basis', 1, 16)];
  t.regex(
    refusalOf(new Inbox(WELCOME, HEAD, SIZES), [...parts, commitOf(parts, { record })]).message,
    /1 slots/,
  );
});

test('an update of a row-sparse slot has the length of any number of rows up to the tokens of a step, no other', (t) => {
  const slot: RowSparseSlot = {
    ...{ name: 'embed_tokens', shape: [50, 4], index: 0 },
    ...{ policy: 'row-sparse', rule: 'adamw', mostRows: 3 },
  };
  const sizes = [{ slot, codecs: CODECS!, basis: null, sketches: [] }];
  for (const rows of [0, 1, 3]) {
    const update = part('update', 0, 4 + 20 * rows);
    const items = feed(new Inbox(WELCOME, HEAD, sizes), [
      update,
      commitOf([update], { record: UPDATE_RECORD }),
    ]);
    t.is(items[1]?.type, 'record');
  }
  for (const bytes of [1, 5, 23, 4 + 20 * 4, 800]) {
    const { reason, message } = refusalOf(new Inbox(WELCOME, HEAD, sizes), [part('update', 0, bytes)]);
    t.is(reason, 'UNEXPECTED_MESSAGE');
    t.regex(message, new RegExp(`: ${bytes} bytes of f32 are not 0 to 3 rows of embed_tokens`));
  }
});
