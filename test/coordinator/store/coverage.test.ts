import test from 'ava';
import fc from 'fast-check';
import { shardEqually, spendPositions, takePositions } from '../../../src/coordinator/core/assignment.ts';
import type { Cursor } from '../../../src/coordinator/core/state.ts';
import { CoverageFold, type Coverage } from '../../../src/coordinator/store/coverage.ts';
import type { UpdateFacts } from '../../../src/coordinator/store/journal-format.ts';
import { MembershipFold } from '../../../src/coordinator/store/membership.ts';

const FIRST: Cursor = { next: 0, returned: [] };

type Shares = Readonly<Record<string, readonly number[]>>;

function update(step: number, shares: Shares, cursor: Cursor): UpdateFacts {
  const members = Object.entries(shares).map(([trainerId, positions]) => ({
    trainerId,
    tokens: 10 * positions.length,
    positions,
  }));
  return { step, learningRate: 0.1, tokens: 1, lossSum: 1, gradientNorm: 1, members, cursor };
}

function cover(
  updates: readonly UpdateFacts[],
  epochSequences: number | null,
  start: Cursor = FIRST,
): Coverage {
  const fold = new CoverageFold(start);
  updates.forEach((facts) => fold.add(facts));
  return fold.report(epochSequences);
}

/** Four sequences a step, ten an epoch; b is lost in step 2 and its share goes to a in step 3. */
const SOUND = [
  update(1, { a: [0, 1], b: [2, 3] }, { next: 4, returned: [] }),
  update(2, { a: [4, 5] }, { next: 8, returned: [6, 7] }),
  update(3, { a: [6, 7, 8, 9] }, { next: 10, returned: [] }),
  update(4, { a: [10, 11], c: [12] }, { next: 14, returned: [13] }),
];

test('sequences of a lost trainer are used later, once, and epochs are told apart', (t) => {
  const none = { before: 0, repeated: 0, lost: 0 };
  t.deepEqual(cover(SOUND, 10), {
    epochs: [
      { epoch: 1, sequences: 10, ...none, once: 10, owed: 0, ahead: 0 },
      { epoch: 2, sequences: 10, ...none, once: 3, owed: 1, ahead: 6 },
    ],
    used: 13,
    duplicates: 0,
    missing: 0,
    owed: 1,
    isExact: true,
    firstDuplicates: [],
    firstMissing: [],
  });
  const { epochs, isExact } = cover(SOUND, null);
  t.true(isExact);
  t.deepEqual(epochs, [{ epoch: null, sequences: null, ...none, once: 13, owed: 1, ahead: null }]);
});

test('behind a cursor what it says is used counts as used, and what it owes is expected', (t) => {
  const { isExact, used, epochs } = cover(SOUND.slice(2), 10, SOUND[1]!.cursor);
  t.true(isExact);
  t.is(used, 7);
  t.like(epochs[0], { epoch: 1, before: 6, once: 4, lost: 0 });
  // Without what it owes, the two sequences of b are gone.
  const lost = cover(SOUND.slice(2), 10, { next: 8, returned: [] });
  t.false(lost.isExact);
  t.deepEqual(
    lost.firstDuplicates.map(({ position, wasUsedBefore }) => [position, wasUsedBefore]),
    [
      [6, true],
      [7, true],
    ],
  );
});

test('a sequence used twice is told with steps and trainers', (t) => {
  const twice = SOUND.with(3, update(4, { a: [10, 11, 5], c: [12] }, { next: 14, returned: [13] }));
  const { isExact, duplicates, missing, firstDuplicates, epochs } = cover(twice, 10);
  t.false(isExact);
  t.deepEqual([duplicates, missing], [1, 0]);
  t.deepEqual(firstDuplicates, [
    {
      position: 5,
      uses: [
        { step: 2, trainerId: 'a' },
        { step: 4, trainerId: 'a' },
      ],
      wasUsedBefore: false,
      isOwed: false,
    },
  ]);
  t.like(epochs[0], { once: 9, repeated: 1 });
});

