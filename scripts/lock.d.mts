export interface LockOptions {
  /** Told once, in words, who holds the lock, when it has to be waited for. */
  readonly onWait?: (holder: string) => void;
  readonly pollMs?: number;
  /** After how long without a sign of life a holder on another machine is taken for dead. */
  readonly silenceMs?: number;
}

/** Waits for the lock at `path`, runs `action`, and gives the lock back whatever happens. */
export function withLock<T>(path: string, action: () => T | Promise<T>, options?: LockOptions): Promise<T>;

/** Waits for the lock at `path`; the function returned gives it back. */
export function acquireLock(path: string, options?: LockOptions): Promise<() => void>;

/** True if the process `pid` runs and is the one that `startOf` gave `started` for. */
export function isSameProcessAlive(pid: number, started: string | undefined): boolean;

/** When a process started, in ticks since boot: tells a process from a later one with the same id. */
export function startOf(pid: number): string | undefined;
