/**
 * Virtual time: actions wait in a queue and run in the order of their times, those of one time in the
 * order they were scheduled. Nothing sleeps; a minute costs as long as what happens in it.
 */
import { createHeap } from './heap.ts';

export interface Clock {
  nowMs(): number;
  /** Runs `action` after `delayMs`; the result takes it back. */
  schedule(delayMs: number, action: () => void): () => void;
  /** Runs `action` every `intervalMs` until the result is called. */
  repeat(intervalMs: number, action: () => void): () => void;
  /** Runs actions until `isDone` or until the time is `limitMs`. */
  run(limitMs: number, isDone: () => boolean): void;
}

interface Action {
  action: (() => void) | null;
}

export function createClock(): Clock {
  const heap = createHeap<Action>();
  let timeMs = 0;

  const clock: Clock = {
    nowMs: () => timeMs,
    schedule(delayMs, action) {
      const entry: Action = { action };
      heap.push(timeMs + Math.max(0, delayMs), entry);
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
        const firstMs = heap.firstKey();
        if (firstMs === undefined || firstMs > limitMs) return;
        timeMs = firstMs;
        heap.pop()!.action?.();
      }
    },
  };
  return clock;
}
