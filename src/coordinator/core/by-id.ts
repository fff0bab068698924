/**
 * Lists ascending by trainer id, as the core keeps them: found in by halving and changed in one place, so that an event
 * costs with thousands of trainers hardly more than with two. Pure.
 */

interface HasId {
  readonly trainerId: string;
}

/** Where the trainer is, or would be to keep the order. */
function placeOf(list: readonly HasId[], trainerId: string): number {
  let [from, to] = [0, list.length];
  while (from < to) {
    const middle = (from + to) >> 1;
    if (list[middle]!.trainerId < trainerId) from = middle + 1;
    else to = middle;
  }
  return from;
}

/** Its index in a list that ascends; -1: it is not there. */
export function indexOfId(list: readonly HasId[], trainerId: string): number {
  const place = placeOf(list, trainerId);
  return list[place]?.trainerId === trainerId ? place : -1;
}

/** Whether it is in a list that ascends. */
export function hasId(list: readonly HasId[], trainerId: string): boolean {
  return indexOfId(list, trainerId) >= 0;
}

/** The list, which ascends, with one more; after those with the same id. */
export function insertById<T extends HasId>(list: readonly T[], item: T): readonly T[] {
  let place = placeOf(list, item.trainerId);
  while (list[place]?.trainerId === item.trainerId) place += 1;
  return list.toSpliced(place, 0, item);
}
