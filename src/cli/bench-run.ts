/** What `galore bench` measures: a model of the paper's sizes and a method, as a run would have them. */
import { parseRunConfig } from '../config/load.ts';
import { MODEL_SIZES, type RunConfig } from '../config/schema.ts';
import type { Slot } from '../galore/slot.ts';
import { llamaConfigFromFields, type LlamaConfig } from '../model/llama-config.ts';
import { buildRunShape, defaultRank } from '../run-shape.ts';
import { hyperparametersOf } from '../trainer/hyperparameters.ts';
import type { LocalHyperparameters } from '../trainer/local-step.ts';

/** Options that choose what is measured. */
export interface BenchRunFlags {
  readonly model: (typeof MODEL_SIZES)[number];
  readonly vocab: number;
  readonly seq: number;
  readonly method: RunConfig['method']['name'];
  readonly optimizer?: RunConfig['optimizer']['name'];
  readonly rank?: number;
  readonly targetModules?: readonly string[];
}

export interface BenchRun {
  readonly model: LlamaConfig;
  readonly slots: readonly Slot[];
  readonly hyper: LocalHyperparameters;
  /** null: the method has no bases. */
  readonly rank: number | null;
}

const LEARNING_RATE = 1e-3;

/** @throws ConfigError for parts that do not fit together */
export function benchRun(flags: BenchRunFlags): BenchRun {
  const { model: size, vocab, seq, method, optimizer, targetModules } = flags;
  const model = llamaConfigFromFields({ size }, { vocabSize: vocab, maxPositionEmbeddings: seq });
  const rank = flags.rank ?? (method === 'apollo-mini' ? 1 : defaultRank(model));
  const document = {
    ...{ name: 'bench', model: size, data: { path: 'none' }, steps: 1, seq_len: seq },
    method: { name: method, rank, ...(targetModules ? { target_modules: targetModules } : {}) },
    optimizer: optimizer === undefined ? {} : { name: optimizer },
  };
  const config = parseRunConfig(JSON.stringify(document), 'the options', { workingDir: '.', homeDir: '.' });
  const { slots } = buildRunShape(config, model);
  const hyper = { ...hyperparametersOf(config), learningRate: LEARNING_RATE };
  return { model, slots, hyper, rank: method === 'full' ? null : rank };
}
