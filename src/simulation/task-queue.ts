/**
 * The compute side of a simulated trainer: one task at a time, in order. A task that has begun cannot be
 * stopped, only its result thrown away, as with a real engine.
 */
import type { Clock } from './clock.ts';

/** Something to compute. */
export interface Task {
  /** The connection that asked for it; null: it changes the state and is done in any case. */
  readonly connection: number | null;
  readonly step: number;
  readonly durationMs: number;
  readonly run: () => void;
}

export interface TaskQueue {
  add(task: Task): void;
  /** Forgets the tasks that are waiting, and throws away the result of one being done if `isRunningToo`. */
  cancel(matches: (task: Task) => boolean, isRunningToo: boolean): void;
  /** Whether such a task waits or is being done. */
  has(matches: (task: Task) => boolean): boolean;
  /** Nothing begins or ends for so long. */
  freeze(durationMs: number): void;
  /** The process is gone. */
  close(): void;
}

/** `onDone` is called after each task that was not cancelled. */
export function createTaskQueue(clock: Clock, onDone: (task: Task) => void): TaskQueue {
  let waiting: Task[] = [];
  let running: Task | null = null;
  let isThrownAway = false;
  let frozenUntilMs = 0;
  let isClosed = false;

  const end = (): void => {
    if (isClosed || running === null) return;
    const overdueMs = frozenUntilMs - clock.nowMs();
    if (overdueMs > 0) {
      clock.schedule(overdueMs, end);
      return;
    }
    const done = running;
    running = null;
    if (!isThrownAway) {
      done.run();
      onDone(done);
    }
    begin();
  };

  const begin = (): void => {
    if (isClosed || running !== null) return;
    const next = waiting.shift();
    if (next === undefined) return;
    running = next;
    isThrownAway = false;
    clock.schedule(next.durationMs, end);
  };

  return {
    add(task) {
      waiting.push(task);
      begin();
    },
    cancel(matches, isRunningToo) {
      waiting = waiting.filter((task) => !matches(task));
      if (isRunningToo && running !== null && matches(running)) isThrownAway = true;
    },
    has: (matches) => waiting.some(matches) || (running !== null && !isThrownAway && matches(running)),
    freeze(durationMs) {
      frozenUntilMs = clock.nowMs() + durationMs;
    },
    close() {
      isClosed = true;
      waiting = [];
    },
  };
}
