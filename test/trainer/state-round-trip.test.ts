/** The state of the rules, from a replica over the wire to a checkpoint and back into another replica. */
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { feedTrainer } from '../../src/coordinator/feed.ts';
import { CheckpointJob } from '../../src/coordinator/checkpoint-job.ts';
import { beginCheckpoint, openCheckpoint } from '../../src/coordinator/store/checkpoint.ts';
import { openSafetensors } from '../../src/files/safetensors.ts';
import type { RuleName } from '../../src/galore/optimizer/rule-state.ts';
import { basisRows, buildSlots, hasBasis, sizeOf, type Policy, type Slot } from '../../src/galore/slot.ts';
import { stateTensors } from '../../src/galore/state-table.ts';
import { decodeEnvelope, encodeEnvelope } from '../../src/protocol/envelope.ts';
import { PartAssembler, splitIntoParts, type TensorHeader } from '../../src/protocol/parts.ts';
import { derive, randomUint32 } from '../../src/random.ts';
import { buildRunShape } from '../../src/run-shape.ts';
import { payloadSize } from '../../src/protocol/slot-sizes.ts';
import type { EncodedTensor } from '../../src/trainer/replica.ts';
import { runFacts } from '../coordinator/store/checkpoints.ts';
import { bytesFor } from '../coordinator/tiny-run.ts';
import { resolve, MINIMAL } from '../config/parse.ts';
import { orthonormalMatrix } from '../galore/matrices.ts';
import { tf, type Tensor } from '../galore/tensors.ts';
import { tinyConfig, tinyWeights } from '../helpers/tiny-llama.ts';
import { temporaryDir } from '../temporary-dir.ts';

const { Replica } = await import('../../src/trainer/replica.ts');
const { SnapshotUpload } = await import('../../src/trainer/snapshot-upload.ts');
type Started = InstanceType<typeof Replica>;
type State = Map<string, Float32Array | Uint8Array>;

const OPTIONS = resolve(MINIMAL);
const STEP = 3;

/** Large enough that 8-bit states are bytes; a part of 1 MiB does not hold the largest. */
const TENSORS = [
  { name: 'model.embed_tokens.weight', shape: [80, 64] },
  { name: 'model.layers.0.mlp.up_proj.weight', shape: [96, 64] },
  { name: 'model.layers.0.mlp.down_proj.weight', shape: [520, 520] },
  { name: 'model.norm.weight', shape: [64] },
];

function slotsOf(rule: RuleName, policy: Policy): readonly Slot[] {
  const options = {
    policy,
    rank: 48,
    projType: 'std',
    targetModules: ['mlp'],
    rule,
    plainRule: rule,
  } as const;
  return buildSlots(TENSORS, options);
}

/** A state in which every byte matters: no two tensors alike, u8 codes over the whole range. */
function stateOf(slots: readonly Slot[]): State {
  return new Map(
    stateTensors(slots).map(({ name, shape, dtype }) => {
      const key = derive(5, name);
      const numbers = Array.from({ length: sizeOf(shape) }, (_, i) => randomUint32(key, i) % 251);
      return [name, dtype === 'u8' ? Uint8Array.from(numbers) : Float32Array.from(numbers, (x) => x / 7 - 3)];
    }),
  );
}

/** What a trainer sends for a checkpoint, as the frames of its Parts. */
async function uploadOf(slots: readonly Slot[], state: State): Promise<Uint8Array[]> {
  const replica = new Replica(slots, state, OPTIONS);
  const sending = framesOf(replica);
  replica.dispose();
  return sending;
}

async function framesOf(replica: Started): Promise<Uint8Array[]> {
  const frames: Uint8Array[] = [];
  const link = {
    drained: () => Promise.resolve(),
    sendTensor: (header: TensorHeader, bytes: Uint8Array) => {
      for (const part of splitIntoParts(header, bytes)) frames.push(encodeEnvelope(part));
    },
    send: () => {},
  };
  const upload = new SnapshotUpload(replica.cloneState(), link, STEP, 2 * STEP);
  await upload.run();
  return frames;
}

async function storeUpload(
  dir: string,
  slots: readonly Slot[],
  frames: readonly Uint8Array[],
): Promise<void> {
  const table = stateTensors(slots);
  const writer = await beginCheckpoint(dir, STEP, table, { configJson: '{}' });
  const job = new CheckpointJob({ facts: runFacts(STEP), shared: table, local: [] }, Promise.resolve(writer));
  job.expect('a', false);
  const intake = job.intakeOf('a')!;
  try {
    for (const frame of frames) {
      const part = decodeEnvelope(frame, 'trainer');
      if (part.kind === 'part') intake.accept(part);
    }
  } catch (error) {
    await job.abandon();
    throw error;
  }
  await job.finish(['a']);
}

