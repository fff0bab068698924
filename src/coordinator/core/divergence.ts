/**
 * Comparison of the trainers' weight hashes. All trainers apply the same bytes, so after the same step
 * their weights have the same hash; one that differs has lost its way (bad memory, another build) and
 * must join again without its state. Nothing becomes a checkpoint that was not compared with all who are there.
 * See docs/coordinator-core.md, "Drift".
 */
import { hasId, insertById } from './by-id.ts';
import { emit, expel, patch, plural, remark, type Draft, type EventOf } from './draft.ts';
import type { AgreedHash } from './state.ts';

type Hashes = NonNullable<Draft['state']['hashes']>;

/** After an update. If it asks for hashes those who get its record live are to report. */
export function announceUpdate(draft: Draft): Draft {
  const { plan, step, trainers, hashes } = draft.state;
  // Whoever contributed to this step has told the hash of the one before.
  const noted = patch(draft, { agreed: hashes === null ? null : agreedHash(hashes) });
  if (plan.hashEvery === 0 || step % plan.hashEvery !== 0) return noted;
  const expected = trainers.filter(({ status }) => status !== 'loading').map(({ trainerId }) => trainerId);
  return expectHashes(noted, expected);
}

/** These are asked for the hash of the weights after the last step. A comparison of an earlier step ends here. */
export function expectHashes(draft: Draft, trainerIds: readonly string[]): Draft {
  const { step, hashes } = draft.state;
  if (hashes?.step !== step) {
    return patch(judge(draft, true), { hashes: { step, expected: trainerIds, byTrainer: [] } });
  }
  const expected = [...new Set([...hashes.expected, ...trainerIds])];
  return patch(draft, { hashes: { ...hashes, expected } });
}

/** The hashes of this step are compared as they are, for no more are waited for. */
export function endComparison(draft: Draft, step: number): Draft {
  return draft.state.hashes?.step === step ? judge(draft, true) : draft;
}

export function receiveHash(draft: Draft, event: EventOf<'stateHashReceived'>): Draft {
  const { state } = draft;
  const { trainerId, step, weightsSha256 } = event;
  if (step > state.step + 1 || (step > state.step && state.phase.phase !== 'committing')) {
    const text = `a hash of the weights after step ${step}; the run has committed ${plural(state.step, 'step')}`;
    return expel(draft, trainerId, 'UNEXPECTED_MESSAGE', text);
  }
  const { hashes } = state;
  if (hashes === null || hashes.step !== step) {
    return remark(draft, `the hash of step ${step} from ${trainerId} is not compared; ignored`);
  }
  // One that is loading, or was when the record was announced, might be anyone: it has no vote on the others.
  if (!hashes.expected.includes(trainerId)) {
    return remark(draft, `the hash of step ${step} from ${trainerId} was not asked for; ignored`);
  }
  if (hasReported(hashes, trainerId)) {
    return remark(draft, `the hash of step ${step} from ${trainerId} is here already; ignored`);
  }
  const byTrainer = insertById(hashes.byTrainer, { trainerId, weightsSha256 });
  return judge(patch(draft, { hashes: { ...hashes, byTrainer } }));
}

/** What was reported, if all who did say the same. */
export function agreedHash(hashes: Hashes): AgreedHash | null {
  const [group, other] = groupByHash(hashes);
  if (group === undefined || other !== undefined) return null;
  return { step: hashes.step, weightsSha256: group.hash, trainers: group.trainerIds.length };
}

/** What a trainer has told of the weights after a step; null: nothing. */
export function hashToldBy({ hashes }: Draft['state'], trainerId: string, step: number): string | null {
  if (hashes?.step !== step) return null;
  return hashes.byTrainer.find((report) => report.trainerId === trainerId)?.weightsSha256 ?? null;
}

/** A trainer that is gone neither counts nor is waited for: it may come back with another state. */
export function forgetHash(draft: Draft, trainerId: string): Draft {
  const { hashes } = draft.state;
  if (hashes === null) return draft;
  const expected = hashes.expected.filter((id) => id !== trainerId);
  const byTrainer = hashes.byTrainer.filter((report) => report.trainerId !== trainerId);
  return judge(patch(draft, { hashes: { ...hashes, expected, byTrainer } }));
}

