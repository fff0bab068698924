/** A queue of numbers with something to each: the least comes first, of equal ones the one that was put in first. */
export interface Heap<T> {
  push(key: number, item: T, tag?: number): void;
  peek(): Entry<T> | undefined;
  pop(): Entry<T> | undefined;
}

export interface Entry<T> {
  readonly key: number;
  readonly order: number;
  readonly item: T;
  /** Whatever the user of the heap wants to tell entries of one item apart by. */
  readonly tag: number;
}

export function createHeap<T>(): Heap<T> {
  const heap: Entry<T>[] = [];
  let order = 0;

  const isBefore = (a: Entry<T>, b: Entry<T>): boolean =>
    a.key < b.key || (a.key === b.key && a.order < b.order);

  return {
    push(key, item, tag = 0) {
      const entry = { key, order: order++, item, tag };
      let at = heap.length;
      heap.push(entry);
      while (at > 0) {
        const parent = (at - 1) >> 1;
        const above = heap[parent]!;
        if (!isBefore(entry, above)) break;
        heap[at] = above;
        at = parent;
      }
      heap[at] = entry;
    },
    peek: () => heap[0],
    pop() {
      const first = heap[0];
      const last = heap.pop();
      if (first === undefined || last === undefined || heap.length === 0) return first;
      let at = 0;
      for (;;) {
        const left = 2 * at + 1;
        if (left >= heap.length) break;
        const isRightFirst = left + 1 < heap.length && isBefore(heap[left + 1]!, heap[left]!);
        const child = isRightFirst ? left + 1 : left;
        if (!isBefore(heap[child]!, last)) break;
        heap[at] = heap[child]!;
        at = child;
      }
      heap[at] = last;
      return first;
    },
  };
}
