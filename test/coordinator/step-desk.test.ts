import test from 'ava';
import { sketchPlan } from '../../src/galore/projection/sketch.ts';
import { basisShape, type ProjectedSlot } from '../../src/galore/slot.ts';
import type { RecordPlace } from '../../src/coordinator/records.ts';
import { StepDesk, type EarlyUpdate } from '../../src/coordinator/step-desk.ts';
import { ProtocolError } from '../../src/errors.ts';
import { CLOSE_CODES } from '../../src/protocol/close-codes.ts';
import { crc32c } from '../../src/protocol/crc32c.ts';
import { decodeEnvelope } from '../../src/protocol/envelope.ts';
import { payloadSize } from '../../src/protocol/slot-sizes.ts';
import { orthonormalMatrix } from '../galore/matrices.ts';
import { bytesFor, contributionOf, partsOf, tinyRun } from './tiny-run.ts';

const RUN = tinyRun();
const { config, shape, projected } = RUN;
const SLOTS = projected.slice(0, 4);
const FIRST = { step: 5, round: 1 } as const;
const PLACE = { sequence: 1, step: 5, previousDigest: new Uint8Array(32) };

function startStep(trainerIds: readonly string[], refreshSlots: readonly number[] = []): StepDesk {
  const desk = new StepDesk(config, shape, 1);
  assign(desk, trainerIds, refreshSlots);
  return desk;
}

function assign(desk: StepDesk, trainerIds: readonly string[], refreshSlots: readonly number[] = []): void {
  for (const trainerId of trainerIds) {
    desk.assigned({ type: 'assignStep', trainerId, step: 5, positions: [1, 2], refreshSlots, waitMs: 0 });
  }
}

function beginRound(desk: StepDesk, trainerIds: readonly string[]): void {
  desk.beginRound({ type: 'requestSketches', trainerIds, ...FIRST, slots: SLOTS, jobs: [] });
}

function contribute(desk: StepDesk, trainerId: string): void {
  const parts = contributionOf(RUN, 5, trainerId);
  const checksum = parts.reduce((sum, { payload }) => crc32c(payload, sum), 0);
  for (const part of parts) desk.acceptPart(trainerId, part);
  desk.acceptContribution(trainerId, { kind: 'contribution', step: 5, tokens: 9, lossSum: 1, checksum });
}

function sendSketches(desk: StepDesk, trainerId: string, slots: readonly number[] = SLOTS): void {
  for (const tensor of slots) {
    const bytes = bytesFor(shape.sizes[tensor]?.sketches[0], trainerId, tensor);
    for (const part of partsOf({ stream: 'sketch', ...FIRST, tensor }, bytes))
      desk.acceptPart(trainerId, part);
  }
  desk.acceptSketch(trainerId, { kind: 'sketch', ...FIRST, tokens: 9 });
}

function sendFactors(desk: StepDesk, trainerId: string, slots: readonly number[]): readonly number[] {
  for (const tensor of slots) {
    const slot = shape.slots[tensor] as ProjectedSlot;
    const plan = sketchPlan(slot, 1, shape.refresh);
    const [rows, columns] = plan.isFinal ? basisShape(slot) : plan.sketchShape;
    const values = Float32Array.from(orthonormalMatrix(rows, columns, `factor ${tensor}`).values);
    const bytes = new Uint8Array(values.buffer);
    for (const part of partsOf({ stream: 'factor', ...FIRST, tensor }, bytes))
      desk.acceptPart(trainerId, part);
  }
  return desk.acceptFactor(trainerId, { kind: 'factor', ...FIRST, slots, zeroSlots: [], similarities: [] });
}

/** A refresh in which a and b have sketched and may be given jobs. */
function startFactorising(): StepDesk {
  const desk = startStep(['a', 'b'], SLOTS);
  beginRound(desk, ['a', 'b']);
  for (const trainerId of ['a', 'b']) sendSketches(desk, trainerId);
  const weights = ['a', 'b'].map((trainerId) => ({ trainerId, tokens: 9, lossSum: 0 }));
  desk.sumSketches({ type: 'sumSketches', ...FIRST, weights });
  return desk;
}

