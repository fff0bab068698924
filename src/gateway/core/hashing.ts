/**
 * Hashes of the weights: once all trainers have told theirs, that of most of them is the gateway's, and who has another
 * joins again without state.
 */
import { byTrainerId } from '../../coordinator/core/draft.ts';
import { endLocalSnapshot } from './checkpointing.ts';
import type { EventOf, Turn } from './turn.ts';

/** After a step of which trainers tell a hash by themselves. */
export function expectHashes(turn: Turn, step: number): void {
  const { hashEvery, trainers } = turn.state;
  if (hashEvery === 0 || step % hashEvery !== 0) return;
  const expected = trainers.filter(({ status }) => status !== 'loading').map(({ trainerId }) => trainerId);
  turn.patch({ hashes: { step, expected, told: [], isSent: false } });
}

export function takeHash(turn: Turn, event: EventOf<'stateHashReceived'>): void {
  const { trainerId, step, weightsSha256 } = event;
  const { hashes } = turn.state;
  if (hashes?.step !== step || !hashes.expected.includes(trainerId)) return;
  if (hashes.told.some((each) => each.trainerId === trainerId)) return;
  const told = [...hashes.told, { trainerId, weightsSha256 }].sort(byTrainerId);
  turn.patch({ hashes: { ...hashes, told } });
  judge(turn);
}

/** The trainer is gone: its hash is not waited for any more. */
export function forgetHash(turn: Turn, trainerId: string): void {
  const { hashes } = turn.state;
  if (hashes === null) return;
  const expected = hashes.expected.filter((id) => id !== trainerId);
  const told = hashes.told.filter((each) => each.trainerId !== trainerId);
  turn.patch({ hashes: { ...hashes, expected, told } });
  judge(turn);
}

function judge(turn: Turn): void {
  const { hashes } = turn.state;
  if (hashes === null || hashes.told.length === 0) return;
  if (hashes.told.length < hashes.expected.length) return;
  const votes = new Map<string, number>();
  for (const { weightsSha256: hash } of hashes.told) votes.set(hash, (votes.get(hash) ?? 0) + 1);
  const [[weightsSha256]] = [...votes].toSorted(([, a], [, b]) => b - a) as [[string, number]];
  if (!hashes.isSent) turn.emit({ type: 'sendHash', step: hashes.step, weightsSha256 });
  turn.patch({ hashes: { ...hashes, isSent: true } });
  endLocalSnapshot(turn);
  for (const { trainerId, weightsSha256: other } of hashes.told) {
    if (other === weightsSha256) continue;
    const text = `the weights after step ${hashes.step} differ: ${other.slice(0, 8)} here, ${weightsSha256.slice(0, 8)} on others`;
    turn.expel(trainerId, 'STATE_DIVERGED', text);
  }
}
