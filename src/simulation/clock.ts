/**
 * Virtual time: actions wait in a queue and run in the order of their times, those of one time in the
 * order they were scheduled. Nothing sleeps; a minute costs as long as what happens in it.
 */
import { createHeap } from './heap.ts';

export interface Clock {
  nowMs(): number;
  /** Runs `action` after `delayMs`; it cannot be taken back. */
  schedule(delayMs: number, action: () => void): void;
  /** Runs `action` every `intervalMs` until the result is called. */
  repeat(intervalMs: number, action: () => void): () => void;
  /** Runs actions until `isDone` or until the time is `limitMs`. */
  run(limitMs: number, isDone: () => boolean): void;
}

export function createClock(): Clock {
  const heap = createHeap<() => void>();
  let timeMs = 0;

  const clock: Clock = {
    nowMs: () => timeMs,
    schedule(delayMs, action) {
      heap.push(timeMs + Math.max(0, delayMs), action);
    },
    repeat(intervalMs, action) {
      let isEnded = false;
      const again = (): void => {
        if (isEnded) return;
        clock.schedule(intervalMs, again);
        action();
      };
      clock.schedule(intervalMs, again);
      return () => {
        isEnded = true;
      };
    },
    run(limitMs, isDone) {
      while (!isDone()) {
        const firstMs = heap.firstKey();
        if (firstMs === undefined || firstMs > limitMs) return;
        timeMs = firstMs;
        heap.pop()!();
      }
    },
  };
  return clock;
}
