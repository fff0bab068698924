import test from 'ava';
import type { Slot } from '../../src/galore/slot.ts';
import { localTensors } from '../../src/galore/state-table.ts';
import { tf } from '../galore/tensors.ts';

const { LocalStates } = await import('../../src/trainer/local-states.ts');

const SLOT: Slot = { name: 'w', shape: [3], index: 0, policy: 'dense', rule: 'adamw', feedback: 'payload' };

function valuesOf(locals: InstanceType<typeof LocalStates>, slot: Slot = SLOT): number[] {
  return Object.values(locals.get(slot)).flatMap((value) => [
    ...(value instanceof Uint8Array ? value : value.dataSync()),
  ]);
}

const CARRY = { moments: 'transport', betas: [0.9, 0.99] } as const;

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
  t.true(locals.decide(9, true));
  t.deepEqual(valuesOf(locals), [5, 5, 5]);
});

test('what was kept before a contribution that this process did not make is void when that one counts', (t) => {
  const locals = new LocalStates();
  t.teardown(() => locals.dispose());
  t.true(locals.decide(3, true), 'there was nothing yet');
  locals.restore([SLOT], new Map([['residual/w', Float32Array.of(1, 2, 3)]]));
  t.true(locals.decide(4, false));
  t.deepEqual(valuesOf(locals), [1, 2, 3], 'a step without it changes nothing');
  t.false(locals.decide(5, true));
  t.deepEqual(valuesOf(locals), [0, 0, 0]);
});

test('a snapshot has what is kept after the last record, byte for byte, and nothing where all is zero', (t) => {
  const before = tf.memory().numTensors;
  const power: Slot = {
    name: 'p',
    shape: [4, 3],
    index: 1,
    policy: 'power',
    rule: 'power',
    feedback: 'gradient',
    rank: 2,
    phase: 0,
    buffers: { feedback: 'int8', moment: 'int8' },
  };
  const slots = [SLOT, power];
  const locals = new LocalStates();
  t.deepEqual(locals.clone(slots), []);
  work(locals, 1, 2);
  locals.propose(power, { feedback_codes: Uint8Array.from({ length: 16 }, (_, i) => i) });
  locals.decide(1, true);
  work(locals, 2, 7); // under way: not in the snapshot
  const values = locals
    .clone(slots)
    .map((value) => (value instanceof tf.Tensor ? value : (value as Uint8Array)));
  locals.dispose();
  const arrays = values.map((value) =>
    value instanceof tf.Tensor ? (value.dataSync() as Float32Array) : value,
  );
  t.deepEqual(arrays, [Float32Array.of(2, 2, 2), Uint8Array.from({ length: 16 }, (_, i) => i)]);
  const again = new LocalStates();
  again.restore(slots, new Map(localTensors(slots).map(({ name }, i) => [name, arrays[i]!.slice()])));
  t.deepEqual(valuesOf(again), [2, 2, 2]);
  t.deepEqual(again.get(power)['feedback_codes'], arrays[1]);
  again.dispose();
  tf.dispose(values.filter((value) => value instanceof tf.Tensor));
  t.is(tf.memory().numTensors, before);
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
  locals.carry({ oldSlot: projected, oldBasis: bases[0]!, newSlot: atRank1, newBasis: bases[1]! }, CARRY);
  tf.dispose(bases);
  t.deepEqual(valuesOf(locals), [2, 2, 2]);
  t.deepEqual(valuesOf(locals, atRank1), Array(4).fill(Math.fround(Math.SQRT1_2)));
});
