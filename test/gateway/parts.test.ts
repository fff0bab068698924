/** What a gateway makes of messages, and what a coordinator accepts of it. */
import test from 'ava';
import { shardEqually } from '../../src/coordinator/core/assignment.ts';
import { gatewayFault } from '../../src/coordinator/gateway-fault.ts';
import { summedMembers } from '../../src/coordinator/summed-members.ts';
import { codecFor } from '../../src/galore/codec/codec.ts';
import { StepDesk } from '../../src/coordinator/step-desk.ts';
import type { Member } from '../../src/protocol/messages.ts';
import { summedContribution, summedEvaluation } from '../../src/gateway/core/summed-answers.ts';
import { selectSequences } from '../../src/gateway/split-sequences.ts';
import { crc32c } from '../../src/protocol/crc32c.ts';
import { contributionOf, tinyRun } from '../coordinator/tiny-run.ts';

test('with capacities the shares are those of so many trainers in the same places', (t) => {
  const positions = Array.from({ length: 13 }, (_, i) => i);
  const eight = shardEqually(positions, [...'abcdefgh']);
  const two = shardEqually(positions, ['x', 'y'], (id) => (id === 'x' ? 3 : 5));
  t.deepEqual(
    [...shardEqually(two[0]!.positions, [...'abc']), ...shardEqually(two[1]!.positions, [...'defgh'])],
    eight,
  );
});

test('sequences are cut row by row, with masks, labels and places', (t) => {
  const sequences = {
    positions: [7, 8, 9],
    length: 3,
    tokens: Int32Array.of(1, 2, 3, 4, 5, 6, 7, 8, 9),
    mask: Uint8Array.of(1, 0, 1, 1, 0, 1),
    labelled: { classes: Int32Array.of(4, 5, 6), lengths: Int32Array.of(3, 2, 1) },
  };
  t.deepEqual(selectSequences(sequences, [0, 2]), {
    positions: [7, 9],
    length: 3,
    tokens: Int32Array.of(1, 2, 3, 7, 8, 9),
    mask: Uint8Array.of(1, 0, 0, 1),
    labelled: { classes: Int32Array.of(4, 6), lengths: Int32Array.of(3, 1) },
  });
});

test('a contribution of several says tokens, losses and weights of all together', (t) => {
  const received = [
    { trainerId: 'a', tokens: 4, lossSum: 8, weight: 100 },
    { trainerId: 'b', tokens: 12, lossSum: null, weight: 12 },
  ];
  const shards = [{ trainerId: 'a', positions: [3] }];
  t.deepEqual(summedContribution(5, received, shards, true), {
    ...{ kind: 'contribution', step: 5, tokens: 16, weight: 112 },
    lossSum: 32, // as if the mean of b were that of a
    members: [
      { trainerId: 'a', tokens: 4, positions: [3], weight: 100 },
      { trainerId: 'b', tokens: 12, positions: [] },
    ],
  });
  t.deepEqual(summedContribution(5, [], [], false), { kind: 'contribution', step: 5, tokens: 0, lossSum: 0 });
  const parts = [
    { trainerId: 'a', tokens: 4, lossSum: 8, correct: 1 },
    { trainerId: 'b', tokens: 2, lossSum: 1 },
  ];
  t.deepEqual(summedEvaluation(3, parts), { kind: 'evaluation', step: 3, tokens: 6, lossSum: 9, correct: 1 });
});

test('members that cannot be are refused by what is wrong with them', (t) => {
  const context = { gateway: 'g', positions: [1, 2, 3], isWeighed: false, others: new Set(['z']) };
  const a: Member = { trainerId: 'a', tokens: 8, positions: [1] };
  const b: Member = { trainerId: 'b', tokens: 8, positions: [2] };
  t.deepEqual(summedMembers({ tokens: 16, members: [a, b] }, context), [
    { ...a, gateway: 'g' },
    { ...b, gateway: 'g' },
  ]);
  const faults: readonly [RegExp, Parameters<typeof summedMembers>[0], object?][] = [
    [/has a twice/, { tokens: 16, members: [a, { ...b, trainerId: 'a' }] }],
    [/has z, which has a part in the step elsewhere/, { tokens: 8, members: [{ ...a, trainerId: 'z' }] }],
    [/has sequence 4, which it was not given/, { tokens: 8, members: [{ ...a, positions: [4] }] }],
    [/has sequence 1 twice/, { tokens: 16, members: [a, { ...b, positions: [1] }] }],
    [/has 20 tokens, and those of its trainers are 16/, { tokens: 20, members: [a, b] }],
    [/has no token of a/, { tokens: 0, members: [{ ...a, tokens: 0 }] }],
    [
      /weighs 5, and its trainers together 16/,
      { tokens: 16, weight: 5, members: [a, b] },
      { isWeighed: true },
    ],
  ];
  for (const [pattern, message, more] of faults) {
    const refused = summedMembers(message, { ...context, ...more });
    t.regex('fault' in refused ? refused.fault : '', pattern);
  }
});

test('a run takes gateways of its own version, unless it judges each contribution or goes by the size of each site', (t) => {
  const { config } = tinyRun();
  t.is(gatewayFault(config, { software: 'x 1' }, 'x 1'), null);
  t.like(gatewayFault(config, { software: 'x 2' }, 'x 1'), { reason: 'PROTOCOL_VERSION' });
  const { config: clipping } = tinyRun('coordinator.outliers=clip');
  t.regex(
    gatewayFault(clipping, { software: 'x 1' }, 'x 1')?.text ?? '',
    /coordinator\.outliers: clip needs/,
  );
  const bySize = { ...config, coordinator: { ...config.coordinator, sharding: 'examples' as const } };
  t.regex(
    gatewayFault(bySize, { software: 'x 1' }, 'x 1')?.text ?? '',
    /coordinator\.sharding: examples needs the size of each site/,
  );
});

test('the sum of sums is the sum: what two gateways send adds up to what four trainers send', (t) => {
  const run = tinyRun();
  const { config, shape } = run;
  const tokens = 8;
  const ids = ['a', 'b', 'c', 'd'];
  const deskOf = (members: readonly string[]): StepDesk => {
    const desk = new StepDesk(config, shape, 1);
    for (const [i, trainerId] of members.entries()) {
      desk.assigned({
        ...{ type: 'assignStep', trainerId, step: 2, positions: [i], refreshSlots: [], waitMs: 0 },
      });
    }
    for (const trainerId of members) {
      const parts = contributionOf(run, 2, trainerId);
      for (const part of parts) desk.acceptPart(trainerId, part);
      const checksum = parts.reduce((crc, { payload }) => crc32c(payload, crc), 0);
      desk.acceptContribution(trainerId, { kind: 'contribution', step: 2, tokens, lossSum: 1, checksum });
    }
    return desk;
  };
  const sumsOf = (members: readonly string[]): ReadonlyMap<number, Float32Array> => {
    const received = members.map((trainerId) => ({ trainerId, tokens, lossSum: 1 }));
    const sums = deskOf(members).sumContributions('g', 2, received);
    return new Map(
      [...sums].map(({ tensor, codec, bytes }) => [tensor, codecFor(codec).decode(bytes, bytes.length / 4)]),
    );
  };
  const [all, left, right] = [sumsOf(ids), sumsOf(['a', 'b']), sumsOf(['c', 'd'])];
  t.true(all.size > 0);
  for (const [slot, values] of all) {
    const difference = values.map((value, i) =>
      Math.abs(value - (left.get(slot)![i]! + right.get(slot)![i]!) / 2),
    );
    t.true(Math.max(...difference) < 1e-7);
  }
});
