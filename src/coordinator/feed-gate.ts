/**
 * Lets what is fed to a trainer that joins (a snapshot, old records) go between what the others get: a step waits for
 * an update or an assignment, and nobody waits for a Part of a snapshot but who joins. The sockets are apart, but they
 * share this process and the line out of the building.
 */

/**
 * How long live frames that wait for their sockets hold up a feed. Those that wait longer are not a step's, but those of
 * a trainer with a slow link: whoever joins does not wait for that.
 */
export const MAX_BURST_MS = 1000;
/** How often it is looked at whether they still wait. */
const LOOK_INTERVAL_MS = 10;

/** What the gate needs of its surroundings. */
export interface GateSurroundings {
  /** Whether frames for those who take part in steps wait for their sockets. */
  readonly isBusy: () => boolean;
  /** Monotonic. */
  readonly nowMs: () => number;
  /** Resolves after this time, and at 0 once everything that sockets brought about has been dealt with. */
  readonly pause: (durationMs: number) => Promise<void>;
}

export class FeedGate {
  readonly #around: GateSurroundings;
  /** Since when live frames wait without a break; null: none did when it was last looked. */
  #burstSinceMs: number | null = null;

  constructor(around: GateSurroundings) {
    this.#around = around;
  }

  /** The frames, each in its turn. */
  async *pace(frames: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
    const { pause } = this.#around;
    for await (const frame of frames) {
      await pause(0);
      while (this.#isBurst()) await pause(LOOK_INTERVAL_MS);
      yield frame;
    }
  }

  #isBurst(): boolean {
    const { isBusy, nowMs } = this.#around;
    if (!isBusy()) {
      this.#burstSinceMs = null;
      return false;
    }
    this.#burstSinceMs ??= nowMs();
    return nowMs() - this.#burstSinceMs < MAX_BURST_MS;
  }
}