function giveJob(desk: StepDesk, trainerId: string, slots: readonly number[]): void {
  desk.beginJob({ type: 'assignFactors', trainerId, ...FIRST, slots, isFinal: false });
}

test('an heir answers its own job and the job of a lost trainer one by one', (t) => {
  const desk = startFactorising();
  const [own, others] = [SLOTS.slice(0, 2), SLOTS.slice(2)];
  giveJob(desk, 'a', own);
  giveJob(desk, 'b', others);
  desk.forget('b');
  giveJob(desk, 'a', others);
  t.deepEqual(sendFactors(desk, 'a', own), own);
  t.deepEqual(sendFactors(desk, 'a', others), others);
});

test('factors of only some of the slots of a job are refused, and so is none', (t) => {
  const desk = startFactorising();
  giveJob(desk, 'a', SLOTS);
  for (const slots of [SLOTS.slice(1), []]) {
    const error = t.throws(() => sendFactors(desk, 'a', slots), { instanceOf: ProtocolError });
    t.is(error?.closeCode, CLOSE_CODES.UNEXPECTED_MESSAGE.code);
    t.regex(error?.message ?? '', /were not asked for/);
    desk.discard();
    assign(desk, ['a', 'b'], SLOTS);
    beginRound(desk, ['a', 'b']);
    giveJob(desk, 'a', SLOTS);
  }
});

test('a slot that is called zero though its sketch is not is refused', (t) => {
  const desk = startFactorising();
  giveJob(desk, 'a', SLOTS);
  const claim = { kind: 'factor', ...FIRST, slots: [], zeroSlots: SLOTS, similarities: [] } as const;
  t.throws(() => desk.acceptFactor('a', claim), { instanceOf: ProtocolError, message: /is called zero/ });
});

test('a factor of one who has no job, or of another round, is late and not a fault', (t) => {
  const desk = startFactorising();
  t.deepEqual(
    desk.acceptFactor('c', { kind: 'factor', ...FIRST, slots: SLOTS, zeroSlots: [], similarities: [] }),
    [],
  );
  giveJob(desk, 'a', SLOTS);
  t.deepEqual(
    desk.acceptFactor('a', {
      kind: 'factor',
      step: 4,
      round: 1,
      slots: SLOTS,
      zeroSlots: [],
      similarities: [],
    }),
    [],
  );
});

test('a contribution of an earlier try of the step is left to the core, not called invalid', (t) => {
  const desk = startStep(['a']);
  desk.discard();
  assign(desk, ['b']);
  t.notThrows(() => contribute(desk, 'a'));
  t.notThrows(() => contribute(desk, 'b'));
});

test('a sketch of an earlier try of the step is left to the core, not called invalid', (t) => {
  const desk = startStep(['a'], SLOTS);
  beginRound(desk, ['a']);
  desk.discard();
  assign(desk, ['b'], SLOTS);
  beginRound(desk, ['b']);
  t.notThrows(() => sendSketches(desk, 'a'));
});

test('a trainer whose contribution was half sent when the step was given up can send it in the next try', (t) => {
  const desk = startStep(['a']);
  const bytes = bytesFor(payloadSize(shape.sizes[0]!, 'contribution', 5), 'a', 5, 0);
  const [first, ...rest] = partsOf({ stream: 'contribution', step: 5, round: 0, tensor: 0 }, bytes, 64);
  desk.acceptPart('a', first!);
  desk.discard();
  for (const part of rest) desk.acceptPart('a', part);
  assign(desk, ['a']);
  t.notThrows(() => contribute(desk, 'a'));
});

