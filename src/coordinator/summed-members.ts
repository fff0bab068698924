/** What a gateway says of the contributions that it has summed, held against what it was given. Pure. */
import type { ContributionMessage, Member } from '../protocol/messages.ts';

/** What is known of the step. */
export interface SummedContext {
  readonly gateway: string;
  /** Positions that the gateway was given; null: every trainer computes on data of its own. */
  readonly positions: readonly number[] | null;
  /** Whether contributions say what they weigh, or all count alike (local_steps.weighting other than targets). */
  readonly isWeighed: boolean;
  /** Who has a part in the step elsewhere: no contribution may count twice. */
  readonly others: ReadonlySet<string>;
}

/** The members as the record names them, or why they cannot be, in words. */
export function summedMembers(
  { tokens, weight, members = [] }: Pick<ContributionMessage, 'tokens' | 'weight' | 'members'>,
  { gateway, positions, isWeighed, others }: SummedContext,
): readonly Member[] | { readonly fault: string } {
  const fault = (text: string): { readonly fault: string } => ({ fault: `the gateway's sum ${text}` });
  const ids = new Set<string>();
  const used = new Set<number>();
  const given = positions === null ? null : new Set(positions);
  for (const member of members) {
    const { trainerId } = member;
    if (ids.has(trainerId)) return fault(`has ${trainerId} twice`);
    if (others.has(trainerId)) return fault(`has ${trainerId}, which has a part in the step elsewhere`);
    ids.add(trainerId);
    if (member.tokens === 0) return fault(`has no token of ${trainerId}`);
    for (const position of member.positions) {
      if (given?.has(position) !== true) return fault(`has sequence ${position}, which it was not given`);
      if (used.has(position)) return fault(`has sequence ${position} twice`);
      used.add(position);
    }
  }
  const sumOf = (numberOf: (member: Member) => number): number =>
    members.reduce((sum, member) => sum + numberOf(member), 0);
  const told = sumOf((member) => member.tokens);
  if (told !== tokens) return fault(`has ${tokens} tokens, and those of its trainers are ${told}`);
  const weighed = sumOf((member) => member.weight ?? member.tokens);
  if (isWeighed && weighed !== weight) {
    return fault(`weighs ${weight ?? 'nothing'}, and its trainers together ${weighed}`);
  }
  return members.map((member) => ({ ...member, gateway }));
}
