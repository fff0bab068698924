import test from 'ava';
import { sketchPlan } from '../../src/galore/projection/sketch.ts';
import { basisShape, type ProjectedSlot } from '../../src/galore/slot.ts';
import { StepDesk } from '../../src/coordinator/step-desk.ts';
import { ProtocolError } from '../../src/errors.ts';
import { CLOSE_CODES } from '../../src/protocol/close-codes.ts';
import { crc32c } from '../../src/protocol/crc32c.ts';
import { decodeEnvelope } from '../../src/protocol/envelope.ts';
import { orthonormalMatrix } from '../galore/matrices.ts';
import { bytesFor, contributionOf, partsOf, tinyRun } from './tiny-run.ts';

const RUN = tinyRun();
const { config, shape, projected } = RUN;
const SLOTS = projected.slice(0, 4);
const FIRST = { step: 5, round: 1 } as const;

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
  const bytes = bytesFor(shape.sizes[0]?.payload, 'a', 5, 0);
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
  const place = { sequence: 1, step: 5, previousDigest: new Uint8Array(32) };
  const received = [{ trainerId: 'b', tokens: 9, lossSum: 1 }];
  const shards = [{ trainerId: 'b', positions: [1, 2] }];
  const cursor = { next: 3, returned: [] };
  const { frames } = desk.sealUpdate(place, { type: 'commitUpdate', step: 5, received, shards, cursor });
  const parts = frames
    .map((frame) => decodeEnvelope(frame, 'coordinator'))
    .filter(({ kind }) => kind === 'part');
  t.deepEqual(
    parts.map((part) => (part.kind === 'part' ? Uint8Array.from(part.payload) : null)),
    contributionOf(RUN, 5, 'b').map(({ payload }) => payload),
  );
});
