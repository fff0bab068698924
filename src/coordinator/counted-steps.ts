/**
 * Which step counted each trainer last: a fold over the records, kept in checkpoints. By it a trainer that comes back
 * with what it had kept for itself knows whether that is still good (trainer/own-state.ts).
 */
import type { CommitMessage } from '../protocol/messages.ts';
import type { RunFacts } from './store/checkpoint-format.ts';
import { commitsFrom } from './store/commits.ts';
import type { Journal } from './store/journal.ts';

/** Steps by trainer id; a trainer that was never counted is not in it. */
export type CountedSteps = ReadonlyMap<string, number>;

/** With one more record. Null: it is not known who was counted before, nor after. */
export function foldCounted(
  counted: CountedSteps | null,
  { record, step }: Pick<CommitMessage, 'record' | 'step'>,
): CountedSteps | null {
  if (counted === null || record.type !== 'update') return counted;
  return new Map([...counted, ...record.members.map(({ trainerId }) => [trainerId, step] as const)]);
}

/** Those of the checkpoint and of the records after it; null: a checkpoint of an earlier version does not tell. */
export async function restoreCounted(
  { counted, sequence }: Pick<RunFacts, 'counted' | 'sequence'>,
  journal: Journal,
): Promise<CountedSteps | null> {
  const known = counted ?? (sequence === 0 ? {} : null);
  if (known === null) return null;
  let restored: CountedSteps | null = new Map(Object.entries(known));
  for await (const commit of commitsFrom(journal, sequence + 1)) restored = foldCounted(restored, commit);
  return restored;
}
