// Shares of any size give the weights of one trainer: contributions are weighted by tokens, sums add up.
import test, { type ExecutionContext } from 'ava';
import { sealUpdate } from '../../src/coordinator/update-sums.ts';
import { basisShape, hasBasis, type Slot } from '../../src/galore/slot.ts';
import { FIRST_DIGEST } from '../../src/protocol/digest.ts';
import { decodeEnvelope } from '../../src/protocol/envelope.ts';
import type { TokenBatch } from '../../src/trainer/model/batch.ts';
import { tinyRun } from '../coordinator/tiny-run.ts';
import { orthonormalMatrix } from '../galore/matrices.ts';
import '../galore/tensors.ts';
import { relativeDifference } from '../helpers/galore.ts';
import { tinyBatch, tinyConfig, tinyWeights } from '../helpers/tiny-llama.ts';

const { LocalStates } = await import('../../src/trainer/local-states.ts');
const { Replica } = await import('../../src/trainer/replica.ts');
const { StepWork } = await import('../../src/trainer/step.ts');
const { LlamaModel } = await import('../../src/trainer/model/llama.ts');

const MODEL = tinyConfig();
const STEPS = 6;
const SEQUENCES = 8;
const LENGTH = 7;

/** Micro-batches of one: sequences `from` up to `to` of step `step`. */
function sequencesOf(step: number, from: number, to: number): TokenBatch[] {
  const { ids, labels } = tinyBatch(MODEL, SEQUENCES, LENGTH, step);
  return Array.from({ length: to - from }, (_, i) => {
    const range = [(from + i) * LENGTH, (from + i + 1) * LENGTH] as const;
    return { ids: ids.slice(...range), labels: labels.slice(...range), sequences: 1, length: LENGTH };
  });
}

interface Options {
  /** false: as if all had equal tokens. */
  readonly isWeighted?: boolean;
  readonly maxGradNorm?: number | undefined;
  /** Told of every tensor that is sent. */
  readonly onSent?: (slot: Slot, bytes: Uint8Array) => void;
}

/** The weights after a few steps of trainers with these shares. */
function trainWith(
  t: ExecutionContext,
  settings: readonly string[],
  shares: readonly number[],
  { isWeighted = true, maxGradNorm, onSent }: Options = {},
): ReadonlyMap<string, Float32Array> {
  const { config, shape } = tinyRun(...settings);
  const { slots, codecs, refresh } = shape;
  const first = new Map([...tinyWeights(MODEL)].map(([name, values]) => [`weights/${name}`, values]));
  const replica = new Replica(slots, first, config);
  t.teardown(() => replica.dispose());
  const bases = slots.filter(({ policy }) => policy === 'one-sided').filter(hasBasis);
  replica.installBases(
    1,
    new Map(
      bases.map((slot) => {
        const values = Float32Array.from(orthonormalMatrix(...basisShape(slot), 'p', slot.index).values);
        return [slot.index, { codec: 'f32', bytes: new Uint8Array(values.buffer) }];
      }),
    ),
    [],
  );
  const model = new LlamaModel(MODEL, replica.weights, { recompute: false, lossChunk: 0 });
  const locals = shares.map(() => new LocalStates());
  t.teardown(() => locals.forEach((each) => each.dispose()));
  for (let step = 1; step <= STEPS; step++) {
    let from = 0;
    const sent = shares.map((share, i) => {
      const tensors = new Map<number, { codec: 'f32'; bytes: Uint8Array }>();
      const batches = sequencesOf(step, from, from + share);
      from += share;
      const work = new StepWork(
        {
          ...{
            step,
            seed: 1,
            trainerId: `trainer-${i}`,
            refreshSlots: [],
            flushSlots: [],
            codecs,
            refresh,
            slots,
            batches,
          },
          stepTokens: SEQUENCES * LENGTH,
        },
        replica,
        locals[i]!,
        {
          contribution: (slot, _, bytes) => {
            onSent?.(slot, bytes);
            tensors.set(slot.index, { codec: 'f32', bytes: bytes.slice() });
          },
          sketch: () => t.fail('nothing is refreshed'),
        },
      );
      work.computeGradients(model);
      return { tokens: work.tokens, tensors };
    });
    const total = sent.reduce((sum, { tokens }) => sum + tokens, 0);
    const { frames } = sealUpdate(
      { sequence: step, step, previousDigest: FIRST_DIGEST },
      {
        ...{ slots, codecs, seed: 1, learningRate: 0.01, maxGradNorm, received: [], shards: [] },
        cursor: { next: 0, returned: [] },
        contributions: sent.map(({ tokens, tensors }) => ({
          weight: isWeighted ? tokens / total : 1 / shares.length,
          tensors,
        })),
      },
    );
    const update = frames.flatMap((frame) => {
      const message = decodeEnvelope(frame, 'coordinator');
      if (message.kind !== 'part') return [];
      return [[message.tensor, { codec: 'f32', bytes: message.payload.slice() }] as const];
    });
    replica.applyUpdate(step, 0.01, new Map(update));
    for (const each of locals) each.decide(step, true);
  }
  const names = slots.map(({ name }) => name);
  return new Map(names.map((name) => [name, replica.weights.get(name).dataSync() as Float32Array]));
}

