/**
 * Virtual time: actions wait in a queue and run in the order of their times, those of one time in the
 * order they were scheduled. Nothing sleeps; a minute costs as long as what happens in it.
 */
export interface Clock {
  nowMs(): number;
  /** Runs `action` after `delayMs`; the result takes it back. */
  schedule(delayMs: number, action: () => void): () => void;
  /** Runs `action` every `intervalMs` until the result is called. */
  repeat(intervalMs: number, action: () => void): () => void;
  /** Runs actions until `isDone` or until the time is `limitMs`. */
  run(limitMs: number, isDone: () => boolean): void;
}

interface Entry {
  readonly timeMs: number;
  readonly order: number;
  action: (() => void) | null;
}

export function createClock(): Clock {
  const heap: Entry[] = [];
  let timeMs = 0;
  let order = 0;

  const isBefore = (a: Entry, b: Entry): boolean =>
    a.timeMs < b.timeMs || (a.timeMs === b.timeMs && a.order < b.order);

  const push = (entry: Entry): void => {
    let at = heap.length;
    heap.push(entry);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      const above = heap[parent] as Entry;
      if (!isBefore(entry, above)) break;
      heap[at] = above;
      at = parent;
    }
    heap[at] = entry;
  };

  const pop = (): Entry | undefined => {
    const first = heap[0];
    const last = heap.pop();
    if (first === undefined || last === undefined || heap.length === 0) return first;
    let at = 0;
    for (;;) {
      const left = 2 * at + 1;
      if (left >= heap.length) break;
      const right = left + 1;
      const isRightFirst = right < heap.length && isBefore(heap[right] as Entry, heap[left] as Entry);
      const child = isRightFirst ? right : left;
      const below = heap[child] as Entry;
      if (!isBefore(below, last)) break;
      heap[at] = below;
      at = child;
    }
    heap[at] = last;
    return first;
  };

  const clock: Clock = {
    nowMs: () => timeMs,
    schedule(delayMs, action) {
      const entry: Entry = { timeMs: timeMs + Math.max(0, delayMs), order: order++, action };
      push(entry);
      return () => {
        entry.action = null;
      };
    },
    repeat(intervalMs, action) {
      let cancel = (): void => {};
      const again = (): void => {
        cancel = clock.schedule(intervalMs, again);
        action();
      };
      cancel = clock.schedule(intervalMs, again);
      return () => cancel();
    },
    run(limitMs, isDone) {
      while (!isDone()) {
        const entry = heap[0];
        if (entry === undefined || entry.timeMs > limitMs) return;
        pop();
        timeMs = entry.timeMs;
        entry.action?.();
      }
    },
  };
  return clock;
}
