import test from 'ava';
import type { Slot } from '../../src/galore/slot.ts';
import { tf } from '../galore/tensors.ts';

const { LocalStates } = await import('../../src/trainer/local-states.ts');

const SLOT: Slot = { name: 'w', shape: [3], index: 0, policy: 'dense', rule: 'adamw', feedback: 'payload' };

function valuesOf(locals: InstanceType<typeof LocalStates>, slot: Slot = SLOT): number[] {
  return Object.values(locals.get(slot)).flatMap((value) => [
    ...(value instanceof Uint8Array ? value : value.dataSync()),
  ]);
}

/** Proposes what is kept plus `value` for a step. */
function work(locals: InstanceType<typeof LocalStates>, step: number, value: number): void {
  locals.begin(step);
  locals.propose(SLOT, {
    residual: tf.add(locals.get(SLOT)['residual'] as ReturnType<typeof tf.zeros>, value),
  });
}

test('a step that counts stays, one that is given up or goes on without the trainer leaves no trace', (t) => {
  const before = tf.memory().numTensors;
  const locals = new LocalStates();
  t.deepEqual(valuesOf(locals), [0, 0, 0]);
  work(locals, 1, 2);
  t.deepEqual(valuesOf(locals), [2, 2, 2], 'micro-batches of the step see what it proposes');
  locals.decide(1, true);
  t.deepEqual(valuesOf(locals), [2, 2, 2]);
  work(locals, 2, 5);
  locals.decide(2, false);
  t.deepEqual(valuesOf(locals), [2, 2, 2], 'not counted');
  work(locals, 3, 5);
  work(locals, 3, 1);
  t.deepEqual(valuesOf(locals), [3, 3, 3], 'begun anew: the first try is gone');
  locals.decide(3, true);
  t.deepEqual(valuesOf(locals), [3, 3, 3]);
  t.is(tf.memory().numTensors, before + 1, 'old states are disposed');
  work(locals, 4, 1);
  locals.dispose();
  t.is(tf.memory().numTensors, before);
});

test('a contribution that counts although the connection was lost is kept when its record comes', (t) => {
  const locals = new LocalStates();
  t.teardown(() => locals.dispose());
  work(locals, 7, 4);
  // The connection is lost here; on the next one the tail of the journal comes: no new assignment before it.
  locals.decide(7, true);
  locals.decide(8, false); // a step of the others
  t.deepEqual(valuesOf(locals), [4, 4, 4]);
  work(locals, 9, 1);
  locals.decide(8, true); // the record of another step than the one worked for
  t.deepEqual(valuesOf(locals), [4, 4, 4]);
});

test('what was kept moves to a new basis as far as that can hold it; whole numbers stay', (t) => {
  const locals = new LocalStates();
  t.teardown(() => locals.dispose());
  const projected: Slot = {
    ...{ name: 'p', shape: [4, 3], index: 1, policy: 'one-sided', rule: 'adamw' },
    ...{ side: 'right', rank: 2, feedback: 'payload' },
  };
  work(locals, 1, 2);
  locals.propose(projected, { residual: tf.ones([4, 2]) });
  locals.decide(1, true);
  // R = [4, 2] of ones lies on the first two of three coordinates; the new basis is the mean of the first and third.
  const atRank1 = { ...projected, rank: 1 };
  const bases = [tf.eye(3, 2), tf.tensor2d([Math.SQRT1_2, 0, Math.SQRT1_2], [3, 1])];
  locals.carry({ oldSlot: projected, oldBasis: bases[0]!, newSlot: atRank1, newBasis: bases[1]! });
  tf.dispose(bases);
  t.deepEqual(valuesOf(locals), [2, 2, 2]);
  t.deepEqual(valuesOf(locals, atRank1), Array(4).fill(Math.fround(Math.SQRT1_2)));
});
