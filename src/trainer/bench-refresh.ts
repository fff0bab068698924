/** The measurements behind `galore bench refresh`: loads the engine, gets gradients, frees them. SHELL. */
import * as tf from '@tensorflow/tfjs-core';
import { checkpointGradients, type CheckpointGradientsRequest } from './checkpoint-gradients.ts';
import { loadEngine } from './engine/load.ts';
import type { ReadyDevice } from './engine/ready-device.ts';
import {
  measureRefresh,
  syntheticGradients,
  type GradientPair,
  type RefreshMeasurement,
  type RefreshQuestion,
} from './measure-refresh.ts';

/** What is measured: a made-up gradient of a size, or those of a model. */
export type RefreshBench = {
  readonly threads: number;
  readonly device?: ReadyDevice | undefined;
  readonly question: RefreshQuestion;
} & (
  | { readonly kind: 'synthetic'; readonly rows: number; readonly cols: number }
  | { readonly kind: 'checkpoint'; readonly request: Omit<CheckpointGradientsRequest, 'threads'> }
);

/** Measures on the engine, which must have been installed. @throws DataError, ConfigError, EngineError */
export type RunRefreshBench = (bench: RefreshBench) => Promise<readonly RefreshMeasurement[]>;

export const benchRefresh: RunRefreshBench = async (bench) => {
  await loadEngine({ precision: 'f32', threads: bench.threads, device: bench.device });
  const pairs = await gradientPairs(bench);
  try {
    return pairs.map((pair) => measureRefresh(pair, bench.question));
  } finally {
    for (const { gradient, earlier } of pairs) tf.dispose([gradient, earlier]);
  }
};

async function gradientPairs(bench: RefreshBench): Promise<readonly GradientPair[]> {
  if (bench.kind === 'synthetic') return [syntheticGradients(bench.rows, bench.cols)];
  return checkpointGradients({ ...bench.request, threads: bench.threads });
}
