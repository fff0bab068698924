import test from 'ava';
import { sealBases } from '../../src/coordinator/records.ts';
import { sealUpdate, type UpdateInput, type WeightedTensors } from '../../src/coordinator/update-sums.ts';
import { Staging } from '../../src/coordinator/staging.ts';
import { codecFor } from '../../src/galore/codec/codec.ts';
import { payloadShape, sizeOf } from '../../src/galore/slot.ts';
import { FIRST_DIGEST, recordDigest } from '../../src/protocol/digest.ts';
import { decodeEnvelope } from '../../src/protocol/envelope.ts';
import { payloadSize, sameCodec } from '../../src/protocol/slot-sizes.ts';
import { derive } from '../../src/random.ts';
import { bytesFor, contributionOf, tinyRun } from './tiny-run.ts';

const RUN = tinyRun();
const { shape, projected } = RUN;
const ALL = shape.slots.map(({ index }) => index);
const PLACE = { sequence: 4, step: 5, previousDigest: FIRST_DIGEST };

/** Contributions of a (3 of 4 tokens) and b, staged in the order given. */
function staged(order: 'a first' | 'b first' | 'in turn'): WeightedTensors[] {
  const staging = new Staging(shape.slots, shape.sizes, shape.refresh.rounds);
  staging.open({ step: 5, round: 0 });
  const [a, b] = ['a', 'b'].map((trainerId) =>
    contributionOf(RUN, 5, trainerId).map((part) => ({ trainerId, part })),
  );
  const arrivals = {
    'a first': [...a!, ...b!],
    'b first': [...b!, ...a!],
    'in turn': a!.flatMap((x, i) => [b![i]!, x]),
  };
  for (const { trainerId, part } of arrivals[order]) staging.accept(trainerId, part);
  return ['a', 'b'].map((trainerId, i) => ({
    weight: i === 0 ? 0.75 : 0.25,
    tensors: staging.take(trainerId, 'contribution', ALL),
  }));
}

function input(fields: Partial<UpdateInput> = {}): UpdateInput {
  return {
    slots: shape.slots,
    codecs: shape.codecs,
    seed: 1,
    learningRate: 0.01,
    maxGradNorm: undefined,
    contributions: staged('a first'),
    received: [
      { trainerId: 'a', tokens: 9, lossSum: 2 },
      { trainerId: 'b', tokens: 3, lossSum: 1 },
    ],
    shards: [
      { trainerId: 'a', positions: [1, 2] },
      { trainerId: 'b', positions: [3] },
    ],
    cursor: { next: 4, returned: [] },
    ...fields,
  };
}

/** The numbers of each Part of a record whose parts are whole tensors. */
function tensorsOf(frames: readonly Uint8Array[]): Float32Array[] {
  return frames.flatMap((frame) => {
    const message = decodeEnvelope(frame, 'coordinator');
    return message.kind === 'part' ? [codecFor('f32').decode(message.payload, message.totalBytes / 4)] : [];
  });
}

test('the order in which contributions arrive does not change a byte of the record', (t) => {
  const { frames } = sealUpdate(PLACE, input());
  for (const order of ['b first', 'in turn'] as const) {
    t.deepEqual(sealUpdate(PLACE, input({ contributions: staged(order) })).frames, frames, order);
  }
});

test('an update is the weighted sum of the contributions, slot by slot', (t) => {
  const sums = tensorsOf(sealUpdate(PLACE, input()).frames);
  t.is(sums.length, ALL.length);
  for (const [index, sum] of sums.entries()) {
    const [a, b] = ['a', 'b'].map((id) =>
      codecFor('f32').decode(
        bytesFor(payloadSize(shape.sizes[index]!, 'contribution', 5), id, 5, index),
        sum.length,
      ),
    );
    t.deepEqual(
      sum,
      sum.map((_, i) => 0.75 * a![i]! + 0.25 * b![i]!),
    );
  }
});

test('the Commit says who took part, with how many tokens, and where the data stands', (t) => {
  const { commit, frames } = sealUpdate(PLACE, input());
  t.like(commit, { sequence: 4, step: 5 });
  t.deepEqual(commit.record.type === 'update' && commit.record.members, [
    { trainerId: 'a', tokens: 9, positions: [1, 2] },
    { trainerId: 'b', tokens: 3, positions: [3] },
  ]);
  t.like(commit.record, { tokens: 12, lossSum: 3, learningRate: 0.01, cursor: { next: 4, returned: [] } });
  t.deepEqual(commit.digest, recordDigest(FIRST_DIGEST, 4, 5, frames.slice(0, -1)));
});

test('clipping scales the sum to the norm wanted and states the norm before', (t) => {
  const { commit } = sealUpdate(PLACE, input());
  const norm = commit.record.type === 'update' ? commit.record.gradientNorm : NaN;
  const clipped = sealUpdate(PLACE, input({ maxGradNorm: norm / 2 }));
  t.is(clipped.commit.record.type === 'update' && clipped.commit.record.gradientNorm, norm);
  const squares = tensorsOf(clipped.frames).flatMap((values) => [...values].map((x) => x * x));
  const after = Math.sqrt(squares.reduce((sum, x) => sum + x, 0));
  t.true(Math.abs(after / (norm / 2) - 1) < 1e-5, `${after} of ${norm}`);
});

test('a record of bases names the slots it has and those that keep theirs', (t) => {
  const [first = 0, second = 0, third = 0] = projected;
  const basis = (index: number): Uint8Array => bytesFor(shape.sizes[index]?.basis, index);
  const bases = new Map([third, first].map((index) => [index, { bytes: basis(index) }]));
  const { commit, frames } = sealBases(PLACE, [first, second, third], bases);
  t.deepEqual(commit.record, {
    type: 'basis',
    slots: [first, third],
    keptSlots: [second],
    isGenerated: false,
    ranks: [],
    similarities: [],
  });
  t.is(frames.length, 3);
});

test('without a basis for any slot a record is its Commit alone', (t) => {
  const { frames } = sealBases(PLACE, projected, new Map());
  t.is(frames.length, 1);
});

test('a quantised record is the same for the same step and another for the next', (t) => {
  const slot = { name: 'w', shape: [64, 64], index: 0, policy: 'dense', rule: 'adamw' } as const;
  const bytes = codecFor('f32').encode(
    Float32Array.from({ length: sizeOf(payloadShape(slot, 5)) }, (_, i) => Math.sin(i)),
    derive(1, 'values'),
  );
  const contributions = [{ weight: 1, tensors: new Map([[0, { codec: 'f32' as const, bytes }]]) }];
  const seal = (step: number) =>
    sealUpdate(
      { ...PLACE, step },
      input({ slots: [slot], codecs: sameCodec([slot], 'int8'), contributions }),
    );
  t.deepEqual(seal(5).frames, seal(5).frames);
  const [part, next] = [seal(5), seal(6)].map(({ frames }) => decodeEnvelope(frames[0]!, 'coordinator'));
  t.notDeepEqual(part?.kind === 'part' && part.payload, next?.kind === 'part' && next.payload);
});
