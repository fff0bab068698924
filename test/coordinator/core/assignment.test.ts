// Properties of the assignment of sequences and slots, with random cursors, batches and trainers.
import test from 'ava';
import fc from 'fast-check';
import {
  membersOf,
  shardEqually,
  spendPositions,
  takePositions,
} from '../../../src/coordinator/core/assignment.ts';
import { refreshSlots } from '../../../src/coordinator/core/refresh-schedule.ts';
import { dealSlots } from '../../../src/coordinator/core/refresh.ts';
import type { Cursor } from '../../../src/coordinator/core/state.ts';
import { PLAN } from './plan.ts';

const trainerIds = fc.uniqueArray(fc.stringMatching(/^[a-z0-9]{1,4}$/), { minLength: 1, maxLength: 9 });
const slotLists = fc.uniqueArray(fc.nat(99), { minLength: 1, maxLength: 20 });

const cursors = fc
  .tuple(fc.nat(1000), fc.uniqueArray(fc.nat(999), { maxLength: 40 }))
  .map(([next, returned]): Cursor => {
    return { next, returned: returned.filter((position) => position < next).sort((a, b) => a - b) };
  });

test('returned positions are taken first, then new ones, without a gap', (t) => {
  const cursor = { next: 10, returned: [3, 7] };
  t.deepEqual(takePositions(cursor, 4), [3, 7, 10, 11]);
  t.deepEqual(takePositions(cursor, 1), [3]);
  t.deepEqual(takePositions(cursor, 2), [3, 7]);
});

test('the shards of a step are contiguous, in trainer order, and differ by at most one', (t) => {
  // 7 = 3 + 2 + 2, the larger share first.
  t.deepEqual(
    shardEqually([5, 6, 7, 8, 9, 10, 11], ['a', 'b', 'c']).map(({ positions }) => positions),
    [
      [5, 6, 7],
      [8, 9],
      [10, 11],
    ],
  );
  fc.assert(
    fc.property(fc.nat(60), trainerIds, (count, ids) => {
      const positions = Array.from({ length: count }, (_, i) => 100 + i);
      const shards = shardEqually(positions, ids);
      const sizes = shards.map((shard) => shard.positions.length);
      t.deepEqual(
        shards.flatMap((shard) => shard.positions),
        positions,
      );
      t.deepEqual(membersOf(shards), ids.slice(0, Math.min(count, ids.length)));
      t.true(sizes.every((size, i) => size > 0 && size <= (sizes[i - 1] ?? size)));
      t.true(Math.max(0, ...sizes) - Math.min(...sizes, Math.max(0, ...sizes)) <= 1);
    }),
  );
});

test('a trainer without a sequence is not a member', (t) => {
  t.deepEqual(membersOf(shardEqually([1, 2], ['a', 'b', 'c'])), ['a', 'b']);
  t.deepEqual(shardEqually([], ['a']), []);
});

test('every position is either used, or comes back, or is still to come: never two of these', (t) => {
  fc.assert(
    fc.property(
      cursors,
      fc.integer({ min: 1, max: 30 }),
      fc.infiniteStream(fc.boolean()),
      (cursor, count, coin) => {
        const taken = takePositions(cursor, count);
        const used = taken.filter(() => coin.next().value);
        const after = spendPositions(cursor, count, used);
        const known = [...cursor.returned, ...taken.filter((position) => position >= cursor.next)];
        t.is(taken.length, count);
        t.is(new Set(taken).size, count);
        t.deepEqual(
          [...used, ...after.returned].sort((a, b) => a - b),
          known.sort((a, b) => a - b),
        );
        t.deepEqual(
          after.returned,
          [...after.returned].sort((a, b) => a - b),
        );
        t.is(after.next, Math.max(cursor.next, ...taken.map((position) => position + 1)));
      },
    ),
  );
});

test('over many steps with members falling out no position is used twice and none is passed over', (t) => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 8 }), fc.array(fc.nat(255), { maxLength: 30 }), (count, masks) => {
      let cursor: Cursor = { next: 0, returned: [] };
      const used: number[] = [];
      for (const mask of masks) {
        const kept = takePositions(cursor, count).filter((_, i) => ((mask >> i) & 1) === 1);
        used.push(...kept);
        cursor = spendPositions(cursor, count, kept);
      }
      const all = [...used, ...cursor.returned].sort((a, b) => a - b);
      t.deepEqual(
        all,
        Array.from({ length: cursor.next }, (_, i) => i),
      );
    }),
  );
});

test('the slots of a refresh are dealt out whole, each once, and their numbers differ by at most one', (t) => {
  fc.assert(
    fc.property(slotLists, trainerIds, (slots, ids) => {
      const jobs = dealSlots(slots, ids);
      const sizes = jobs.map((job) => job.slots.length);
      t.deepEqual(jobs.flatMap((job) => job.slots).sort(), [...slots].sort());
      t.true(Math.max(...sizes) - Math.min(...sizes) <= 1);
      t.deepEqual(membersOf(jobs), ids.slice(0, Math.min(slots.length, ids.length)));
    }),
  );
});

test('staggered, every slot is refreshed once in any T steps after the first', (t) => {
  fc.assert(
    fc.property(slotLists, fc.integer({ min: 1, max: 30 }), fc.nat(100), (projectedSlots, gap, skip) => {
      const plan = { ...PLAN, projectedSlots, updateProjGap: gap, isStaggered: true };
      const steps = Array.from({ length: gap }, (_, i) => 2 + skip + i);
      const turns = steps.flatMap((step) => refreshSlots(plan, step));
      t.deepEqual([...turns].sort(), [...projectedSlots].sort());
      t.deepEqual(refreshSlots(plan, 1), projectedSlots);
      // Flat: no step refreshes more than its share, rounded up.
      const most = Math.max(...steps.map((step) => refreshSlots(plan, step).length));
      t.true(most <= Math.ceil(projectedSlots.length / gap));
    }),
  );
});

test('unstaggered, all slots are refreshed together every T steps, and without slots nothing is', (t) => {
  const plan = { ...PLAN, projectedSlots: [2, 5], updateProjGap: 3 };
  const steps = [1, 2, 3, 4, 5, 6, 7];
  t.deepEqual(
    steps.filter((step) => refreshSlots(plan, step).length > 0),
    [1, 4, 7],
  );
  t.deepEqual(
    steps.flatMap((step) => refreshSlots({ ...plan, projectedSlots: [] }, step)),
    [],
  );
});
