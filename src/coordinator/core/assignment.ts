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
 * the larger ones first. A trainer without a share does not appear.
 */
export function shardEqually(positions: readonly number[], trainerIds: readonly string[]): readonly Shard[] {
  const smallest = Math.floor(positions.length / Math.max(1, trainerIds.length));
  const larger = positions.length - smallest * trainerIds.length;
  return cutShards(
    positions,
    trainerIds,
    trainerIds.map((_, i) => smallest + (i < larger ? 1 : 0)),
  );
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