/** What a trainer that joins makes of the checkpoint. */
async function joinFrom(dir: string): Promise<State> {
  const checkpoint = await openCheckpoint(dir, STEP);
  const infos = checkpoint.tensors.map(({ name, dtype, totalBytes }) => ({ name, codec: dtype, totalBytes }));
  const assembler = new PartAssembler(({ tensor }) => infos[tensor]!);
  const state: State = new Map();
  const sendBulk = async (frames: AsyncIterable<Uint8Array> | Iterable<Uint8Array>): Promise<boolean> => {
    for await (const frame of frames) {
      const message = decodeEnvelope(frame, 'coordinator');
      const tensor = message.kind === 'part' ? assembler.accept(message) : null;
      if (tensor === null) continue;
      const { bytes, codec } = tensor;
      state.set(infos[tensor.tensor]!.name, codec === 'u8' ? bytes : new Float32Array(bytes.buffer));
    }
    return true;
  };
  // No record follows the checkpoint.
  const nextSequence = 2 * STEP + 1;
  const journal = {
    nextSequence,
    readRecord: () => Promise.reject(new Error('there is no record')) as never,
  };
  await feedTrainer(
    { sendBulk },
    { snapshot: checkpoint, firstTensor: 0, nextSequence },
    journal,
    { pace: (frames) => frames as AsyncGenerator<Uint8Array> },
    () => {},
  );
  return state;
}

/** What another replica would be given if it joined now. */
async function sent(t: ExecutionContext, slots: readonly Slot[], replica: Started): Promise<State> {
  const dir = join(temporaryDir(t), 'checkpoints');
  await storeUpload(dir, slots, await framesOf(replica));
  return joinFrom(dir);
}

function isEqual(a: Float32Array | Uint8Array, b: Float32Array | Uint8Array): boolean {
  return a.constructor === b.constructor && Buffer.compare(bytesOf(a), bytesOf(b)) === 0;
}

function bytesOf({ buffer, byteOffset, byteLength }: Float32Array | Uint8Array): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}

async function roundTrip(t: ExecutionContext, slots: readonly Slot[]): Promise<string> {
  const before = tf.memory().numTensors;
  const dir = join(temporaryDir(t), 'checkpoints');
  const state = stateOf(slots);
  await storeUpload(dir, slots, await uploadOf(slots, state));
  const joined = await joinFrom(dir);
  t.deepEqual([...joined.keys()].sort(), [...state.keys()].sort());
  for (const [name, values] of joined) t.true(isEqual(values, state.get(name)!), name);
  const replica = new Replica(slots, joined, OPTIONS);
  const clones = replica.cloneState();
  for (const [index, { name }] of stateTensors(slots).entries()) {
    const clone = clones[index]!;
    if (typeof clone === 'function') throw new TypeError(`${name} is no tensor`);
    const values = clone instanceof Uint8Array ? clone : (clone.dataSync() as Float32Array);
    t.true(isEqual(values, state.get(name)!), name);
  }
  tf.dispose(clones as Tensor[]);
  replica.dispose();
  t.is(tf.memory().numTensors, before, 'no tensor is left');
  return dir;
}

test.serial(
  'codes come back as they were; they are U8 in optimizer.safetensors, their scales F32',
  async (t) => {
    const dir = await roundTrip(t, slotsOf('adamw-8bit', 'one-sided'));
    const file = await openSafetensors(join(dir, 'step-000003', 'optimizer.safetensors'));
    t.teardown(() => file.close());
    const { dtype, shape } = file.tensors.get('m_codes/model.layers.0.mlp.up_proj.weight')!;
    t.deepEqual([dtype, shape], ['U8', [96 * 48]]);
    t.is(file.tensors.get('v_scales/model.layers.0.mlp.up_proj.weight')?.dtype, 'F32');
    t.is(file.tensors.get('m/model.norm.weight')?.dtype, 'F32', 'small states stay floats');
  },
);

test.serial(
  'bytes where the table has floats, or floats where it has bytes, are refused on upload',
  async (t) => {
    const slots = slotsOf('adamw-8bit', 'one-sided');
    const frames = await uploadOf(slots, stateOf(slots));
    const table = stateTensors(slots);
    for (const [kind, wrong] of [
      ['m_codes', 'f32'],
      ['m_scales', 'u8'],
    ] as const) {
      const index = table.findIndex((tensor) => tensor.kind === kind);
      const swapped = frames.map((frame) => {
        const part = decodeEnvelope(frame, 'trainer');
        return part.kind === 'part' && part.tensor === index
          ? encodeEnvelope({ ...part, codec: wrong })
          : frame;
      });
      const dir = join(temporaryDir(t), 'checkpoints');
      await t.throwsAsync(storeUpload(dir, slots, swapped), {
        message: new RegExp(`of ${wrong}, tensor ${index} `),
      });
    }
  },
);

