/** A queue of numbers with something to each: the least comes first, of equal ones the one that was put in first. */
export interface Heap<T> {
  /** @param tag whatever the user of the heap wants to tell entries of one item apart by */
  push(key: number, item: T, tag?: number): void;
  /** Of the first; undefined: it is empty. */
  first(): T | undefined;
  firstKey(): number | undefined;
  firstTag(): number | undefined;
  /** Takes the first out. */
  pop(): T | undefined;
}

/** Its parts are lists of their own, so that an entry is no object: millions come and go. */
export function createHeap<T>(): Heap<T> {
  const keys: number[] = [];
  const orders: number[] = [];
  const tags: number[] = [];
  const items: T[] = [];
  let order = 0;

  /** Whether the entry at `a` comes before one with this key and order. */
  const isBefore = (a: number, key: number, put: number): boolean =>
    keys[a]! < key || (keys[a] === key && orders[a]! < put);

  const move = (from: number, to: number): void => {
    keys[to] = keys[from]!;
    orders[to] = orders[from]!;
    tags[to] = tags[from]!;
    items[to] = items[from]!;
  };

  const place = (at: number, key: number, put: number, tag: number, item: T): void => {
    keys[at] = key;
    orders[at] = put;
    tags[at] = tag;
    items[at] = item;
  };

  return {
    push(key, item, tag = 0) {
      const put = order++;
      let at = keys.length;
      while (at > 0) {
        const parent = (at - 1) >> 1;
        if (isBefore(parent, key, put)) break;
        move(parent, at);
        at = parent;
      }
      place(at, key, put, tag, item);
    },
    first: () => items[0],
    firstKey: () => keys[0],
    firstTag: () => tags[0],
    pop() {
      const first = items[0];
      const count = keys.length - 1;
      if (count < 0) return undefined;
      const key = keys.pop()!;
      const put = orders.pop()!;
      const tag = tags.pop()!;
      const item = items.pop()!;
      if (count === 0) return first;
      let at = 0;
      for (;;) {
        let child = 2 * at + 1;
        if (child >= count) break;
        if (child + 1 < count && isBefore(child + 1, keys[child]!, orders[child]!)) child += 1;
        if (!isBefore(child, key, put)) break;
        move(child, at);
        at = child;
      }
      place(at, key, put, tag, item);
      return first;
    },
  };
}
