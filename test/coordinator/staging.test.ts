import test from 'ava';
import { Staging } from '../../src/coordinator/staging.ts';
import { ProtocolError } from '../../src/errors.ts';
import { CLOSE_CODES } from '../../src/protocol/close-codes.ts';
import { crc32c } from '../../src/protocol/crc32c.ts';
import type { PartMessage } from '../../src/protocol/messages.ts';
import { contributionBytes, payloadSize } from '../../src/protocol/slot-sizes.ts';
import { encodeRows } from '../../src/galore/rows.ts';
import { derive } from '../../src/random.ts';
import { bytesFor, contributionOf, partsOf, tinyRun } from './tiny-run.ts';

const RUN = tinyRun();
const { shape, projected } = RUN;
const [P = 0] = projected;
const ALL = shape.slots.map(({ index }) => index);
const SPARSE = tinyRun('method.param_groups=[{match: [embed_tokens], policy: row-sparse, codec: f32}]').shape;
const { UNEXPECTED_MESSAGE, MALFORMED_MESSAGE, INVALID_CONTRIBUTION } = CLOSE_CODES;

function staging(): Staging {
  return new Staging(shape.slots, shape.sizes, shape.refresh.rounds);
}

function contributionPart(tensor: number, fields: Partial<PartMessage> = {}): PartMessage {
  const bytes = bytesFor(payloadSize(shape.sizes[tensor] ?? shape.sizes[0]!, 'contribution', 5), 'a');
  const [part] = partsOf({ stream: 'contribution', step: 5, round: 0, tensor }, bytes);
  return { ...part!, ...fields };
}

test('a contribution is kept whole, in the order of its slots, with the checksum of its payloads', (t) => {
  const stage = staging();
  stage.open({ step: 5, round: 0 });
  const parts = contributionOf(RUN, 5, 'a');
  for (const part of parts) stage.accept('a', part);
  const tensors = stage.take('a', 'contribution', ALL);
  t.deepEqual([...tensors.keys()], ALL);
  t.deepEqual(tensors.get(0)?.bytes, parts[0]?.payload);
  t.is(
    stage.checksumOf('a'),
    parts.reduce((sum, { payload }) => crc32c(payload, sum), 0),
  );
});

test('what a peer must not send closes its connection and leaves nothing behind', (t) => {
  const cases: [PartMessage, { code: number }, RegExp][] = [
    [contributionPart(0, { step: 6 }), UNEXPECTED_MESSAGE, /step 6 is not under way \(step 5 is\)/],
    [contributionPart(99), UNEXPECTED_MESSAGE, /there is no slot 99/],
    [contributionPart(0, { codec: 'int8' }), MALFORMED_MESSAGE, /int8; expected/],
    [contributionPart(0, { totalBytes: 2 ** 40 }), MALFORMED_MESSAGE, /expected/],
    [contributionPart(0, { offset: 4 }), UNEXPECTED_MESSAGE, /begins at byte 4/],
    [contributionPart(0, { stream: 'update' }), UNEXPECTED_MESSAGE, /does not send stream update/],
    [contributionPart(0, { stream: 'snapshot' }), UNEXPECTED_MESSAGE, /does not send stream snapshot/],
    [contributionPart(P, { stream: 'sketch', round: 3 }), UNEXPECTED_MESSAGE, /round 3 is not under way/],
    [contributionPart(P, { stream: 'factor', round: 0 }), UNEXPECTED_MESSAGE, /not projected|no such round/],
    [
      contributionPart(0, { stream: 'sketch', round: 2 }),
      UNEXPECTED_MESSAGE,
      /slot 0 \(.*\) is not projected/,
    ],
  ];
  for (const [part, { code }, message] of cases) {
    const stage = staging();
    stage.open({ step: 5, round: part.stream === 'sketch' ? 2 : 0 });
    const error = t.throws(() => stage.accept('a', part), { instanceOf: ProtocolError, message });
    t.is(error?.closeCode, code, message.source);
    t.throws(() => stage.take('a', 'contribution', [0]), { message: /lacks slot 0/ });
  }
});