test('more tokens than were assigned, a wrong checksum or a missing slot are refused', (t) => {
  const message = { kind: 'contribution', step: 5, tokens: 9, lossSum: 1, checksum: 0 } as const;
  const refusal = (desk: StepDesk, fields: object): string => {
    const error = t.throws(() => desk.acceptContribution('a', { ...message, ...fields }), {
      instanceOf: ProtocolError,
    });
    t.is(error?.closeCode, CLOSE_CODES.INVALID_CONTRIBUTION.code);
    return error?.message ?? '';
  };
  t.regex(refusal(startStep(['a']), { tokens: 17 }), /17 tokens .* only 16 were assigned/);
  t.regex(refusal(startStep(['a']), {}), /lacks slot 0/);
  const desk = startStep(['a']);
  for (const part of contributionOf(RUN, 5, 'a')) desk.acceptPart('a', part);
  t.regex(refusal(desk, { checksum: 1 }), /checksum \d+, not 1 as declared/);
});

test('the sums of a round are sent again to whoever gets the job of a lost trainer', (t) => {
  const desk = startFactorising();
  const job = { type: 'assignFactors', ...FIRST, slots: SLOTS, isFinal: false } as const;
  const first = desk.beginJob({ ...job, trainerId: 'a' });
  desk.forget('a');
  t.deepEqual(desk.beginJob({ ...job, trainerId: 'b' }), first);
});

test('an update counts the trainers named and nobody else', (t) => {
  const desk = startStep(['a', 'b']);
  for (const trainerId of ['a', 'b']) contribute(desk, trainerId);
  const received = [{ trainerId: 'b', tokens: 9, lossSum: 1 }];
  const shards = [{ trainerId: 'b', positions: [1, 2] }];
  const cursor = { next: 3, returned: [] };
  const { frames } = desk.sealUpdate(PLACE, { type: 'commitUpdate', step: 5, received, shards, cursor });
  const parts = frames
    .map((frame) => decodeEnvelope(frame, 'coordinator'))
    .filter(({ kind }) => kind === 'part');
  t.deepEqual(
    parts.map((part) => (part.kind === 'part' ? Uint8Array.from(part.payload) : null)),
    contributionOf(RUN, 5, 'b').map(({ payload }) => payload),
  );
});

/** What a desk sends ahead of the record of step 5, which will be record 1. */
class Ahead implements EarlyUpdate {
  frames: Uint8Array[] = [];
  readonly withdrawn: number[] = [];

  place(): RecordPlace {
    return PLACE;
  }

  send(first: number, frames: readonly Uint8Array[]): void {
    if (first !== this.frames.length) throw new Error(`${first} frames before, not ${this.frames.length}`);
    this.frames.push(...frames);
  }

  withdraw(step: number): void {
    this.withdrawn.push(step);
    this.frames = [];
  }
}

const POSITIONS = [1, 2] as const;

/** A desk that sends ahead, with a step of a and b in which 9 labels of each are to count. */
function startEarly(
  refreshSlots: readonly number[] = [],
  run = RUN,
): { readonly desk: StepDesk; readonly ahead: Ahead } {
  const ahead = new Ahead();
  const desk = new StepDesk(run.config, run.shape, 1, ahead);
  for (const trainerId of ['a', 'b']) {
    const assignment = { trainerId, step: 5, positions: POSITIONS, refreshSlots, waitMs: 0 };
    desk.assigned({ type: 'assignStep', ...assignment });
  }
  for (const trainerId of ['a', 'b']) desk.expect(trainerId, POSITIONS, 9);
  return { desk, ahead };
}

function sealFor(desk: StepDesk, trainerIds: readonly string[], tokens: number = 9): readonly Uint8Array[] {
  const received = trainerIds.map((trainerId) => ({ trainerId, tokens, lossSum: 1 }));
  const shards = trainerIds.map((trainerId) => ({ trainerId, positions: POSITIONS }));
  const cursor = { next: 3, returned: [] };
  return desk.sealUpdate(PLACE, { type: 'commitUpdate', step: 5, received, shards, cursor }).frames;
}

