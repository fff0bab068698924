/**
 * How long a trainer waits before it connects again: exponential, capped, with jitter so that the
 * trainers of a run do not all come back in the same instant. Pure: the dice are a seed.
 */
import { derive, randomUniform } from '../../random.ts';

export const MIN_BACKOFF_MS = 500;
export const MAX_BACKOFF_MS = 30_000;

/**
 * Wait before attempt `attempt` (1: the first one after a failure). Twice as long each time, drawn
 * from the upper half of the range: between 1 and 2 times MIN_BACKOFF_MS at first, never above
 * MAX_BACKOFF_MS. The same seed and attempt give the same wait.
 */
export function backoffMs(seed: number, attempt: number): number {
  const ceilingMs = Math.min(MAX_BACKOFF_MS, MIN_BACKOFF_MS * 2 ** Math.min(attempt, 16));
  const share = randomUniform(derive(seed, 'backoff'), attempt);
  return Math.round(Math.max(MIN_BACKOFF_MS, ceilingMs * (0.5 + share / 2)));
}