test('numbers that are not finite are refused while their sender is known', (t) => {
  const stage = staging();
  stage.open({ step: 5, round: 0 });
  const bytes = bytesFor(payloadSize(shape.sizes[0]!, 'contribution', 5), 'a');
  new DataView(bytes.buffer).setFloat32(8, NaN, true);
  const [part] = partsOf({ stream: 'contribution', step: 5, round: 0, tensor: 0 }, bytes);
  t.throws(() => stage.accept('a', part!), { instanceOf: ProtocolError, message: /number 2 .* is NaN/ });
  t.throws(() => stage.take('a', 'contribution', [0]), { message: /lacks slot 0/ });
});

test('of those who are not in the step nothing is kept, and nobody is blamed for it', (t) => {
  const stage = new Staging(shape.slots, shape.sizes, shape.refresh.rounds, null, (id) => id === 'a');
  stage.open({ step: 5, round: 0 });
  for (const trainerId of ['a', 'b', 'c']) {
    for (const part of contributionOf(RUN, 5, trainerId)) stage.accept(trainerId, part);
  }
  t.is(stage.take('a', 'contribution', ALL).size, ALL.length);
  t.is(stage.take('b', 'contribution', []).size, 0);
  t.is(
    stage.bytesStaged.memory,
    contributionOf(RUN, 5, 'a').reduce((sum, { totalBytes }) => sum + totalBytes, 0),
  );
});

test('a slot that comes twice is refused', (t) => {
  const stage = staging();
  stage.open({ step: 5, round: 0 });
  stage.accept('a', contributionPart(0));
  t.throws(() => stage.accept('a', contributionPart(0)), { message: /slot 0 was sent before/ });
});