/** The record that a desk makes which sums everything at the end. */
function recordOf(trainerIds: readonly string[]): readonly Uint8Array[] {
  const desk = startStep(['a', 'b']);
  for (const trainerId of ['a', 'b']) contribute(desk, trainerId);
  return sealFor(desk, trainerIds);
}

test('a slot leaves as soon as every member has delivered it, and the record is what it is anyway', (t) => {
  const { desk, ahead } = startEarly();
  const [a, b] = ['a', 'b'].map((trainerId) => contributionOf(RUN, 5, trainerId));
  for (const part of a!) desk.acceptPart('a', part);
  t.is(ahead.frames.length, 0);
  const expected = recordOf(['a', 'b']);
  for (const [i, part] of b!.entries()) {
    desk.acceptPart('b', part);
    t.deepEqual(ahead.frames, expected.slice(0, i + 1), `after slot ${part.tensor}`);
  }
  t.deepEqual(sealFor(desk, ['a', 'b']), expected);
  desk.discard();
  t.deepEqual(ahead.withdrawn, []);
});

test('slots leave in the order in which the first member sent them', (t) => {
  const { desk, ahead } = startEarly();
  const [a, b] = ['a', 'b'].map((trainerId) => contributionOf(RUN, 5, trainerId));
  for (const part of b!) desk.acceptPart('b', part);
  for (const part of a!.toReversed()) desk.acceptPart('a', part);
  const tensors = ahead.frames.map((frame) => {
    const message = decodeEnvelope(frame, 'coordinator');
    return message.kind === 'part' ? message.tensor : null;
  });
  t.deepEqual(tensors, a!.map(({ tensor }) => tensor).reverse());
});

test('what was sent ahead is withdrawn when a member is not in the record', (t) => {
  const { desk, ahead } = startEarly();
  for (const part of contributionOf(RUN, 5, 'a').slice(0, 2)) desk.acceptPart('a', part);
  contribute(desk, 'b');
  t.is(ahead.frames.length, 2);
  desk.forget('a');
  t.deepEqual(sealFor(desk, ['b']), recordOf(['b']));
  t.deepEqual(ahead.withdrawn, [5]);
});

test('what was sent ahead is withdrawn when a trainer counts other tokens than it was given', (t) => {
  const { desk, ahead } = startEarly();
  for (const trainerId of ['a', 'b']) contribute(desk, trainerId);
  sealFor(desk, ['a', 'b'], 8);
  t.deepEqual(ahead.withdrawn, [5]);
});

test('what was sent ahead of a step that is given up is withdrawn once', (t) => {
  const { desk, ahead } = startEarly();
  for (const trainerId of ['a', 'b']) contribute(desk, trainerId);
  desk.discard();
  desk.discard();
  t.deepEqual(ahead.withdrawn, [5]);
});

test('nothing leaves before the bases of the step, then everything that is here', (t) => {
  const { desk, ahead } = startEarly(SLOTS);
  for (const trainerId of ['a', 'b']) contribute(desk, trainerId);
  t.is(ahead.frames.length, 0);
  desk.refreshCommitted();
  t.deepEqual(ahead.frames, recordOf(['a', 'b']).slice(0, -1));
});

test('nothing leaves before all members have their sequences', (t) => {
  const ahead = new Ahead();
  const desk = new StepDesk(config, shape, 1, ahead);
  assign(desk, ['a', 'b']);
  for (const trainerId of ['a', 'b']) contribute(desk, trainerId);
  desk.expect('a', POSITIONS, 9);
  t.is(ahead.frames.length, 0, 'these are not the positions it was assigned');
});

test('with clipping nothing leaves before everything is summed', (t) => {
  const run = tinyRun('optimizer.max_grad_norm=1');
  const { desk, ahead } = startEarly([], run);
  for (const trainerId of ['a', 'b']) contribute(desk, trainerId);
  t.is(ahead.frames.length, 0);
  t.true(sealFor(desk, ['a', 'b']).length > 1);
  t.deepEqual(ahead.withdrawn, []);
});

