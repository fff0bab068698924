/**
 * What the records of the journal say of the slots' bases: read when the coordinator starts, told to the
 * core when a record is committed.
 */
import type { BasisRecord, UpdateRecord } from '../protocol/messages.ts';
import type { Ranks } from '../protocol/slot-sizes.ts';
import { foldBases, foldNorms, type BasisFact, type SlotNorm } from './core/refresh-schedule.ts';
import type { GapPlan, SlotBasis } from './core/state.ts';
import type { RunFacts } from './store/checkpoint-format.ts';
import { commitsFrom } from './store/commits.ts';
import type { Journal } from './store/journal.ts';

/** One fact for each slot of a basis record, kept slots too. */
export function basisFacts({ slots, keptSlots, ranks, similarities }: BasisRecord): readonly BasisFact[] {
  const renewed = slots.map((slot, i): BasisFact => {
    const similarity = similarities[i] ?? -1;
    return { slot, rank: ranks[i] ?? null, similarity: similarity === -1 ? null : similarity };
  });
  return [...renewed, ...keptSlots.map((slot) => ({ slot, rank: null, similarity: null }))];
}

/** The norms of an update record, which lists them for slots with a basis. */
export function slotNorms({ slotNorms: norms }: UpdateRecord, slots: readonly number[]): readonly SlotNorm[] {
  return slots.flatMap((slot, i) => {
    const norm = norms[i];
    return norm === undefined ? [] : [{ slot, norm }];
  });
}

/** The ranks that refreshes have chosen. */
export function ranksOf(bases: readonly SlotBasis[]): Ranks {
  return new Map(bases.flatMap(({ slot, rank }) => (rank === null ? [] : [[slot, rank] as const])));
}

/** The bases of the checkpoint, and what the records after it have made of them. */
export async function restoreBases(
  { bases = [], sequence }: Pick<RunFacts, 'bases' | 'sequence'>,
  journal: Journal,
  plan: GapPlan,
  projectedSlots: readonly number[],
): Promise<readonly SlotBasis[]> {
  let restored: readonly SlotBasis[] = bases;
  for await (const { record, step } of commitsFrom(journal, sequence + 1)) {
    restored =
      record.type === 'basis'
        ? foldBases(restored, step, basisFacts(record), plan)
        : foldNorms(restored, slotNorms(record, projectedSlots));
  }
  return restored;
}
