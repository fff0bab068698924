/** Feedback of what 4 bits round away, through the steps of a trainer, and its end before a new basis. */
import test, { type ExecutionContext } from 'ava';
import { codecFor, type CodecName } from '../../src/galore/codec/codec.ts';
import {
  basisShape,
  hasBasis,
  isFlushed,
  sizeOf,
  subspaceShape,
  type ProjectedSlot,
} from '../../src/galore/slot.ts';
import { StepDesk } from '../../src/coordinator/step-desk.ts';
import { crc32c } from '../../src/protocol/crc32c.ts';
import { codecsInUse, payloadSize } from '../../src/protocol/slot-sizes.ts';
import { buildRunShape } from '../../src/run-shape.ts';
import type { StepTask } from '../../src/trainer/step.ts';
import { resolve, MINIMAL } from '../config/parse.ts';
import { partsOf } from '../coordinator/tiny-run.ts';
import { orthonormalMatrix } from '../galore/matrices.ts';
import { type Tensor } from '../galore/tensors.ts';
import { tinyBatch, tinyConfig, tinyWeights } from '../helpers/tiny-llama.ts';

const { LocalStates } = await import('../../src/trainer/local-states.ts');
const { Replica } = await import('../../src/trainer/replica.ts');
const { StepWork } = await import('../../src/trainer/step.ts');
const { LlamaModel } = await import('../../src/trainer/model/llama.ts');

// Wide enough for payloads that are not f32 anyway: R of the mlp is [160, 32].
const MODEL = tinyConfig({ hiddenSize: 64, intermediateSize: 160, numHiddenLayers: 1, headDim: 16 });
const config = resolve(MINIMAL, 'method.rank=32', 'wire.codec=int4', 'seq_len=8');
const shape = buildRunShape(config, MODEL);
const { slots } = shape;
const projected = slots.filter(hasBasis);
const flushed = slots.filter(isFlushed);

const CARRY = { moments: 'transport', betas: [0.9, 0.99] } as const;

interface Sent {
  readonly codec: CodecName;
  readonly bytes: Uint8Array;
  readonly values: Float32Array;
}

function bases(label: string) {
  return new Map(
    projected.map((slot) => {
      const [rows, columns] = basisShape(slot);
      const values = Float32Array.from(orthonormalMatrix(rows, columns, label, slot.index).values);
      return [slot.index, { codec: 'f32' as const, bytes: new Uint8Array(values.buffer) }];
    }),
  );
}

function startTrainer(t: ExecutionContext) {
  const state = new Map([...tinyWeights(MODEL)].map(([name, values]) => [`weights/${name}`, values]));
  const replica = new Replica(slots, state, config);
  replica.installBases(1, bases('p'), []);
  const model = new LlamaModel(MODEL, replica.weights, { recompute: false, lossChunk: 0 });
  const locals = new LocalStates();
  t.teardown(() => (locals.dispose(), replica.dispose()));
  /** A step whose contribution counts; `seed` is that of its batch. */
  const step = (number: number, seed: number, fields: Partial<StepTask> = {}): Map<number, Sent> => {
    const sent = new Map<number, Sent>();
    const task = {
      ...{ step: number, seed: 1, trainerId: 'a', refreshSlots: [], flushSlots: [], codecs: shape.codecs },
      ...{ stepTokens: config.batch_size * config.seq_len, refresh: shape.refresh, slots },
      ...{ batches: [tinyBatch(MODEL, 2, 7, seed)], ...fields },
    };
    const work = new StepWork(task, replica, locals, {
      contribution(slot, codec, bytes) {
        const values = codecFor(codec).decode(bytes, sizeOf(subspaceShape(slot)));
        sent.set(slot.index, { codec, bytes, values });
      },
      sketch() {},
    });
    work.computeGradients(model);
    work.contributeHeld();
    locals.decide(number, true);
    return sent;
  };
  const residual = (slot: ProjectedSlot) =>
    (locals.get(slot)['residual'] as Tensor).dataSync<'float32'>() as Float32Array;
  return { replica, locals, step, residual };
}

test('payloads of 4 bits have feedback unless their group says otherwise; shorter and f32 ones have none', (t) => {
  t.true(flushed.length >= 3);
  for (const slot of slots) {
    const { codec } = payloadSize(shape.sizes[slot.index]!, 'contribution', 1);
    t.is(slot.feedback, codec === 'int4' ? 'payload' : undefined, slot.name);
  }
  const groups =
    'method.param_groups=[{match: [gate_proj], feedback: none}, {match: [up_proj], codec: int8}]';
  const other = buildRunShape(resolve(MINIMAL, 'method.rank=32', 'wire.codec=int4', groups), MODEL);
  const feedback = (part: string) => other.slots.find(({ name }) => name.includes(part))!.feedback;
  t.deepEqual(['gate_proj', 'up_proj', 'down_proj'].map(feedback), [undefined, undefined, 'payload']);
  t.deepEqual([...codecsInUse(other.sizes)].sort(), ['f32', 'int4', 'int8']);
});