test('what is missing is named', (t) => {
  const stage = staging();
  stage.open({ step: 5, round: 0 });
  stage.accept('a', contributionPart(0));
  const error = t.throws(() => stage.take('a', 'contribution', ALL), { instanceOf: ProtocolError });
  t.is(error?.closeCode, INVALID_CONTRIBUTION.code);
  t.regex(error?.message ?? '', /the contribution of step 5 lacks slot 1 \(model\./);
});

test('parts of a step or round that is over are dropped without a word', (t) => {
  const stage = staging();
  stage.open({ step: 5, round: 2 });
  stage.accept('a', contributionPart(0, { step: 4 }));
  const sketch = bytesFor(shape.sizes[P]?.sketches[0], 's');
  for (const part of partsOf({ stream: 'sketch', step: 5, round: 1, tensor: P }, sketch))
    stage.accept('a', part);
  t.throws(() => stage.take('a', 'sketch', [P]));
  stage.close();
  stage.accept('a', contributionPart(0));
  t.throws(() => stage.take('a', 'contribution', [0]));
});

test('a tensor begun in a try that was given up does not count in the next try of the same step', (t) => {
  const stage = staging();
  stage.open({ step: 5, round: 0 });
  const bytes = bytesFor(payloadSize(shape.sizes[0]!, 'contribution', 5), 'a');
  const [first, ...rest] = partsOf({ stream: 'contribution', step: 5, round: 0, tensor: 0 }, bytes, 100);
  stage.accept('a', first!);
  stage.close();
  for (const part of rest.slice(0, 1)) stage.accept('a', part);
  stage.open({ step: 5, round: 0 });
  for (const part of rest.slice(1)) stage.accept('a', part);
  t.throws(() => stage.take('a', 'contribution', [0]), { message: /lacks slot 0/ });
  t.is(stage.checksumOf('a'), 0);
  for (const part of contributionOf(RUN, 5, 'a')) t.notThrows(() => stage.accept('a', part));
  t.is(stage.take('a', 'contribution', ALL).size, ALL.length);
});

test('a sketch begun in an earlier round does not count in the next', (t) => {
  const stage = staging();
  stage.open({ step: 5, round: 1 });
  const bytes = bytesFor(shape.sizes[P]?.sketches[0], 's');
  const [first, ...rest] = partsOf({ stream: 'sketch', step: 5, round: 1, tensor: P }, bytes, 32);
  stage.accept('a', first!);
  stage.open({ step: 5, round: 2 });
  for (const part of rest) stage.accept('a', part);
  t.throws(() => stage.take('a', 'sketch', [P]));
});

test('a new round keeps contributions and drops sketches and factors', (t) => {
  const stage = staging();
  stage.open({ step: 5, round: 1 });
  stage.accept('a', contributionPart(0));
  const bytes = bytesFor(shape.sizes[P]?.sketches[0], 's');
  for (const stream of ['sketch', 'factor'] as const) {
    for (const part of partsOf({ stream, step: 5, round: 1, tensor: P }, bytes)) stage.accept('a', part);
  }
  stage.open({ step: 5, round: 2 });
  t.is(stage.take('a', 'contribution', [0]).size, 1);
  t.throws(() => stage.take('a', 'sketch', [P]));
  t.throws(() => stage.take('a', 'factor', [P]));
});

test('of a lost trainer what came whole stays and what is half there goes', (t) => {
  const stage = staging();
  stage.open({ step: 5, round: 0 });
  stage.accept('a', contributionPart(0));
  const bytes = bytesFor(payloadSize(shape.sizes[1]!, 'contribution', 5), 'a');
  const pieces = partsOf({ stream: 'contribution', step: 5, round: 0, tensor: 1 }, bytes, 16);
  stage.accept('a', pieces[0]!);
  stage.forgetHalf('a');
  t.is(stage.take('a', 'contribution', [0]).size, 1);
  for (const piece of pieces) stage.accept('a', piece);
  t.is(stage.take('a', 'contribution', [0, 1]).size, 2);
});

const CONTRIBUTION_BYTES = contributionBytes(shape.sizes);

/** The arrays that hold what a trainer has sent whole. */
function arraysOf(stage: Staging, trainerId: string): Uint8Array[] {
  return [...stage.take(trainerId, 'contribution', ALL).values()].map(({ bytes }) => bytes);
}

test('the contributions of a step are put together where those of the step before were', (t) => {
  const stage = staging();
  const used = new Set<Uint8Array>();
  for (let step = 5; step < 9; step++) {
    stage.open({ step, round: 0 });
    for (const trainerId of ['a', 'b']) {
      for (const part of contributionOf(RUN, step, trainerId)) stage.accept(trainerId, part);
    }
    t.is(stage.bytesPooled, 0, 'all of it is in use');
    for (const trainerId of ['a', 'b']) {
      const arrays = arraysOf(stage, trainerId);
      for (const bytes of arrays) used.add(bytes);
      const expected = contributionOf(RUN, step, trainerId).map(({ payload }) => Buffer.from(payload));
      t.true(Buffer.concat(arrays).equals(Buffer.concat(expected)), `${trainerId} in step ${step}`);
    }
    stage.close();
    t.is(stage.bytesPooled, 2 * CONTRIBUTION_BYTES);
  }
  t.is(used.size, 2 * ALL.length);
});

test('what was staged stays as it is until its step is over, whatever else comes', (t) => {
  const stage = staging();
  stage.open({ step: 4, round: 0 });
  for (const part of contributionOf(RUN, 4, 'a')) stage.accept('a', part);
  stage.open({ step: 5, round: 1 });
  for (const part of contributionOf(RUN, 5, 'a')) stage.accept('a', part);
  const before = Buffer.concat(arraysOf(stage, 'a'));
  stage.open({ step: 5, round: 2 });
  for (const trainerId of ['b', 'c']) {
    for (const part of contributionOf(RUN, 5, trainerId)) stage.accept(trainerId, part);
  }
  for (const part of contributionOf(RUN, 4, 'b')) stage.accept('b', part); // late
  stage.forgetHalf('b');
  t.true(Buffer.concat(arraysOf(stage, 'a')).equals(before));
});

test('memory is that of the last contributions: a trainer that goes takes its share with it', (t) => {
  const stage = staging();
  const trainerIds = ['a', 'b', 'c'];
  for (let step = 5; step < 8; step++) {
    stage.open({ step, round: 0 });
    for (const trainerId of trainerIds) {
      for (const part of contributionOf(RUN, step, trainerId)) stage.accept(trainerId, part);
    }
    stage.close();
    t.is(stage.bytesPooled, trainerIds.length * CONTRIBUTION_BYTES);
    trainerIds.pop();
  }
});

test('a peer cannot make memory grow with tensors of wrong lengths, twice, late, or half', (t) => {
  const stage = staging();
  for (let step = 5; step < 25; step++) {
    stage.open({ step, round: 0 });
    for (const part of contributionOf(RUN, step, 'a')) stage.accept('a', part);
    for (const part of contributionOf(RUN, step, 'b')) stage.accept('b', part);
    const attacks = [
      contributionPart(0, { step }),
      contributionPart(0, { step, totalBytes: 2 ** 40 }),
      contributionPart(99, { step }),
    ];
    for (const part of attacks) t.throws(() => stage.accept('b', part), { instanceOf: ProtocolError });
    t.notThrows(() => stage.accept('b', contributionPart(0, { step: step - 1 })));
    for (const trainerId of ['c', 'd']) {
      const bytes = bytesFor(payloadSize(shape.sizes[0]!, 'contribution', step), 'half');
      const [half] = partsOf({ stream: 'contribution', step, round: 0, tensor: 0 }, bytes, 16);
      stage.accept(trainerId, half!);
      stage.forgetHalf(trainerId);
    }
    stage.close();
    for (const part of contributionOf(RUN, step, 'c')) stage.accept('c', part);
    t.is(stage.bytesPooled, 2 * CONTRIBUTION_BYTES);
  }
});

test('of a row-sparse slot any number of rows is taken; no other length, and no rows that it does not have', (t) => {
  // 19 rows of 16 numbers.
  const rowsPart = (rows: readonly number[], fields: Partial<PartMessage> = {}): PartMessage => {
    const bytes = encodeRows('f32', Uint32Array.from(rows), new Float32Array(16 * rows.length), derive(1));
    const [part] = partsOf({ stream: 'contribution', step: 5, round: 0, tensor: 0 }, bytes);
    return { ...part!, ...fields };
  };
  const start = (): Staging => {
    const stage = new Staging(SPARSE.slots, SPARSE.sizes, SPARSE.refresh.rounds);
    stage.open({ step: 5, round: 0 });
    return stage;
  };
  const stage = start();
  for (const [trainerId, rows] of [
    ['a', []],
    ['b', [3]],
    ['c', Array.from({ length: 19 }, (_, row) => row)],
  ] as const) {
    stage.accept(trainerId, rowsPart(rows));
    t.is(stage.take(trainerId, 'contribution', [0]).get(0)?.bytes.length, 4 + 68 * rows.length);
  }
  const cases: [PartMessage, { code: number }, RegExp][] = [
    [
      rowsPart([3], { totalBytes: 73 }),
      UNEXPECTED_MESSAGE,
      /73 bytes of f32 are not 0 to 19 rows of model\.embed/,
    ],
    [rowsPart([3], { totalBytes: 4 + 68 * 20 }), UNEXPECTED_MESSAGE, /not 0 to 19 rows/],
    [rowsPart([3], { totalBytes: 2 ** 32 - 1 }), UNEXPECTED_MESSAGE, /not 0 to 19 rows/],
    [rowsPart([3], { codec: 'int8' }), MALFORMED_MESSAGE, /72 bytes of int8; expected: 72 bytes of f32/],
    [rowsPart([19]), MALFORMED_MESSAGE, /row 19 is not one of its 19/],
    [rowsPart([3, 3]), MALFORMED_MESSAGE, /row 3 follows row 3/],
  ];
  for (const [part, { code }, message] of cases) {
    const hostile = start();
    const error = t.throws(() => hostile.accept('a', part), { instanceOf: ProtocolError, message });
    t.is(error?.closeCode, code, message.source);
    t.throws(() => hostile.take('a', 'contribution', [0]), { message: /lacks slot 0/ });
  }
});
