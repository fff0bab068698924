/**
 * What is under way is void. Who is still at it begins anew, with the state that it has: an answer to what was void
 * might come later and be taken for one to what is asked then.
 */
import { membersOf } from '../../coordinator/core/assignment.ts';
import { isHere } from './answering.ts';
import type { StepState } from './gateway-state.ts';
import type { Turn } from './turn.ts';

export function dropWork(turn: Turn, reason: string): void {
  const { work, evaluations } = turn.state;
  turn.patch({ work: null, evaluations: [] });
  if (work !== null) turn.emit({ type: 'discardStaged', step: work.step });
  const measuring = evaluations.flatMap(({ shards }) => membersOf(shards));
  for (const trainerId of new Set([...measuring, ...membersAtWork(work)])) {
    turn.expel(trainerId, 'COORDINATOR_STOPPING', `its work is void: ${reason}`);
  }
}

function membersAtWork(work: StepState | null): readonly string[] {
  if (work === null || work.phase === 'answered') return [];
  const isDone = (trainerId: string): boolean => work.phase === 'collecting' && isHere(work, trainerId);
  return membersOf(work.shards).filter((trainerId) => !isDone(trainerId));
}
