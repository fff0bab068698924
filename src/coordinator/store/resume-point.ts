/**
 * Where a run goes on: the checkpoint's facts with those of the journal behind it. The state itself is
 * the checkpoint's tensors and the journal's records after `run.sequence`.
 */
import { CheckpointError } from '../../errors.ts';
import type { Cursor } from '../core/state.ts';
import type { RunFacts } from './checkpoint-format.ts';
import type { Journal } from './journal.ts';

/** What the coordinator starts from. */
export interface ResumePoint {
  /** Committed steps. */
  readonly step: number;
  readonly sequence: number;
  readonly digest: Uint8Array;
  /** `step + 1` when that step's bases are committed already. */
  readonly refreshedStep: number;
  readonly cursor: Cursor;
}

/**
 * Checks that checkpoint and journal belong together and says where they end. A journal that ends
 * before the checkpoint does is started over behind it, and `onNotice` is told.
 * @throws CheckpointError when they do not fit, in words.
 */
export async function findResumePoint(
  run: RunFacts,
  journal: Journal,
  onNotice: (text: string) => void,
): Promise<ResumePoint> {
  const digest = new Uint8Array(Buffer.from(run.digest, 'hex'));
  if (run.sequence < journal.firstSequence - 1) {
    throw new CheckpointError(
      journal.path,
      `${journal.path}: records ${run.sequence + 1} to ${journal.firstSequence - 1} are missing between the ` +
        `checkpoint of step ${run.step} and the journal`,
    );
  }
  if (run.sequence >= journal.nextSequence) {
    const last = journal.nextSequence - 1;
    onNotice(
      `${journal.path} ends at record ${last}, the checkpoint of step ${run.step} at record ${run.sequence}; started over`,
    );
    await journal.restartAfter(run.sequence, digest);
  }
  if (run.sequence === journal.firstSequence - 1) journal.setBaseDigest(digest);
  const known = journal.digestOf(run.sequence);
  if (known === null || !Buffer.from(known).equals(digest)) {
    throw new CheckpointError(
      journal.path,
      `${journal.path}: record ${run.sequence} is not the one the checkpoint of step ${run.step} was made after`,
    );
  }
  const { head } = journal;
  if (head === null || head.sequence === run.sequence) {
    const { step, sequence, refreshedStep, cursor } = run;
    return { step, sequence, digest, refreshedStep, cursor };
  }
  const isUpdated = head.lastUpdate !== null && head.lastUpdate.step > run.step;
  return {
    step: head.step,
    sequence: head.sequence,
    digest: head.digest,
    refreshedStep: Math.max(head.refreshedStep, run.refreshedStep),
    cursor: isUpdated ? head.lastUpdate.cursor : run.cursor,
  };
}