test('a sequence used by two trainers of one step, or used and still owed, is no better', (t) => {
  const both = SOUND.with(0, update(1, { a: [0, 1, 2], b: [2, 3] }, { next: 4, returned: [] }));
  t.deepEqual(cover(both, 10).firstDuplicates[0]!.uses, [
    { step: 1, trainerId: 'a' },
    { step: 1, trainerId: 'b' },
  ]);
  const owed = SOUND.with(3, update(4, { a: [10, 11], c: [12] }, { next: 14, returned: [12, 13] }));
  t.like(cover(owed, 10).firstDuplicates[0], { position: 12, isOwed: true });
});

test('a sequence that is neither used nor given back is lost in that step', (t) => {
  const lost = SOUND.with(1, update(2, { a: [4, 5] }, { next: 8, returned: [7] })).with(
    2,
    update(3, { a: [7, 8, 9] }, { next: 10, returned: [] }),
  );
  const { isExact, missing, firstMissing, epochs } = cover(lost, 10);
  t.false(isExact);
  t.is(missing, 1);
  t.deepEqual(firstMissing, [{ position: 6, step: 2 }]);
  t.like(epochs[0], { once: 9, lost: 1 });
});

test('a sequence used before it was handed out is found', (t) => {
  const early = SOUND.with(0, update(1, { a: [0, 1, 9], b: [2, 3] }, { next: 4, returned: [] }));
  t.deepEqual(cover(early, 10).firstDuplicates[0], {
    position: 9,
    uses: [
      { step: 1, trainerId: 'a' },
      { step: 3, trainerId: 'a' },
    ],
    wasUsedBefore: false,
    isOwed: false,
  });
});

test('whoever is lost when, what the coordinator does is exact, and one wrong position is not', (t) => {
  const step = fc.record({ batch: fc.integer({ min: 1, max: 9 }), present: fc.subarray(['a', 'b', 'c']) });
  const holds = fc.property(fc.array(step, { minLength: 1, maxLength: 20 }), fc.nat(), (steps, pick) => {
    let cursor = FIRST;
    const updates = steps.map(({ batch, present }, i) => {
      const taken = takePositions(cursor, batch);
      const shards = shardEqually(taken, ['a', 'b', 'c']).filter(({ trainerId }) =>
        present.includes(trainerId as 'a'),
      );
      const used = shards.flatMap(({ positions }) => positions);
      cursor = spendPositions(cursor, batch, used);
      const shares = Object.fromEntries(shards.map(({ trainerId, positions }) => [trainerId, positions]));
      return update(i + 1, shares, cursor);
    });
    const whole = cover(updates, 7);
    if (!whole.isExact) return false;
    const middle = pick % updates.length;
    const rest = cover(updates.slice(middle + 1), 7, updates[middle]!.cursor);
    if (!rest.isExact || rest.used > whole.used) return false;
    // One position of one share is another one.
    const used = updates.flatMap(({ members }) => members.flatMap(({ positions }) => positions));
    const victim = used[pick % Math.max(1, used.length)];
    if (victim === undefined) return true;
    const changed = updates.map((facts) => ({
      ...facts,
      members: facts.members.map((member) => ({
        ...member,
        positions: member.positions.map((position) => (position === victim ? victim + 1 : position)),
      })),
    }));
    return !cover(changed, 7).isExact;
  });
  t.notThrows(() => fc.assert(holds));
});

test('a trainer that goes and comes back has two spans, and shares are of what all did', (t) => {
  const fold = new MembershipFold();
  SOUND.forEach((facts) => fold.add(facts));
  fold.add(update(5, { b: [13] }, { next: 14, returned: [] }));
  t.deepEqual(fold.steps, { from: 1, to: 5 });
  const [a, b, c] = fold.report();
  t.deepEqual(a, {
    trainerId: 'a',
    steps: 4,
    spans: [{ from: 1, to: 4 }],
    sequences: 10,
    tokens: 100,
    sequenceShare: 10 / 14,
    tokenShare: 10 / 14,
  });
  t.deepEqual(b!.spans, [
    { from: 1, to: 1 },
    { from: 5, to: 5 },
  ]);
  t.like(c, { trainerId: 'c', steps: 1, sequences: 1 });
});