/**
 * Once the outcome cannot change any more (all have reported, or more than half agree, or no more are waited for)
 * the trainers outside the largest group go. Of groups of one size none is believed: all go, for what is true is
 * what the journal makes of the newest checkpoint. If that does not bring them together either they compute
 * differently, and the group with the lowest trainer id counts: the run would not get on otherwise.
 */
function judge(draft: Draft, isFinal: boolean = false): Draft {
  const { hashes, hasTied } = draft.state;
  if (hashes === null) return draft;
  const reported = hashes.byTrainer.length;
  // Whoever has reported was asked.
  const pending = hashes.expected.length - reported;
  if (isUnanimous(hashes)) return pending === 0 && reported > 1 ? patch(draft, { hasTied: false }) : draft;
  const groups = groupByHash(hashes);
  const [largest, second] = groups;
  if (largest === undefined || second === undefined) return draft;
  if (!isFinal && pending > 0 && 2 * largest.trainerIds.length <= reported + pending) {
    return remark(
      draft,
      `the hashes of step ${hashes.step} differ; ${pending} more are awaited before one is dropped`,
    );
  }
  const isTie = second.trainerIds.length === largest.trainerIds.length;
  if (isTie && !hasTied) {
    const text = `the weights after step ${hashes.step} differ, and no majority tells whose are right: all begin again from the newest checkpoint and the journal`;
    return dismiss(patch(draft, { hasTied: true }), groups, () => text);
  }
  const again = isTie ? ' again, though all had begun anew: they compute differently' : '';
  const here = largest.hash.slice(0, 8);
  return dismiss(
    draft,
    groups.filter((group) => group !== largest),
    ({ hash }) =>
      `the weights after step ${hashes.step} differ${again}: ${hash.slice(0, 8)} here, ${here} on ${plural(largest.trainerIds.length, 'trainer')}`,
  );
}

/** These join again without their state. */
function dismiss(draft: Draft, groups: readonly HashGroup[], textOf: (group: HashGroup) => string): Draft {
  return groups.reduce(
    (next, group) =>
      group.trainerIds.reduce(
        (after, trainerId) =>
          expel(distrustUpload(after, trainerId), trainerId, 'STATE_DIVERGED', textOf(group)),
        next,
      ),
    draft,
  );
}

/** Trainers that have told the same hash. */
interface HashGroup {
  readonly hash: string;
  readonly trainerIds: readonly string[];
}

/** What a diverged trainer uploaded must not become a checkpoint. */
function distrustUpload(draft: Draft, trainerId: string): Draft {
  const { checkpoint } = draft.state;
  if (checkpoint?.trainerId !== trainerId) return draft;
  const abandoned = emit(draft, { type: 'abandonCheckpoint', step: checkpoint.step });
  return patch(abandoned, { checkpoint: null, isCheckpointDue: true });
}

function isUnanimous({ byTrainer }: Hashes): boolean {
  return byTrainer.every(({ weightsSha256 }) => weightsSha256 === byTrainer[0]?.weightsSha256);
}

/** Largest first, then by lowest trainer id. */
function groupByHash({ byTrainer }: Hashes): HashGroup[] {
  const groups = new Map<string, string[]>();
  for (const { trainerId, weightsSha256 } of byTrainer) {
    const group = groups.get(weightsSha256);
    if (group === undefined) groups.set(weightsSha256, [trainerId]);
    else group.push(trainerId);
  }
  // A stable sort: groups of one size stay in the order of their lowest trainer id.
  return [...groups]
    .map(([hash, trainerIds]) => ({ hash, trainerIds }))
    .sort((a, b) => b.trainerIds.length - a.trainerIds.length);
}

function hasReported({ byTrainer }: Hashes, trainerId: string): boolean {
  return hasId(byTrainer, trainerId);
}
