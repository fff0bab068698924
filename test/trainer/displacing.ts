/** Local steps through the code of a trainer, the summing of their contributions, and what a record makes of them. */
import type { ExecutionContext } from 'ava';
import type { RunConfig } from '../../src/config/schema.ts';
import { sumEncoded } from '../../src/galore/aggregate/mean.ts';
import { codecFor, type CodecName } from '../../src/galore/codec/codec.ts';
import { learningRate } from '../../src/galore/schedule.ts';
import { basisShape, carriesSums, hasBasis, tensorLength, type Slot } from '../../src/galore/slot.ts';
import type { LlamaConfig } from '../../src/model/llama-config.ts';
import { buildRunShape, stepSequences } from '../../src/run-shape.ts';
import type { DisplacementTask } from '../../src/trainer/displacement-work.ts';
import { hyperparametersOf } from '../../src/trainer/hyperparameters.ts';
import type { TokenBatch } from '../../src/trainer/model/batch.ts';
import type { StepOutput } from '../../src/trainer/step.ts';
import { tinyRun } from '../coordinator/tiny-run.ts';
import { tinyConfig, tinyWeights } from '../helpers/tiny-llama.ts';

const { DisplacementWork } = await import('../../src/trainer/displacement-work.ts');
const { LocalStates } = await import('../../src/trainer/local-states.ts');
const { LocalStep, standInBasis } = await import('../../src/trainer/local-step.ts');
const { Replica } = await import('../../src/trainer/replica.ts');
const { LlamaModel } = await import('../../src/trainer/model/llama.ts');
const { WeightStore } = await import('../../src/trainer/model/weights.ts');

export const MODEL = tinyConfig();
/** What a trainer sends in a step. */
export interface Sent {
  readonly codec: CodecName;
  readonly bytes: Uint8Array;
  readonly values: Float32Array;
}

/** The bases of local-step.ts, or with another label others. */
export function bases(slots: readonly Slot[], shift = 0) {
  return new Map(
    slots.filter(hasBasis).map((slot) => {
      const values = standInBasis(...basisShape(slot), slot.index + shift);
      return [slot.index, { codec: 'f32' as const, bytes: new Uint8Array(values.buffer) }];
    }),
  );
}

export function startTrainer(t: ExecutionContext, ...settings: readonly string[]) {
  return startOn(t, MODEL, tinyRun('local_steps.count=3', ...settings).config);
}

export function startOn(t: ExecutionContext, llama: LlamaConfig, config: RunConfig) {
  const shape = buildRunShape(config, llama);
  const state = new Map([...tinyWeights(llama)].map(([name, values]) => [`weights/${name}`, values]));
  const replica = new Replica(shape.slots, state, config);
  replica.installBases(1, bases(shape.slots), []);
  const model = new LlamaModel(llama, replica.weights, { recompute: false, lossChunk: 0 });
  const locals = new LocalStates();
  t.teardown(() => (locals.dispose(), replica.dispose()));
  const sent = new Map<number, Sent>();
  const sketches = new Map<number, Float32Array>();
  const output: StepOutput = {
    contribution(slot, codec, bytes) {
      const values = codecFor(codec).decode(bytes, tensorLength(slot, step));
      sent.set(slot.index, { codec, bytes: bytes.slice(), values });
    },
    sketch: (slot, _round, values) => sketches.set(slot.index, values.slice()),
  };
  const task = {
    ...{ step: 1, seed: 1, trainerId: 'a', refreshSlots: [], flushSlots: [], codecs: shape.codecs },
    ...{ stepTokens: stepSequences(config) * config.seq_len, refresh: shape.refresh, slots: shape.slots },
  };
  let { step } = task;
  const begin = (
    localBatches: readonly (readonly TokenBatch[])[],
    fields: Partial<DisplacementTask> = {},
  ) => {
    const hyper = { ...hyperparametersOf(config), weightDecay: 0 };
    const learningRateAt = (share: number) => learningRate(config.optimizer, share, config.steps);
    const proximalMu = config.local_steps.proximal_mu;
    const given = { ...task, localBatches, hyper, learningRateAt, proximalMu, ...fields };
    step = given.step;
    return new DisplacementWork(given, replica, locals, output);
  };
  /** A step that counts. */
  const run = (localBatches: readonly (readonly TokenBatch[])[], fields: Partial<DisplacementTask> = {}) => {
    const work = begin(localBatches, fields);
    work.computeGradients(model);
    work.contributeHeld();
    locals.decide(work.task.step, true);
    const contribution = new Map(sent);
    sent.clear();
    return { tokens: work.tokens, lossSum: work.lossSum, contribution };
  };
  return { config, shape, replica, model, locals, sent, sketches, output, task, begin, run };
}

export type Trainer = ReturnType<typeof startTrainer>;
export type Contribution = ReturnType<ReturnType<typeof startTrainer>['run']>;

/**
 * Applies the sum of contributions as the record of a step would, to what the trainer keeps for itself, too.
 * @param shares of the sum; left out: by tokens
 */
export function commit(
  { replica, locals, config }: Pick<Trainer, 'replica' | 'locals' | 'config'>,
  step: number,
  parts: readonly Contribution[],
  shares?: readonly number[],
): void {
  const tokens = parts.reduce((sum, part) => sum + part.tokens, 0);
  const tensors = replica.slots.map((slot) => {
    const given = parts.map((part, i) => {
      const { codec, bytes } = part.contribution.get(slot.index)!;
      const weight = shares?.[i] ?? part.tokens / tokens;
      return { bytes, codec: codecFor(codec), weight: carriesSums(slot) ? 1 : weight };
    });
    const { sum } = sumEncoded(given, tensorLength(slot, step));
    return [slot.index, { codec: 'f32' as const, bytes: new Uint8Array(sum.buffer) }] as const;
  });
  const share = tokens / (stepSequences(config) * config.seq_len);
  const options = { betas: config.optimizer.betas, localSteps: config.local_steps.count };
  replica.applyUpdate(step, 0.01, new Map(tensors));
  locals.takeMeans(replica.slots, step, new Map(tensors), share, options);
}

export function weightsOf(weights: InstanceType<typeof Replica>['weights']): Map<string, Float32Array> {
  return new Map(weights.names().map((name) => [name, weights.get(name).dataSync().slice() as Float32Array]));
}

/** The weights after training on these batches alone, by the rules of a run without local steps. */
export function trainedAlone(
  t: ExecutionContext,
  batches: readonly TokenBatch[],
  settings: readonly string[],
) {
  const { config, shape } = tinyRun(...settings);
  const values = tinyWeights(MODEL);
  const weights = WeightStore.fromArrays(
    shape.slots.map((slot) => ({ ...slot, values: values.get(slot.name)!.slice() })),
  );
  t.teardown(() => weights.dispose());
  const model = new LlamaModel(MODEL, weights, { recompute: false, lossChunk: 0 });
  const local = new LocalStep(model, shape.slots, {
    ...hyperparametersOf(config),
    learningRate: config.optimizer.lr,
  });
  for (const batch of batches) local.run(batch);
  local.dispose();
  return weightsOf(weights);
}
