import test from 'ava';
import { MAX_SITE_WEIGHT, sharesOf, weightFault, weightOf } from '../../src/coordinator/weights.ts';
import { StepDesk } from '../../src/coordinator/step-desk.ts';
import { ProtocolError } from '../../src/errors.ts';
import { codecFor } from '../../src/galore/codec/codec.ts';
import { CLOSE_CODES } from '../../src/protocol/close-codes.ts';
import { crc32c } from '../../src/protocol/crc32c.ts';
import { decodeEnvelope } from '../../src/protocol/envelope.ts';
import type { PartMessage } from '../../src/protocol/messages.ts';
import { contributionOf, tinyRun } from './tiny-run.ts';

const PLACE = { sequence: 1, step: 5, previousDigest: new Uint8Array(32) };

test('a contribution counts by its tokens, or by its weight where it has one', (t) => {
  t.deepEqual(sharesOf([{ tokens: 1 }, { tokens: 3 }]), [1 / 4, 3 / 4]);
  const weighed = [
    { tokens: 5, weight: 60 },
    { tokens: 5, weight: 20 },
  ];
  t.deepEqual(sharesOf(weighed), [3 / 4, 1 / 4]);
  t.deepEqual(weightOf('targets', 7), {});
  t.deepEqual(weightOf('equal'), { weight: 1 });
  t.deepEqual(weightOf('examples', 7), { weight: 7 });
});

test('only a site says what it weighs: a whole number above 0 and within reason', (t) => {
  for (const weighting of ['targets', 'equal'] as const) {
    t.is(weightFault(weighting, undefined), null);
    t.regex(
      weightFault(weighting, 3)!,
      new RegExp(`weight 3 is declared, but contributions count by ${weighting}`),
    );
  }
  for (const weighting of ['examples', 'tokens'] as const) {
    for (const fine of [1, 738, MAX_SITE_WEIGHT]) t.is(weightFault(weighting, fine), null);
    t.regex(weightFault(weighting, undefined)!, /no weight is declared/);
    for (const wrong of [0, -1, 0.5, MAX_SITE_WEIGHT + 1, Infinity, NaN]) {
      t.regex(weightFault(weighting, wrong)!, new RegExp(`${weighting} are 1 to`), String(wrong));
    }
  }
});

/** A step of two trainers with 9 and 3 tokens. @param declared what each says it weighs */
function sealed(settings: readonly string[], declared: readonly (number | undefined)[]) {
  const run = tinyRun(...settings);
  const desk = new StepDesk(run.config, run.shape, 1);
  const trainerIds = ['a', 'b'];
  const localExamples = run.config.batch_size;
  for (const trainerId of trainerIds) {
    const share = { positions: [1, 2], localExamples };
    desk.assigned({ type: 'assignStep', trainerId, step: 5, ...share, refreshSlots: [], waitMs: 0 });
  }
  const received = trainerIds.map((trainerId, i) => {
    const parts = contributionOf(run, 5, trainerId);
    for (const part of parts) desk.acceptPart(trainerId, part);
    const checksum = parts.reduce((sum, { payload }) => crc32c(payload, sum), 0);
    const weight = declared[i];
    const message = {
      ...{ kind: 'contribution' as const, step: 5, tokens: [9, 3][i]!, lossSum: 1, checksum },
      ...(weight === undefined ? {} : { weight }),
    };
    desk.acceptContribution(trainerId, message);
    return { trainerId, tokens: message.tokens, lossSum: 1, ...desk.weightOf(message) };
  });
  const shards = trainerIds.map((trainerId) => ({ trainerId, positions: [1, 2] }));
  const cursor = { next: 4, returned: [] };
  const record = desk.sealUpdate(PLACE, { type: 'commitUpdate', step: 5, received, shards, cursor });
  const valuesOf = (parts: readonly PartMessage[]) =>
    new Map(
      parts.map(({ tensor, codec, payload, totalBytes }) => [
        tensor,
        codecFor(codec).decode(payload, totalBytes / 4),
      ]),
    );
  const sums = valuesOf(
    record.frames
      .map((frame) => decodeEnvelope(frame, 'coordinator'))
      .filter((message) => message.kind === 'part'),
  );
  const parts = trainerIds.map((trainerId) => valuesOf(contributionOf(run, 5, trainerId)));
  return { sums, parts, record: record.commit.record };
}

for (const { title, settings, declared, shares, members } of [
  {
    title: 'targets',
    settings: [],
    declared: [undefined, undefined],
    shares: [0.75, 0.25],
    members: [undefined, undefined],
  },
  {
    title: 'equal',
    settings: ['local_steps.weighting=equal'],
    declared: [undefined, undefined],
    shares: [0.5, 0.5],
    members: [1, 1],
  },
  {
    title: 'examples',
    settings: ['data={local: true}', 'tokenizer.type=byte', 'local_steps.weighting=examples'],
    declared: [20, 3],
    shares: [20 / 23, 3 / 23],
    members: [20, undefined],
  },
] as const) {
  test(`by ${title} the sum is the weighted mean, and the record has the weights; the loss stays that of tokens`, (t) => {
    const { sums, parts, record } = sealed(['wire.codec=f32', ...settings], declared);
    t.true(sums.size > 5);
    for (const [tensor, values] of sums) {
      const [a, b] = parts.map((part) => part.get(tensor)!) as [Float32Array, Float32Array];
      for (const [i, value] of values.entries()) {
        t.is(value, Math.fround(shares[0] * a[i]! + shares[1] * b[i]!));
      }
    }
    if (record.type !== 'update') return t.fail();
    t.deepEqual(
      record.members.map(({ weight }) => weight),
      [...members],
    );
    t.deepEqual([record.tokens, record.lossSum], [12, 2]);
  });
}

test('a weight that nobody asked for ends the connection, and so does none where one is asked for', (t) => {
  const code = CLOSE_CODES.INVALID_CONTRIBUTION.code;
  const refusal = (settings: readonly string[], declared: readonly (number | undefined)[]) =>
    t.throws(() => sealed(settings, declared), { instanceOf: ProtocolError });
  t.is(refusal([], [5, undefined]).closeCode, code);
  t.is(
    refusal(['data={local: true}', 'tokenizer.type=byte', 'local_steps.weighting=examples'], [5, undefined])
      .closeCode,
    code,
  );
});
