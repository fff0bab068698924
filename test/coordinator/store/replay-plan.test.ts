import test from 'ava';
import {
  describeRest,
  planReplay,
  type KnownCheckpoint,
  type ReadableJournal,
} from '../../../src/coordinator/store/replay-plan.ts';

const ALL = { fromStep: null, toStep: null };

function checkpoint(step: number, sequence: number | null = step): KnownCheckpoint {
  return { step, sequence, fault: sequence === null ? `the checkpoint of step ${step} is damaged` : null };
}

/** Updates of the steps of their sequences. */
function journalOf(first: number, last: number): ReadableJournal {
  const records = Array.from({ length: last - first + 1 }, (_, i) => first + i).map((sequence) => ({
    sequence,
    step: sequence,
    kind: 'update' as const,
  }));
  return { firstSequence: first, records };
}

test('everything is replayed from the oldest checkpoint, and compared with every other', (t) => {
  const known = [checkpoint(0), checkpoint(4), checkpoint(8)];
  t.deepEqual(planReplay(known, journalOf(1, 10), ALL), {
    fromStep: 0,
    firstSequence: 1,
    lastSequence: 10,
    toStep: 10,
    compared: known.slice(1),
  });
});

test('where the journal begins later, the first checkpoint that it goes on from is taken', (t) => {
  const known = [checkpoint(0), checkpoint(4), checkpoint(8)];
  t.like(planReplay(known, journalOf(3, 10), ALL), { fromStep: 4, firstSequence: 5 });
  t.like(planReplay(known, journalOf(5, 10), ALL), { fromStep: 4, firstSequence: 5 });
  t.like(planReplay(known, journalOf(9, 8), ALL), {
    fromStep: 8,
    firstSequence: 9,
    lastSequence: 8,
    toStep: 8,
  });
});

test('a checkpoint that the journal does not reach back to is refused with those that can be used', (t) => {
  const known = [checkpoint(0), checkpoint(4), checkpoint(8)];
  t.deepEqual(planReplay(known, journalOf(5, 10), { fromStep: 0, toStep: null }), {
    fault:
      'records 1 to 4, between the checkpoint of step 0 and the journal, are not there any more; ' +
      '--from 4 or 8 can be used',
    option: null,
  });
  t.deepEqual(planReplay([checkpoint(0)], journalOf(5, 10), ALL), {
    fault: 'records 1 to 4, between the checkpoint of step 0 and the journal, are not there any more',
    option: null,
  });
});

test('a range that there is not is refused with what there is', (t) => {
  const known = [checkpoint(0), checkpoint(4)];
  const fault = (fromStep: number | null, toStep: number | null): unknown =>
    planReplay(known, journalOf(1, 6), { fromStep, toStep });
  t.deepEqual(fault(3, null), {
    fault: 'there is no checkpoint of step 3; there are those of steps 0, 4',
    option: '--from',
  });
  t.deepEqual(fault(4, 2), {
    fault: 'step 2 is before the checkpoint of step 4, where the replay begins',
    option: '--to',
  });
  t.deepEqual(fault(null, 7), { fault: 'the journal ends with step 6', option: '--to' });
  t.deepEqual(planReplay([], journalOf(1, 6), ALL), {
    fault: 'there is no checkpoint to begin with',
    option: null,
  });
});

test('bases of the next step belong to a range only if the checkpoint at its end has them', (t) => {
  const records = [
    { sequence: 1, step: 1, kind: 'basis' },
    { sequence: 2, step: 1, kind: 'update' },
    { sequence: 3, step: 2, kind: 'basis' },
    { sequence: 4, step: 2, kind: 'update' },
  ] as const;
  const journal = { firstSequence: 1, records };
  const toFirst = { fromStep: null, toStep: 1 };
  t.like(planReplay([checkpoint(0), checkpoint(1, 2)], journal, toFirst), { lastSequence: 2, toStep: 1 });
  t.like(planReplay([checkpoint(0), checkpoint(1, 3)], journal, toFirst), { lastSequence: 3, toStep: 1 });
});

test('damaged checkpoints are passed over and shown, unless one is asked for', (t) => {
  const known = [checkpoint(0, null), checkpoint(4), checkpoint(8, null)];
  t.like(planReplay(known, journalOf(1, 10), ALL), { fromStep: 4, compared: [known[0]!, known[2]!] });
  t.deepEqual(planReplay(known, journalOf(1, 10), { fromStep: 8, toStep: null }), {
    fault: 'the checkpoint of step 8 is damaged',
    option: null,
  });
});

test('of a damaged journal it is said what can be replayed', (t) => {
  const known = [checkpoint(0), checkpoint(4), checkpoint(8)];
  const rest = (sound: ReadableJournal, ...later: number[]): string => describeRest(known, sound, later);
  t.is(
    rest(journalOf(1, 6), 9),
    'what can be replayed: steps 1 to 6 with --to 6; steps from 9 on with --from 8',
  );
  t.is(rest(journalOf(1, 6)), 'what can be replayed: steps 1 to 6 with --to 6');
  t.is(rest(journalOf(1, 0), 3), 'what can be replayed: steps from 5 on with --from 4');
  t.is(rest(journalOf(1, 0)), 'nothing can be replayed');
});
