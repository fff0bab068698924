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

/** An item more makes two pieces of one. */
const MOST_IN_PIECE = 128;

/**
 * Items ascending by trainer id, none twice. It never changes: one with another item shares all pieces with it but the
 * one that holds the item, so that an event costs a few hundred pointers with thousands of trainers, not all of them.
 */
export class ById<T extends HasId> implements Iterable<T> {
  readonly length: number;
  /** None is empty. */
  readonly pieces: readonly (readonly T[])[];

  private constructor(pieces: readonly (readonly T[])[], length: number) {
    this.pieces = pieces;
    this.length = length;
  }

  /** @param items of one id the last counts */
  static of<T extends HasId>(items: Iterable<T>): ById<T> {
    let made = new ById<T>([], 0);
    for (const item of items) made = made.with(item);
    return made;
  }

  has(trainerId: string): boolean {
    return this.get(trainerId) !== undefined;
  }

  get(trainerId: string): T | undefined {
    const piece = this.pieces[this.#pieceOf(trainerId)] ?? [];
    return piece[indexOfId(piece, trainerId)];
  }

  /** With this item, in the place of that with its id if there is one. */
  with(item: T): ById<T> {
    const index = this.#pieceOf(item.trainerId);
    const piece = this.pieces[index] ?? [];
    const place = placeOf(piece, item.trainerId);
    const isThere = piece[place]?.trainerId === item.trainerId;
    const changed = isThere ? piece.with(place, item) : piece.toSpliced(place, 0, item);
    const half = changed.length >> 1;
    const parts = changed.length > MOST_IN_PIECE ? [changed.slice(0, half), changed.slice(half)] : [changed];
    return new ById(this.pieces.toSpliced(index, 1, ...parts), this.length + (isThere ? 0 : 1));
  }

  /** With what `change` makes of those with these ids that are there; ids stay. The list itself if it changes none. */
  changed(trainerIds: readonly string[], change: (item: T) => T): ById<T> {
    const [only] = trainerIds;
    if (only === undefined) return this;
    if (trainerIds.length === 1) {
      const item = this.get(only);
      const made = item && change(item);
      return made === item ? this : this.with(made!);
    }
    const wanted = new Set(trainerIds);
    let isChanged = false;
    const pieces = this.pieces.map((piece) => {
      const made = piece.map((item) => (wanted.has(item.trainerId) ? change(item) : item));
      if (made.every((item, i) => item === piece[i])) return piece;
      isChanged = true;
      return made;
    });
    return isChanged ? new ById(pieces, this.length) : this;
  }

  without(trainerId: string): ById<T> {
    if (this.get(trainerId) === undefined) return this;
    const index = this.#pieceOf(trainerId);
    const rest = this.pieces[index]!.filter((item) => item.trainerId !== trainerId);
    return new ById(this.pieces.toSpliced(index, 1, ...(rest.length === 0 ? [] : [rest])), this.length - 1);
  }

  filter(isWanted: (item: T) => boolean): T[] {
    return this.pieces.flatMap((piece) => piece.filter(isWanted));
  }

  map<U>(made: (item: T) => U): U[] {
    return this.pieces.flatMap((piece) => piece.map(made));
  }

  find(isWanted: (item: T) => boolean): T | undefined {
    for (const item of this) if (isWanted(item)) return item;
    return undefined;
  }

  *[Symbol.iterator](): Generator<T, void, void> {
    for (const piece of this.pieces) yield* piece;
  }

  /** Of the piece that has the id, or would have it. */
  #pieceOf(trainerId: string): number {
    let [from, to] = [0, this.pieces.length];
    while (to - from > 1) {
      const middle = (from + to) >> 1;
      if (this.pieces[middle]![0]!.trainerId <= trainerId) from = middle;
      else to = middle;
    }
    return from;
  }
}

/** A sum over such lists, that remembers those of pieces: of a list that differs in one piece only that is summed anew. */
export function pieceSum<T extends HasId>(numberOf: (item: T) => number): (list: ById<T>) => number {
  const known = new WeakMap<readonly T[], number>();
  return ({ pieces }) => {
    let total = 0;
    for (const piece of pieces) {
      let sum = known.get(piece);
      if (sum === undefined) {
        sum = piece.reduce((before, item) => before + numberOf(item), 0);
        known.set(piece, sum);
      }
      total += sum;
    }
    return total;
  };
}