const ADAPTIVE = tinyRun(
  'method.rank=8',
  'method.adaptive_rank.threshold=0.5',
  'method.adaptive_rank.min_rank=2',
  'method.adaptive_rank.multiple=2',
  'method.refresh.power_iterations=1',
);
const [TARGET = 0] = ADAPTIVE.projected;
const LAST = { step: 5, round: ADAPTIVE.shape.refresh.rounds } as const;

/** The last round of a refresh of one slot whose rank may change; what a made of it is to be accepted. */
function startLastRound(): StepDesk {
  const { config: adaptiveConfig, shape: adaptiveShape } = ADAPTIVE;
  const desk = new StepDesk(adaptiveConfig, adaptiveShape, 1);
  assign(desk, ['a'], [TARGET]);
  desk.beginRound({ type: 'requestSketches', trainerIds: ['a'], ...LAST, slots: [TARGET], jobs: [] });
  const sketch = bytesFor(adaptiveShape.sizes[TARGET]?.sketches[LAST.round - 1], 'a');
  for (const part of partsOf({ stream: 'sketch', ...LAST, tensor: TARGET }, sketch))
    desk.acceptPart('a', part);
  desk.acceptSketch('a', { kind: 'sketch', ...LAST, tokens: 9 });
  const weights = [{ trainerId: 'a', tokens: 9, lossSum: 0 }];
  desk.sumSketches({ type: 'sumSketches', ...LAST, weights });
  desk.beginJob({ type: 'assignFactors', trainerId: 'a', ...LAST, slots: [TARGET], isFinal: true });
  return desk;
}

function sendBasis(desk: StepDesk, values: Float32Array): readonly number[] {
  const bytes = new Uint8Array(values.buffer.slice(0));
  for (const part of partsOf({ stream: 'factor', ...LAST, tensor: TARGET }, bytes))
    desk.acceptPart('a', part);
  return desk.acceptFactor('a', {
    kind: 'factor',
    ...LAST,
    slots: [TARGET],
    zeroSlots: [],
    similarities: [0.25],
  });
}

function basisOfRank(rank: number): Float32Array {
  const [rows] = basisShape(ADAPTIVE.shape.slots[TARGET] as ProjectedSlot);
  return Float32Array.from(orthonormalMatrix(rows, rank, 'basis', rank).values);
}

const JOB = { trainerId: 'a', slots: [TARGET], isDone: true };

test('a basis of another allowed rank is taken, and from then on contributions have its size', (t) => {
  const desk = startLastRound();
  const before = desk.payloadOf(5);
  t.deepEqual(sendBasis(desk, basisOfRank(4)), [TARGET]);
  const { commit } = desk.sealBases(PLACE, { type: 'commitBases', step: 5, slots: [TARGET], jobs: [JOB] });
  t.like(commit.record, { slots: [TARGET], ranks: [4], similarities: [] });
  desk.setRanks(new Map([[TARGET, 4]]));
  t.true(desk.payloadOf(5).numbers < before.numbers && desk.payloadOf(5).meanRank < before.meanRank);
  const [rows] = basisShape(ADAPTIVE.shape.slots[TARGET] as ProjectedSlot);
  const part = (totalBytes: number) =>
    partsOf({ stream: 'contribution', step: 5, round: 0, tensor: TARGET }, new Uint8Array(totalBytes))[0]!;
  const size = payloadSize(ADAPTIVE.shape.sizes[TARGET]!, 'contribution', 5).totalBytes;
  t.true(rows > 0);
  t.throws(() => desk.acceptPart('a', part(size)), { message: /expected: \d+ bytes of f32/ });
  t.notThrows(() => desk.acceptPart('a', part(size / 2)));
});

