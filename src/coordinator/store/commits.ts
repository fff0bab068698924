/** What the records of a journal say of themselves, without what they carry. */
import { decodeEnvelope } from '../../protocol/envelope.ts';
import type { CommitMessage } from '../../protocol/messages.ts';
import { COMMIT_TAG } from './journal-format.ts';
import type { Journal } from './journal.ts';

/** The Commits of record `sequence` and of all after it. */
export async function* commitsFrom(
  journal: Pick<Journal, 'frames'>,
  sequence: number,
): AsyncGenerator<CommitMessage, void, void> {
  for await (const frame of journal.frames(sequence)) {
    if (frame[0] !== COMMIT_TAG) continue;
    const message = decodeEnvelope(frame, 'coordinator');
    if (message.kind === 'commit') yield message;
  }
}