test('what was sent in 4 bits and what is kept add up to the gradients, and a flush leaves nothing', (t) => {
  const { step, residual } = startTrainer(t);
  const exact = startTrainer(t);
  const inF32 = { codecs: shape.codecs.map(() => ({ contribution: 'f32', update: 'f32' }) as const) };
  const gradients = new Map(
    flushed.map(({ index }) => [index, new Float64Array(sizeOf(subspaceShape(slots[index]!)))]),
  );
  const sums = new Map([...gradients].map(([index, { length }]) => [index, new Float64Array(length)]));
  const flushSlots = flushed.map(({ index }) => index);
  for (let number = 2; number <= 6; number++) {
    const isLast = number === 6;
    const whole = exact.step(number, number, inF32);
    const sent = step(number, number, isLast ? { flushSlots } : {});
    for (const slot of flushed) {
      const gradient = gradients.get(slot.index)!;
      const sum = sums.get(slot.index)!;
      const { codec, values } = sent.get(slot.index)!;
      t.is(codec, isLast ? 'f32' : 'int4');
      const kept = residual(slot as ProjectedSlot);
      whole.get(slot.index)!.values.forEach((x, i) => (gradient[i]! += x));
      values.forEach((x, i) => (sum[i]! += x));
      const scale = Math.max(...gradient.map(Math.abs));
      const apart = Math.max(...gradient.map((x, i) => Math.abs(x - sum[i]! - kept[i]!)));
      t.true(apart <= 1e-6 * scale, `step ${number}, ${slot.name}: ${apart} of ${scale}`);
      const left = Math.max(...kept.map(Math.abs));
      t.true(isLast ? left === 0 : left > 1e-3 * scale, `step ${number}, ${slot.name}: ${left} is kept`);
    }
  }
});

test('what a trainer that missed the flush has kept goes with it into the new basis', (t) => {
  const { replica, locals, step, residual } = startTrainer(t);
  step(2, 2);
  const [slot] = flushed as [ProjectedSlot];
  const [rows, rank] = basisShape(slot);
  const before = residual(slot).slice();
  const change = bases('q');
  replica.installBases(3, change, [], (of) => locals.carry(of, CARRY));
  // R = GP: what is kept is K' = K (P'Q) with P the old and Q the new basis.
  const p = orthonormalMatrix(rows, rank, 'p', slot.index).values;
  const q = orthonormalMatrix(rows, rank, 'q', slot.index).values;
  const after = residual(slot);
  t.is(slot.side, 'right');
  for (const [row, column] of [
    [0, 0],
    [3, 5],
    [60, 31],
  ] as const) {
    let wanted = 0;
    for (let k = 0; k < rank; k++) {
      let overlap = 0;
      for (let i = 0; i < rows; i++) overlap += p[i * rank + k]! * q[i * rank + column]!;
      wanted += before[row * rank + k]! * overlap;
    }
    t.true(Math.abs(after[row * rank + column]! - wanted) < 1e-6 * Math.max(...before.map(Math.abs)));
  }
});

test('the coordinator takes a flushed slot as f32 and refuses it in its codec, in other steps the reverse', (t) => {
  const { step } = startTrainer(t);
  const flushSlots = flushed.map(({ index }) => index);
  const offer = (number: number, isFlushed_: boolean, isExpected: boolean): void => {
    const sent = step(number, number, isFlushed_ ? { flushSlots } : {});
    const desk = new StepDesk(config, shape, 1);
    const assignment = { step: number, positions: [1, 2], refreshSlots: [], waitMs: 0 };
    desk.assigned({ type: 'assignStep', trainerId: 'a', ...assignment }, isExpected ? flushSlots : []);
    let checksum = 0;
    for (const [tensor, { codec, bytes }] of sent) {
      for (const part of partsOf(
        { stream: 'contribution', step: number, round: 0, tensor, codec } as never,
        bytes,
      )) {
        desk.acceptPart('a', part);
        checksum = crc32c(part.payload, checksum);
      }
    }
    desk.acceptContribution('a', { kind: 'contribution', step: number, tokens: 8, lossSum: 1, checksum });
  };
  t.notThrows(() => offer(2, true, true));
  t.notThrows(() => offer(3, false, false));
  t.throws(() => offer(4, true, false), { message: /codec|bytes/ });
  t.throws(() => offer(5, false, true), { message: /codec|bytes/ });
});
