/**
 * There is no room on the disk, or the state store cannot be reached. What could not be written is tried again, with growing gaps, for as long as it
 * takes: nobody is asked for anything meanwhile, so no deadline runs.
 */
import type { Pause, RunState } from './state.ts';

/** How long after the first failure, and at most after any, in milliseconds. */
export interface Gaps {
  readonly firstMs: number;
  readonly longestMs: number;
}

/** For a record, which is in memory. */
export const RECORD_GAPS: Gaps = { firstMs: 500, longestMs: 5_000 };
/** For a checkpoint, which a trainer has to send anew. */
export const CHECKPOINT_GAPS: Gaps = { firstMs: 1_000, longestMs: 60_000 };

/** After one more failure. The reason stays the first one: its numbers change with every try. */
export function pauseAfter(pause: Pause | undefined, reason: string, nowMs: number, gaps: Gaps): Pause {
  const tries = (pause?.tries ?? 0) + 1;
  const gapMs = Math.min(gaps.longestMs, gaps.firstMs * 2 ** Math.min(tries - 1, 30));
  return {
    reason: pause?.reason ?? reason,
    sinceMs: pause?.sinceMs ?? nowMs,
    tries,
    retryAtMs: nowMs + gapMs,
  };
}

/** "paused: the disk is full: …; the run goes on when there is room" */
export function pauseNote({ reason }: Pause): string {
  const isForRoom = /\b(full|quota|space)\b/.test(reason);
  return `paused: ${reason}; the run goes on ${isForRoom ? 'when there is room' : 'as soon as it can'}`;
}

/** What holds the run up; undefined: the disk does not. */
export function pauseOf({ phase }: Pick<RunState, 'phase'>): Pause | undefined {
  return phase.phase === 'committing' || phase.phase === 'finishing' ? phase.pause : undefined;
}
