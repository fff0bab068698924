/** The time of this process for stores. SHELL. */
import { setTimeout as sleep } from 'node:timers/promises';
import { systemClock } from '../../clock.ts';
import type { StoreClock } from './lease-keeper.ts';

export const storeClock: StoreClock = {
  nowMs: () => systemClock.nowMs(),
  sleep: async (durationMs, signal) => {
    try {
      await sleep(durationMs, undefined, signal === undefined ? {} : { signal });
    } catch (error) {
      if (signal?.aborted !== true) throw error;
    }
  },
};
