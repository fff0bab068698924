/** What `galore bench` measures: a model of the paper's sizes and a method, as a run would have them. */
import { Option, type Command } from 'commander';
import { parseRunConfig } from '../config/load.ts';
import type { Override } from '../config/overrides.ts';
import { ConfigError } from '../errors.ts';
import { MODEL_SIZES, type RunConfig } from '../config/schema.ts';
import type { Slot } from '../galore/slot.ts';
import { llamaConfigFromFields, type LlamaConfig } from '../model/llama-config.ts';
import { methodPlan } from '../galore/method.ts';
import { buildRunShape, rankFor } from '../run-shape.ts';
import { hyperparametersOf } from '../trainer/hyperparameters.ts';
import type { DeviceWish } from '../device-name.ts';
import type { Precision } from '../trainer/engine/device.ts';
import type { ReadyDevice } from '../trainer/engine/ready-device.ts';
import type { LocalHyperparameters } from '../trainer/local-step.ts';
import type { MeasuredModel } from '../trainer/measured-model.ts';
import { deviceOption, precisionOption, wholeNumber } from './options.ts';

/** Options that choose what is measured. */
export interface BenchRunFlags {
  readonly model: (typeof MODEL_SIZES)[number];
  readonly vocab: number;
  readonly seq: number;
  readonly method: RunConfig['method']['name'];
  readonly optimizer?: RunConfig['optimizer']['name'];
  readonly rank?: number;
  readonly targetModules?: readonly string[];
  /** Other fields of the run file, laid over all of this. */
  readonly overrides?: readonly Override[];
}

export interface BenchRun {
  readonly model: LlamaConfig;
  readonly slots: readonly Slot[];
  readonly hyper: LocalHyperparameters;
  /** null: the method has no bases. */
  readonly rank: number | null;
}

const LEARNING_RATE = 1e-3;

/** Options that choose how it is measured; the same for every measurement of a model. */
export interface MeasureFlags extends Pick<BenchRunFlags, 'model' | 'vocab' | 'seq' | 'rank'> {
  readonly batch: number;
  readonly device: DeviceWish;
  readonly precision: Precision;
  readonly recompute?: true;
  readonly lossChunk: number;
  readonly threads?: number;
}

/** Adds --model, --vocab, --batch and --seq. */
export function addModelOptions(
  command: Command,
  defaults: { readonly batch: number; readonly seq: number },
): Command {
  return command
    .addOption(new Option('--model <size>', 'a size of the GaLore paper').choices(MODEL_SIZES).default('60m'))
    .option('--vocab <n>', 'tokens of the vocabulary', wholeNumber(2, 10_000_000), 32_000)
    .option('--batch <n>', 'sequences of a step', wholeNumber(1, 65_536), defaults.batch)
    .option('--seq <n>', 'tokens of a sequence', wholeNumber(1, 1_048_576), defaults.seq);
}

/** Adds --rank, --device, --precision, --recompute, --loss-chunk and --threads. */
export function addMeasureOptions(command: Command): Command {
  return command
    .option('--rank <n>', 'rank of the subspace; default: a quarter of the hidden size', wholeNumber(1))
    .addOption(deviceOption())
    .addOption(precisionOption())
    .option('--recompute', 'compute the intermediates again in backward: less memory')
    .option('--loss-chunk <n>', 'rows of the logits computed at once; 0: all', wholeNumber(0), 0)
    .option('--threads <n>', 'CPU threads; default: all cores', wholeNumber(1, 1024));
}

/** What is handed to a measurement. @param cores of this machine */
export function measuredModel(
  flags: MeasureFlags,
  { model, slots, hyper }: BenchRun,
  device: ReadyDevice | undefined,
  cores: number,
): MeasuredModel {
  return {
    model,
    options: { recompute: flags.recompute ?? false, lossChunk: flags.lossChunk },
    sequences: flags.batch,
    length: flags.seq,
    slots,
    hyper,
    device,
    precision: flags.precision,
    threads: flags.threads ?? cores,
    seed: 0,
  };
}

/** @throws ConfigError for parts that do not fit together */
export function benchRun(flags: BenchRunFlags): BenchRun {
  const { model: size, vocab, seq, method, optimizer, targetModules, overrides = [] } = flags;
  const model = llamaConfigFromFields({ size }, { vocabSize: vocab, maxPositionEmbeddings: seq });
  const rank = flags.rank ?? (method === 'apollo-mini' ? 1 : rankFor(model));
  const document = {
    ...{ name: 'bench', model: size, data: { path: 'none' }, steps: 1, seq_len: seq },
    method: { name: method, rank, ...(targetModules ? { target_modules: targetModules } : {}) },
    optimizer: optimizer === undefined ? {} : { name: optimizer },
  };
  const config = parseRunConfig(JSON.stringify(document), 'the options', {
    ...{ workingDir: '.', homeDir: '.', overrides },
  });
  if (config.local_steps.count > 1) {
    const allowed = 'a benchmark measures one synchronous step: leave it out';
    const fault = { field: 'local_steps.count', value: String(config.local_steps.count), allowed };
    throw new ConfigError(`local_steps.count is ${fault.value}; ${allowed}`, [fault]);
  }
  if (methodPlan(config).parametrisation !== undefined) {
    const allowed = 'a benchmark measures methods that train the tensors of the model themselves';
    throw new ConfigError(`method.name is ${method}; ${allowed}`, [
      { field: 'method.name', value: method, allowed },
    ]);
  }
  const { slots } = buildRunShape(config, model);
  const hyper = { ...hyperparametersOf(config), learningRate: LEARNING_RATE };
  return { model, slots, hyper, rank: method === 'full' ? null : rank };
}
