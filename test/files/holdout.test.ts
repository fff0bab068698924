import test from 'ava';
import fc from 'fast-check';
import {
  chooseHoldout,
  emptyTally,
  needsPieces,
  splitPieceLength,
  tallyUnit,
} from '../../src/files/holdout.ts';
import { derive, randomUint32 } from '../../src/random.ts';

interface Unit {
  readonly hash: number;
  readonly length: number;
}

const heldOutLength = (units: readonly Unit[], share: number): number => {
  const tally = emptyTally();
  for (const { hash, length } of units) tallyUnit(tally, hash, length);
  const { below, length: told } = chooseHoldout(tally, share);
  const heldOut = units.filter(({ hash }) => hash < below).reduce((sum, { length }) => sum + length, 0);
  if (told !== heldOut) throw new Error(`told ${told}, is ${heldOut}`);
  return heldOut;
};

const unitsOf = (lengths: readonly number[], seed: number): Unit[] =>
  lengths.map((length, i) => ({ length, hash: randomUint32(derive(seed, 'units'), i) }));

test('the held-out text misses the wanted share by no more than the longest unit', (t) => {
  const lengths = fc.array(fc.integer({ min: 1, max: 1000 }), { minLength: 2, maxLength: 300 });
  fc.assert(
    fc.property(
      lengths,
      fc.nat(1000),
      fc.double({ min: 0.001, max: 0.5, noNaN: true }),
      (all, seed, share) => {
        const units = unitsOf(all, seed);
        const total = all.reduce((sum, length) => sum + length, 0);
        // Two units in one bucket of 65536 stay together, hence twice.
        return Math.abs(heldOutLength(units, share) - share * total) <= 2 * Math.max(...all);
      },
    ),
  );
  t.pass();
});

test('at least one unit is held out and at least one is not', (t) => {
  const units = unitsOf([100, 100], 1);
  t.is(heldOutLength(units, 0.0001), 100);
  t.is(heldOutLength(units, 0.5), 100);
});

test('nothing is held out with a share of 0, or from a single unit', (t) => {
  t.is(heldOutLength(unitsOf([5, 6, 7], 2), 0), 0);
  t.is(heldOutLength(unitsOf([5], 2), 0.5), 0);
  t.is(heldOutLength([], 0.5), 0);
});

test('the order of the units does not matter', (t) => {
  const units = unitsOf(
    Array.from({ length: 50 }, (_, i) => i + 1),
    4,
  );
  t.is(heldOutLength(units, 0.1), heldOutLength(units.toReversed(), 0.1));
});

test('pieces are small for a small text and 64 Ki for a large one', (t) => {
  t.is(splitPieceLength(10_000, 0.02), 1024);
  t.is(splitPieceLength(1_000_000, 0.02), 5000); // four pieces make the held-out 20 000
  t.is(splitPieceLength(1e10, 0.02), 65536);
  t.is(splitPieceLength(1e10, 0), 1024);
});

test('documents are split where they are few, or where whole ones miss the share by more than half of it', (t) => {
  const holdout = (length: number): { below: number; length: number } => ({ below: 1, length });
  t.true(needsPieces(19, holdout(20), 1000, 0.02));
  t.false(needsPieces(20, holdout(20), 1000, 0.02));
  t.false(needsPieces(20, holdout(30), 1000, 0.02));
  t.true(needsPieces(20, holdout(31), 1000, 0.02));
  t.true(needsPieces(20, holdout(9), 1000, 0.02));
});
