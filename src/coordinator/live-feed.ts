/**
 * What goes to all trainers that have been brought up to date (feed.ts): Parts of the record that is being made, the
 * record, and what people are to know. One that is still being fed gets its records from the journal.
 */
import type { Session } from './session.ts';

/** Parts of the next record, behind `first` others, to those that have all of these. */
export function sendAhead(sessions: Iterable<Session>, first: number, frames: readonly Uint8Array[]): void {
  for (const session of sessions) {
    if (session.liveSequence === null || session.framesAhead !== first) continue;
    session.framesAhead += frames.length;
    session.sendFrames(frames);
  }
}

/** What was sent ahead of the step's update is void. */
export function withdrawAhead(sessions: Iterable<Session>, step: number): void {
  for (const session of sessions) {
    if (session.framesAhead === 0) continue;
    session.framesAhead = 0;
    session.send({ kind: 'updateWithdrawn', step });
  }
}

/** A record, which is on disk; but for the Parts that were sent ahead. */
export function sendRecord(
  sessions: Iterable<Session>,
  sequence: number,
  frames: readonly Uint8Array[],
): void {
  for (const session of sessions) {
    if (session.liveSequence === null || session.liveSequence >= sequence) continue;
    session.sendFrames(frames.slice(session.framesAhead));
    session.framesAhead = 0;
  }
}

/** To those who were not told the same last. */
export function sendNotice(sessions: Iterable<Session>, text: string): void {
  for (const session of sessions) {
    // A notice goes ahead of what is queued: before the Welcome it would be the first message.
    if (session.liveSequence === null || session.lastNotice === text) continue;
    session.lastNotice = text;
    session.send({ kind: 'notice', text });
  }
}
