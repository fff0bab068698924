import test, { type ExecutionContext } from 'ava';
import { unitBasis } from '../../src/galore/projection/sketch.ts';
import {
  basisShape,
  payloadShape,
  sizeOf,
  subspaceShape,
  withRanks,
  type ProjectedSlot,
} from '../../src/galore/slot.ts';
import { stateTensors } from '../../src/galore/state-table.ts';
import { payloadSize } from '../../src/protocol/slot-sizes.ts';
import type { EncodedTensor } from '../../src/trainer/replica.ts';
import { bytesFor, tinyRun } from '../coordinator/tiny-run.ts';
import { orthonormalMatrix } from '../galore/matrices.ts';
import { tf, type Tensor } from '../galore/tensors.ts';
import { tinyConfig, tinyWeights } from '../helpers/tiny-llama.ts';

const { tensorOfCopy } = await import('../../src/trainer/tensor-of-copy.ts');
const { Replica } = await import('../../src/trainer/replica.ts');
const { config, shape, projected } = tinyRun();
const { slots } = shape;
const TABLE = stateTensors(slots);

function firstState(): Map<string, Float32Array> {
  return new Map([...tinyWeights(tinyConfig())].map(([name, values]) => [`weights/${name}`, values]));
}

function startReplica(t: ExecutionContext, state: ReadonlyMap<string, Float32Array>, options = config) {
  const replica = new Replica(slots, state, options);
  t.teardown(() => replica.dispose());
  return replica;
}

function bases(label: string, indices: readonly number[] = projected): Map<number, EncodedTensor> {
  return new Map(
    indices.map((index) => {
      const [rows, columns] = basisShape(slots[index] as ProjectedSlot);
      const values = Float32Array.from(orthonormalMatrix(rows, columns, label, index).values);
      return [index, { codec: 'f32', bytes: new Uint8Array(values.buffer) }];
    }),
  );
}

function update(label: string): Map<number, EncodedTensor> {
  return new Map(
    shape.sizes.map((sizes, index) => [
      index,
      { codec: 'f32', bytes: bytesFor(payloadSize(sizes, 'update', 1), label, index) },
    ]),
  );
}

type Started = ReturnType<typeof startReplica>;

/** Reads the state out as a snapshot would. */
function snapshotOf(replica: Started): Map<string, Float32Array> {
  const clones = replica.cloneState();
  const state = new Map(
    clones.map((tensor, i) => [TABLE[i]!.name, Float32Array.from((tensor as Tensor).dataSync())]),
  );
  tf.dispose(clones as Tensor[]);
  return state;
}

/** A refresh in step 1, updates of steps 1 and 2. */
function advanceTwoSteps(replica: Started): void {
  replica.installBases(1, bases('p'), []);
  replica.applyUpdate(1, 0.01, update('one'));
  replica.applyUpdate(2, 0.01, update('two'));
}

test.serial('equal snapshots and records give equal states', (t) => {
  const [a, b] = [startReplica(t, firstState()), startReplica(t, firstState())];
  const before = a.weightsSha256();
  for (const replica of [a, b]) advanceTwoSteps(replica);
  t.deepEqual(snapshotOf(a), snapshotOf(b));
  t.deepEqual(a.weightsSha256(), b.weightsSha256());
  t.notDeepEqual(a.weightsSha256(), before);
});

for (const rule of ['keep', 'reset', 'transport'] as const) {
  test.serial(
    `a snapshot between the bases of a step and its update goes on as if there had been none (${rule})`,
    (t) => {
      const options = { ...config, method: { ...config.method, moments: rule } };
      const one = startReplica(t, firstState(), options);
      advanceTwoSteps(one);
      one.installBases(3, bases('q'), []);
      const other = startReplica(t, snapshotOf(one), options);
      for (const replica of [one, other]) replica.applyUpdate(3, 0.01, update('three'));
      t.deepEqual(snapshotOf(other), snapshotOf(one));
    },
  );
}

test.serial('a kept slot keeps its basis and gets the first unit vectors if it has none', (t) => {
  const replica = startReplica(t, firstState());
  const [first = 0, second = 0] = projected;
  const slot = slots[second] as ProjectedSlot;
  t.throws(() => replica.basis(slot), { message: /has no basis yet/ });
  replica.installBases(1, bases('p', [first]), [second]);
  t.deepEqual([...replica.basis(slot).dataSync()], [...unitBasis(slot)]);
  replica.installBases(2, bases('q', [second]), []);
  const q = [...replica.basis(slot).dataSync()];
  replica.installBases(3, bases('r', [first]), [second]);
  t.deepEqual([...replica.basis(slot).dataSync()], q);
});

