/**
 * Comparison of the trainers' weight hashes. All trainers apply the same bytes, so after the same step
 * their weights have the same hash; one that differs has lost its way (bad memory, another build) and
 * must join again without its state.
 */
import { byTrainerId, emit, expel, patch, plural, remark, type Draft, type EventOf } from './draft.ts';

type Hashes = NonNullable<Draft['state']['hashes']>;

/** After an update that asks for hashes: those who get its record live are to report. */
export function announceUpdate(draft: Draft): Draft {
  const { plan, step, trainers } = draft.state;
  if (plan.hashEvery === 0 || step % plan.hashEvery !== 0) return draft;
  const expected = trainers.filter(({ status }) => status !== 'loading').map(({ trainerId }) => trainerId);
  return patch(draft, { hashes: { step, expected, byTrainer: [] } });
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
  const byTrainer = [...hashes.byTrainer, { trainerId, weightsSha256 }].sort(byTrainerId);
  return judge(patch(draft, { hashes: { ...hashes, byTrainer } }));
}

/** A hash that all trainers of a step have reported. */
export interface AgreedHash {
  readonly step: number;
  readonly weightsSha256: string;
  readonly trainers: number;
}

/** What was reported of the weights after `step`, if all who did say the same. */
export function agreedHash({ hashes }: Pick<Draft['state'], 'hashes'>, step: number): AgreedHash | null {
  const [group, other] = hashes?.step === step ? groupByHash(hashes) : [];
  if (group === undefined || other !== undefined) return null;
  return { step, weightsSha256: group.hash, trainers: group.trainerIds.length };
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
 * Once the outcome cannot change any more (all have reported, or more than half agree) the trainers
 * outside the largest group go. Of equally large groups the one with the lowest trainer id counts.
 */
function judge(draft: Draft): Draft {
  const { hashes } = draft.state;
  if (hashes === null) return draft;
  const groups = groupByHash(hashes);
  const [largest, ...others] = groups;
  if (largest === undefined || others.length === 0) return draft;
  const reported = hashes.byTrainer.length;
  const pending = hashes.expected.filter((trainerId) => !hasReported(hashes, trainerId)).length;
  if (pending > 0 && 2 * largest.trainerIds.length <= reported + pending) {
    return remark(
      draft,
      `the hashes of step ${hashes.step} differ; ${pending} more are awaited before one is dropped`,
    );
  }
  let next = draft;
  for (const { hash, trainerIds } of others) {
    for (const trainerId of trainerIds) {
      const text = `the weights after step ${hashes.step} differ: ${hash.slice(0, 8)} here, ${largest.hash.slice(0, 8)} on ${plural(largest.trainerIds.length, 'trainer')}`;
      next = expel(distrustUpload(next, trainerId), trainerId, 'STATE_DIVERGED', text);
    }
  }
  return next;
}

/** What a diverged trainer uploaded must not become a checkpoint. */
function distrustUpload(draft: Draft, trainerId: string): Draft {
  const { checkpoint } = draft.state;
  if (checkpoint?.trainerId !== trainerId) return draft;
  const abandoned = emit(draft, { type: 'abandonCheckpoint', step: checkpoint.step });
  return patch(abandoned, { checkpoint: null, isCheckpointDue: true });
}

/** Largest first, then by lowest trainer id. */
function groupByHash({ byTrainer }: Hashes): { hash: string; trainerIds: string[] }[] {
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
  return byTrainer.some((report) => report.trainerId === trainerId);
}
