/** How often something may happen, for each of any number of keys: token buckets. Pure but for what it remembers, which is bounded. */

export interface Rate {
  /** At once. */
  readonly burst: number;
  /** After that. */
  readonly perSecond: number;
}

/** Keys that are remembered: an attacker may have very many. Those used least recently are forgotten. */
const MAX_KEYS = 4096;

export class RateLimiter {
  readonly #rate: Rate;
  readonly #now: () => number;
  /** In the order in which they were last used. */
  readonly #buckets = new Map<string, { readonly tokens: number; readonly filledAtMs: number }>();

  /** @param now monotonic milliseconds */
  constructor(rate: Rate, now: () => number) {
    this.#rate = rate;
    this.#now = now;
  }

  /** Keys of which something is remembered. */
  get keys(): number {
    return this.#buckets.size;
  }

  /** Whether it may happen once more now, and then it has. */
  take(key: string): boolean {
    const { burst, perSecond } = this.#rate;
    const nowMs = this.#now();
    const before = this.#buckets.get(key) ?? { tokens: burst, filledAtMs: nowMs };
    const tokens = Math.min(burst, before.tokens + ((nowMs - before.filledAtMs) / 1000) * perSecond);
    const mayHappen = tokens >= 1;
    this.#buckets.delete(key);
    this.#buckets.set(key, { tokens: mayHappen ? tokens - 1 : tokens, filledAtMs: nowMs });
    if (this.#buckets.size > MAX_KEYS) {
      const [oldest = ''] = this.#buckets.keys();
      this.#buckets.delete(oldest);
    }
    return mayHappen;
  }
}