test.serial('f32: trainers with 6 and 2 of 8 sequences have the weights of one trainer', (t) => {
  const one = trainWith(t, [], [8]);
  const moved = relativeDifference(trainWith(t, [], [6, 2], { isWeighted: false }), one);
  for (const shares of [
    [6, 2],
    [2, 6],
    [5, 2, 1],
  ]) {
    const difference = relativeDifference(trainWith(t, [], shares), one);
    t.log(`${shares.join(' + ')}: weights within ${difference.toExponential(2)}`);
    t.true(difference <= 1e-5, `${difference}`);
  }
  // Without the weights the same comparison fails by far.
  t.true(moved >= 1e-3, `${moved}`);
});

test.serial('power in f32: what trainers with 6 and 2 of 8 sequences keep and send adds up, too', (t) => {
  const settings = ['method.name=power', 'method.feedback_dtype=f32', 'method.moment_dtype=f32'];
  const one = trainWith(t, settings, [8]);
  const difference = relativeDifference(trainWith(t, settings, [6, 2]), one);
  t.log(`weights within ${difference.toExponential(2)}`);
  t.true(difference <= 1e-4, `${difference}`);
});

test.serial('row-sparse in f32: 1, 2 and 3 trainers have, bit for bit, the weights of policy dense', (t) => {
  const group = (policy: string) => [`method.param_groups=[{match: [embed_tokens], policy: ${policy}}]`];
  for (const maxGradNorm of [undefined, 0.1]) {
    for (const shares of [[1], [1, 1], [1, 1, 1]]) {
      const dense = trainWith(t, group('dense'), shares, { maxGradNorm });
      const lengths = new Set<number>();
      const sparse = trainWith(t, group('row-sparse'), shares, {
        maxGradNorm,
        onSent: ({ policy }, bytes) => policy === 'row-sparse' && lengths.add(bytes.length),
      });
      t.deepEqual(sparse, dense);
      // At most 7 of the 19 rows of 16 numbers each, and not the same number in every step.
      t.true(lengths.size > 1 && Math.max(...lengths) <= 4 + 7 * (4 + 4 * 16));
    }
  }
});

test.serial('row-sparse: micro-batches send the rows of all of them together', (t) => {
  const settings = ['method.param_groups=[{match: [embed_tokens], policy: row-sparse}]'];
  const one = trainWith(t, settings, [3]);
  for (const shares of [
    [2, 1],
    [1, 1, 1],
  ]) {
    const difference = relativeDifference(trainWith(t, settings, shares), one);
    t.log(`${shares.join(' + ')}: weights within ${difference.toExponential(2)}`);
    t.true(difference <= 1e-5, `${difference}`);
  }
});