test.serial('a snapshot of another run is refused before anything is made of it', (t) => {
  const slots = slotsOf('adamw-8bit', 'one-sided');
  const name = 'm_codes/model.embed_tokens.weight';
  const faults: [State, RegExp][] = [
    [new Map([...stateOf(slots), [name, new Uint8Array(7)]]), /is 7 bytes of u8, not 5120 of u8/],
    [new Map([...stateOf(slots), [name, new Float32Array(1280)]]), /is 5120 bytes of f32, not 5120 of u8/],
    [new Map([...stateOf(slots)].filter(([known]) => known !== name)), /has no m_codes\/model\.embed_tokens/],
    [new Map([...stateOf(slots), ['norm/model.norm.weight', new Float32Array(1)]]), /which this run has not/],
  ];
  const before = tf.memory().numTensors;
  for (const [state, message] of faults) t.throws(() => new Replica(slots, state, OPTIONS), { message });
  t.is(tf.memory().numTensors, before);
});

/** A run over a model whose embedding is large enough for bytes, and records as its coordinator would make them. */
function startRun(...settings: readonly string[]) {
  const config = resolve(MINIMAL, 'wire.codec=f32', 'seq_len=8', ...settings);
  const model = tinyConfig({ vocabSize: 300 });
  const shape = buildRunShape(config, model);
  const bases = (step: number): Map<number, EncodedTensor> => {
    const made = new Map<number, EncodedTensor>();
    for (const slot of shape.slots) {
      if (!hasBasis(slot) || shape.basis === 'power') continue;
      const halves = basisRows(slot).map((rows, half) => [
        ...orthonormalMatrix(rows, slot.rank, 'basis', step, slot.index, half).values,
      ]);
      const bytes = new Uint8Array(Float32Array.from(halves.flat()).buffer);
      made.set(slot.index, { codec: 'f32', bytes });
    }
    return made;
  };
  const update = (step: number): Map<number, EncodedTensor> =>
    new Map(
      shape.sizes.map((sizes, i) => [
        i,
        { codec: 'f32', bytes: bytesFor(payloadSize(sizes, 'update', step), 'update', step, i) },
      ]),
    );
  const start = (state: State): Started => new Replica(shape.slots, state, config);
  const first = (): State =>
    new Map([...tinyWeights(model)].map(([name, values]) => [`weights/${name}`, values]));
  return { shape, start, first, bases, update };
}

const METHODS_AT_WORK: readonly (readonly string[])[] = [
  ['optimizer.name=adamw-8bit'],
  ['optimizer.name=adafactor', 'optimizer.adafactor.beta1=0.9'],
  ['optimizer.name=sgd', 'optimizer.nesterov=true'],
  ['method.name=fira'],
  ['method={name: apollo, basis: svd, moments: transport}'],
  ['method.name=ldadam'],
  ['method.name=sumo'],
  ['method.name=two-sided', 'optimizer.name=adamw-8bit'],
  ['method={name: apollo-mini, rank: 1}'],
  ['method={name: flora, moments: rotate}'],
  ['method.name=q-galore'],
  ['method={name: ldadam, weights: int8, target_modules: [attn, mlp, embed_tokens, lm_head]}'],
];

for (const settings of METHODS_AT_WORK) {
  test.serial(`a trainer that joins goes on with the same bits: ${settings.join(', ')}`, async (t) => {
    const { shape, start, first, bases, update } = startRun(...settings);
    const before = tf.memory().numTensors;
    const steady = start(first());
    steady.installBases(1, bases(1), []);
    for (const step of [1, 2, 3]) steady.applyUpdate(step, 0.01, update(step));
    const joined = start(await sent(t, shape.slots, steady));
    const hashes = [steady, joined].map((replica) => {
      replica.applyUpdate(4, 0.01, update(4));
      replica.installBases(5, bases(5), []);
      for (const step of [5, 6]) replica.applyUpdate(step, 0.01, update(step));
      return Buffer.from(replica.weightsSha256()).toString('hex');
    });
    t.is(hashes[1], hashes[0]);
    t.deepEqual(await sent(t, shape.slots, joined), await sent(t, shape.slots, steady));
    for (const replica of [steady, joined]) replica.dispose();
    t.is(tf.memory().numTensors, before, 'no tensor is left');
  });
}
