/**
 * Which sequences a step takes and who gets them, and where the data order stands afterwards. Pure
 * arithmetic on positions; what a position means is the data set's business.
 */
import type { Cursor, Shard } from './state.ts';

/** The next `count` positions: those that came back first, then new ones. The result ascends in each part. */
export function takePositions(cursor: Cursor, count: number): readonly number[] {
  const returned = cursor.returned.slice(0, count);
  const fresh = Array.from({ length: count - returned.length }, (_, i) => cursor.next + i);
  return [...returned, ...fresh];
}

/**
 * The cursor after a step that took `count` positions and used only `used` of them: the others come
 * back. Each position is therefore used exactly once.
 */
export function spendPositions(cursor: Cursor, count: number, used: readonly number[]): Cursor {
  const taken = takePositions(cursor, count);
  const isUsed = new Set(used);
  const isTaken = new Set(taken);
  const returned = [
    ...taken.filter((position) => !isUsed.has(position)),
    ...cursor.returned.filter((position) => !isTaken.has(position)),
  ].sort((a, b) => a - b);
  const freshCount = Math.max(0, count - cursor.returned.length);
  return { next: cursor.next + freshCount, returned };
}

/**
 * Contiguous shares of `positions` for the trainers in the given order, sizes differing by at most one,
 * the larger ones first. A trainer without a share does not appear. One that has a capacity gets the shares of so many
 * trainers in its place.
 */
export function shardEqually(
  positions: readonly number[],
  trainerIds: readonly string[],
  capacityOf: (trainerId: string) => number = () => 1,
): readonly Shard[] {
  const capacities = trainerIds.map(capacityOf);
  const total = capacities.reduce((sum, capacity) => sum + capacity, 0);
  const smallest = Math.floor(positions.length / Math.max(1, total));
  let larger = positions.length - smallest * total;
  const sizes = capacities.map((capacity) => {
    const more = Math.min(capacity, larger);
    larger -= more;
    return smallest * capacity + more;
  });
  return cutShards(positions, trainerIds, sizes);
}

/** Contiguous shares of these sizes. A trainer whose share is empty does not appear. */
export function cutShards(
  positions: readonly number[],
  trainerIds: readonly string[],
  sizes: readonly number[],
): readonly Shard[] {
  let from = 0;
  const shards = trainerIds.map((trainerId, i): Shard => {
    const to = from + sizes[i]!;
    const shard = { trainerId, positions: positions.slice(from, to) };
    from = to;
    return shard;
  });
  return shards.filter((shard) => shard.positions.length > 0);
}

/** Ids of the trainers that hold these shards (or jobs), in their order, each once. */
export function membersOf(shards: readonly { readonly trainerId: string }[]): readonly string[] {
  return [...new Set(shards.map((shard) => shard.trainerId))];
}
