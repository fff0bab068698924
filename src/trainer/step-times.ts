/**
 * When a trainer did what in a step, for one line of its log. Times are milliseconds since 1970, so that lines of
 * trainers on one machine can be compared. Pure.
 */

/** Moments of a step, in this order. */
export interface StepMoments {
  /** The step's sequences were there, and the trainer began. */
  readonly assignedMs: number;
  /** The contribution was complete and given to the network thread. */
  readonly contributedMs: number;
  /** The record of the step was there as a whole. */
  readonly receivedMs: number;
  /** The weights were those of the step. */
  readonly appliedMs: number;
}

export class StepTimes {
  #moments: Partial<Record<keyof StepMoments, number>> = {};
  #busyMs = 0;

  /** The step has come this far. */
  mark(moment: keyof StepMoments, nowMs: number): void {
    if (moment === 'assignedMs') this.#moments = {};
    this.#moments[moment] = nowMs;
  }

  /** The main thread has worked for so long. */
  worked(durationMs: number): void {
    this.#busyMs += durationMs;
  }

  /**
   * Once a step is applied: its moments, and the seconds that the main thread has worked since the last time this
   * was so. Null before that, and after a step in which the trainer did not take part.
   */
  take(): (StepMoments & { readonly busySeconds: number }) | null {
    const { assignedMs, contributedMs, receivedMs, appliedMs } = this.#moments;
    if (appliedMs === undefined) return null;
    const busySeconds = this.#busyMs / 1000;
    this.#moments = {};
    this.#busyMs = 0;
    if (assignedMs === undefined || contributedMs === undefined || receivedMs === undefined) return null;
    return { assignedMs, contributedMs, receivedMs, appliedMs, busySeconds };
  }
}
