/**
 * Time as the coordinator's core sees it: monotonic, so that the clock of the machine may be set as one likes, and
 * without the pauses of this process (SIGSTOP, a suspended machine, a sum of seconds). After one, what trainers have
 * sent meanwhile is still unread; with it in the clock they would all look silent, and late.
 */
import type { Clock } from '../clock.ts';

/** Nothing that the process does takes so long between two ticks. */
const LONGEST_GAP_MS = 2_000;

export class RunClock implements Clock {
  readonly #source: Clock;
  #lastMs: number;
  #lostMs = 0;

  /** @param source to be asked several times a second */
  constructor(source: Clock) {
    this.#source = source;
    this.#lastMs = source.nowMs();
  }

  nowMs(): number {
    const nowMs = this.#source.nowMs();
    this.#lostMs += Math.max(0, nowMs - this.#lastMs - LONGEST_GAP_MS);
    this.#lastMs = nowMs;
    return nowMs - this.#lostMs;
  }
}