test.serial('no tensors are left behind by records, hashes and snapshots, or after the end', (t) => {
  const before = tf.memory().numTensors;
  const replica = new Replica(slots, firstState(), config);
  advanceTwoSteps(replica);
  t.is(tf.memory().numTensors - before, TABLE.length, 'the state and nothing else');
  for (let step = 3; step < 6; step++) {
    replica.installBases(step, bases(`p${step}`), []);
    replica.applyUpdate(step, 0.01, update(`u${step}`));
    replica.weightsSha256();
    snapshotOf(replica);
  }
  t.is(tf.memory().numTensors - before, TABLE.length);
  replica.dispose();
  t.is(tf.memory().numTensors, before);
});

test.serial('a clone of the state stays as it was while steps go on', (t) => {
  const replica = startReplica(t, firstState());
  advanceTwoSteps(replica);
  const before = snapshotOf(replica);
  const clones = replica.cloneState();
  replica.applyUpdate(3, 0.01, update('three'));
  const read = new Map(
    clones.map((tensor, i) => [TABLE[i]!.name, Float32Array.from((tensor as Tensor).dataSync())]),
  );
  tf.dispose(clones as Tensor[]);
  t.deepEqual(read, before);
});

test.serial('a snapshot that lacks a weight is refused and leaves no tensor', (t) => {
  const before = tf.memory().numTensors;
  const state = firstState();
  state.delete('weights/lm_head.weight');
  t.throws(() => new Replica(slots, state, config), { message: /no weights\/lm_head.weight/ });
  t.is(tf.memory().numTensors, before);
});

/** Bases of another rank for these slots, and an update that fits them. */
function atRank(rank: number, label: string) {
  const ranked = withRanks(slots, new Map(projected.map((index) => [index, rank])));
  const fresh = new Map(
    projected.map((index) => {
      const [rows, columns] = basisShape(ranked[index] as ProjectedSlot);
      const values = Float32Array.from(orthonormalMatrix(rows, columns, label, index).values);
      return [index, { codec: 'f32' as const, bytes: new Uint8Array(values.buffer) }];
    }),
  );
  const payload = new Map(
    ranked.map((slot) => {
      const totalBytes = 4 * sizeOf(payloadShape(slot, 1));
      return [
        slot.index,
        { codec: 'f32' as const, bytes: bytesFor({ codec: 'f32', totalBytes }, label, slot.index) },
      ];
    }),
  );
  return { ranked, fresh, payload };
}

test.serial('a basis of another rank takes the moments along, and a snapshot of it goes on alike', (t) => {
  const one = startReplica(t, firstState());
  const before = tf.memory().numTensors;
  advanceTwoSteps(one);
  for (const [step, rank] of [
    [3, 2],
    [4, 4],
  ] as const) {
    const { ranked, fresh, payload } = atRank(rank, `rank ${rank}`);
    one.installBases(step, fresh, []);
    t.deepEqual(one.slots, ranked);
    const table = stateTensors(ranked);
    const clones = one.cloneState() as Tensor[];
    const state = new Map(clones.map((tensor, i) => [table[i]!.name, Float32Array.from(tensor.dataSync())]));
    tf.dispose(clones);
    const moments = state.get(`m/${ranked[projected[0]!]!.name}`)!;
    t.is(moments.length, sizeOf(subspaceShape(ranked[projected[0]!]!)));
    t.true(
      moments.some((value) => value !== 0),
      'they were carried over',
    );
    const other = new Replica(ranked, state, config);
    for (const replica of [one, other]) replica.applyUpdate(step, 0.01, payload);
    t.deepEqual(other.weightsSha256(), one.weightsSha256());
    other.dispose();
  }
  t.is(tf.memory().numTensors - before, projected.length, 'the bases and nothing else');
});

test.serial('a first basis of another rank than configured starts with moments of that rank', (t) => {
  const replica = startReplica(t, firstState());
  const { ranked, fresh, payload } = atRank(2, 'first');
  replica.installBases(1, fresh, []);
  t.notThrows(() => replica.applyUpdate(1, 0.01, payload));
  t.deepEqual(replica.slots, ranked);
  const slot = ranked[projected[0]!] as ProjectedSlot;
  const basis = replica.basis(slot).dataSync().slice() as Float32Array;
  t.true(Math.abs(replica.similarity(slot, basis) - 1) < 1e-6);
});

test.serial('a tensor of a copy keeps its numbers when the array is written over, wherever it lies', (t) => {
  const before = tf.memory().numTensors;
  const scratch = new Float32Array(32);
  const numbers = [1, 2, -3, -0, 5e-40, 6];
  // Of 16 neighbours one lies on a boundary of 64 bytes, where TensorFlow works on the array itself.
  for (let offset = 0; offset < 16; offset += 1) {
    for (const shape of [[6], [2, 3]]) {
      scratch.set(numbers, offset);
      const expected = [...scratch.subarray(offset, offset + 6)];
      const tensor = tensorOfCopy(scratch.subarray(offset, offset + 6), shape);
      const clone = tf.clone(tensor);
      scratch.fill(0);
      t.deepEqual([...tensor.dataSync()], expected);
      t.deepEqual([...clone.dataSync()], expected);
      tf.dispose([tensor, clone]);
    }
  }
  t.is(tf.memory().numTensors, before);
});
