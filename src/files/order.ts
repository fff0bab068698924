/**
 * Which sequence is used at which position of a run. Pure: each epoch is a permutation of the
 * sequences that is computed, not stored, so any position can be asked for alone, on any machine and
 * after any resume. A Feistel network permutes [0, 4^h) and is applied again until the result falls
 * below `count` (cycle walking, Black and Rogaway 2002): fewer than 4 applications on average.
 */
import { derive, randomUint32, type RandomKey } from '../random.ts';

/** With 8 rounds the halves are well mixed even where they have one bit each. */
const ROUNDS = 8;
const MAX_COUNT = 2 ** 48;

/**
 * The index of the sequence at `position`, which counts over epochs from 0: epoch e covers positions
 * e * count to (e + 1) * count - 1, and each sequence once. `sequential` gives every epoch in file order.
 */
export function sequenceAt(
  position: number,
  count: number,
  seed: number,
  order: 'shuffled' | 'sequential',
): number {
  if (!Number.isSafeInteger(count) || count < 1 || count > MAX_COUNT) {
    throw new RangeError(`the number of sequences is ${count}; it must be 1 to ${MAX_COUNT}`);
  }
  if (!Number.isSafeInteger(position) || position < 0) {
    throw new RangeError(`the position is ${position}; it must be an integer from 0`);
  }
  const index = position % count;
  if (order === 'sequential') return index;
  const key = derive(seed, 'order', Math.floor(position / count));
  const halfBits = halfBitsFor(count);
  let permuted = index;
  do permuted = feistel(permuted, halfBits, key);
  while (permuted >= count);
  return permuted;
}

/**
 * Which examples optimizer step k = 0, 1, … of a site uses: places k * batch to (k + 1) * batch - 1 of its own
 * order, so nothing has to be remembered over a stop or an absence. With fewer examples than `batch`
 * one comes several times.
 */
export function siteOrder(seed: number, count: number): (k: number, batch: number) => number[] {
  return (k, batch) =>
    Array.from({ length: batch }, (_, i) => sequenceAt(k * batch + i, count, seed, 'shuffled'));
}

/** The smallest h of at least 1 with 4^h >= count. */
function halfBitsFor(count: number): number {
  let halfBits = 1;
  while (4 ** halfBits < count) halfBits++;
  return halfBits;
}

/** A permutation of [0, 4^halfBits). Arithmetic instead of shifts where a value can pass 2^31. */
function feistel(value: number, halfBits: number, key: RandomKey): number {
  const size = 2 ** halfBits;
  let left = Math.floor(value / size);
  let right = value % size;
  for (let round = 0; round < ROUNDS; round++) {
    const mixed = left ^ (randomUint32(key, round * 2 ** 24 + right) & (size - 1));
    left = right;
    right = mixed;
  }
  return left * size + right;
}