test('a contribution that came before the new rank, whole or half, is no part of the sum', (t) => {
  const size = payloadSize(ADAPTIVE.shape.sizes[TARGET]!, 'contribution', 5).totalBytes;
  const header = { stream: 'contribution', step: 5, round: 0, tensor: TARGET } as const;
  for (const isHalf of [false, true]) {
    const desk = startLastRound();
    const early = partsOf(header, new Uint8Array(size), isHalf ? size / 2 : size);
    desk.acceptPart('a', early[0]!);
    sendBasis(desk, basisOfRank(4));
    desk.sealBases(PLACE, { type: 'commitBases', step: 5, slots: [TARGET], jobs: [JOB] });
    desk.setRanks(new Map([[TARGET, 4]]));
    if (isHalf) desk.acceptPart('a', early[1]!);
    const rest = contributionOf(ADAPTIVE, 5, 'a').filter(({ tensor }) => tensor !== TARGET);
    for (const part of rest) desk.acceptPart('a', part);
    const checksum = [...early, ...rest].reduce((sum, { payload }) => crc32c(payload, sum), 0);
    const message = { kind: 'contribution', step: 5, tokens: 9, lossSum: 1, checksum } as const;
    const error = t.throws(() => desk.acceptContribution('a', message), { instanceOf: ProtocolError });
    t.regex(error?.message ?? '', new RegExp(`lacks slot ${TARGET} `));
  }
});

test('a basis of a wrong rank or size, not orthonormal or not finite, is refused with a reason', (t) => {
  const refusal = (values: Float32Array): readonly [number, string] => {
    const error = t.throws(() => sendBasis(startLastRound(), values), { instanceOf: ProtocolError });
    return [error?.closeCode ?? 0, error?.message ?? ''];
  };
  const { UNEXPECTED_MESSAGE, INVALID_CONTRIBUTION } = CLOSE_CODES;
  for (const rank of [1, 3, 9, 16]) {
    const [rows] = basisShape(ADAPTIVE.shape.slots[TARGET] as ProjectedSlot);
    const [code, text] = refusal(new Float32Array(rows * rank));
    t.is(code, UNEXPECTED_MESSAGE.code);
    t.regex(text, new RegExp(`a basis of rank ${rank} is not allowed: multiples of 2 from 2, and 8, are`));
  }
  t.regex(refusal(new Float32Array(5))[1], /a basis of rank 0\.\d+ is not allowed/);
  const scaled = basisOfRank(4).map((value) => 1.01 * value);
  const [code, text] = refusal(scaled);
  t.is(code, INVALID_CONTRIBUTION.code);
  t.regex(text, /not orthonormal/);
  const broken = basisOfRank(4);
  broken[3] = NaN;
  t.regex(refusal(broken)[1], /NaN|finite/);
});

test('generated bases are sealed without anything from trainers', (t) => {
  const run = tinyRun('method.name=golore');
  const desk = new StepDesk(run.config, run.shape, 1);
  const { commit, frames } = desk.sealBases(PLACE, {
    type: 'commitBases',
    step: 5,
    slots: run.projected,
    jobs: [],
  });
  t.is(frames.length, 1);
  t.like(commit.record, { type: 'basis', slots: run.projected, isGenerated: true });
});

test('an update tells the norm of each slot with a basis when early refreshes need them, else of none', (t) => {
  const update = { type: 'commitUpdate', step: 5, cursor: { next: 3, returned: [] } } as const;
  const received = [{ trainerId: 'a', tokens: 9, lossSum: 1 }];
  const shards = [{ trainerId: 'a', positions: [1, 2] }];
  for (const settings of [[], ['method.refresh.converged_ratio=0.5']]) {
    const run = tinyRun(...settings);
    const desk = new StepDesk(run.config, run.shape, 1);
    assign(desk, ['a']);
    const parts = contributionOf(run, 5, 'a');
    const checksum = parts.reduce((sum, { payload }) => crc32c(payload, sum), 0);
    for (const part of parts) desk.acceptPart('a', part);
    desk.acceptContribution('a', { kind: 'contribution', step: 5, tokens: 9, lossSum: 1, checksum });
    const { record } = desk.sealUpdate(PLACE, { ...update, received, shards }).commit;
    const norms = record.type === 'update' ? record.slotNorms : [];
    t.is(norms.length, settings.length * run.projected.length);
    t.true(norms.every((norm) => norm > 0));
  }
});

