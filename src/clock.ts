/** Time as an argument: shells take a Clock so that tests can hold it still. */

export interface Clock {
  /** Milliseconds that never go backwards; only differences mean anything. */
  nowMs(): number;
}

/** The monotonic clock of this process. */
export const systemClock: Clock = { nowMs: () => performance.now() };