/** A norm over all slots as it would be if contributions were `scale` times those of `contributionOf`. */
function judgedRun(outliers: string, ...settings: readonly string[]) {
  const run = tinyRun(`coordinator.outliers=${outliers}`, 'batch_size=4', ...settings);
  const earlyUpdate: EarlyUpdate = { place: () => PLACE, send: () => {}, withdraw: () => {} };
  const desk = new StepDesk(run.config, run.shape, 1, earlyUpdate);
  assign(desk, ['a', 'b']);
  const send = (trainerId: string, tokens: number, scale = 1): number | undefined => {
    const parts = contributionOf(run, 5, 'same').map((part) => {
      const values = new Float32Array(Uint8Array.from(part.payload).buffer).map((x) => x * scale);
      return { ...part, payload: new Uint8Array(values.buffer) };
    });
    const checksum = parts.reduce((sum, { payload }) => crc32c(payload, sum), 0);
    for (const part of parts) desk.acceptPart(trainerId, part);
    return desk.acceptContribution(trainerId, {
      kind: 'contribution',
      step: 5,
      tokens,
      lossSum: 1,
      checksum,
    });
  };
  return { run, desk, send };
}

test('the norm of a contribution is that of all its numbers, and is taken only where it is judged', (t) => {
  const { run, send } = judgedRun('reject');
  const squares = contributionOf(run, 5, 'same').map(({ payload }) =>
    new Float32Array(Uint8Array.from(payload).buffer).reduce((sum, x) => sum + x * x, 0),
  );
  const norm = Math.sqrt(squares.reduce((sum, square) => sum + square, 0));
  t.true(Math.abs(send('a', 16)! / norm - 1) < 1e-6);
  t.true(Math.abs(send('b', 16, 3)! / (3 * norm) - 1) < 1e-6);
  t.is(judgedRun('accept').send('a', 16), undefined);
});

test('parts of a sum are judged by what they would be as means, so that few tokens are no merit', (t) => {
  const { send } = judgedRun('clip', 'method.feedback=payload');
  const whole = send('a', 16)!;
  const half = send('b', 8, 0.5)!;
  // Slots that carry sums are half as large with half the tokens, which leaves them as they are; few others are means.
  t.true(Math.abs(half / whole - 1) < 0.5, `${half} of ${whole}`);
});

test('a contribution that is clipped counts in the sum with its scale', (t) => {
  for (const settings of [[], ['method.feedback=payload']]) {
    const { desk, send } = judgedRun('clip', ...settings);
    send('a', 16);
    send('b', 16, 4);
    const received = [
      { trainerId: 'a', tokens: 16, lossSum: 1 },
      { trainerId: 'b', tokens: 16, lossSum: 1, scale: 0.25 },
    ];
    const clipped = desk.sealUpdate(PLACE, {
      type: 'commitUpdate',
      step: 5,
      received,
      shards: [],
      cursor: { next: 4, returned: [] },
    });
    const plain = judgedRun('clip', ...settings);
    plain.send('a', 16);
    plain.send('b', 16);
    const same = plain.desk.sealUpdate(PLACE, {
      type: 'commitUpdate',
      step: 5,
      received: received.map(({ trainerId, tokens, lossSum }) => ({ trainerId, tokens, lossSum })),
      shards: [],
      cursor: { next: 4, returned: [] },
    });
    t.deepEqual(clipped.commit.digest, same.commit.digest); // 4 times a quarter
  }
});
