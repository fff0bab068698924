/** The layers of a model one after the other, and what forward keeps of each for backward. */
import assert from 'node:assert/strict';
import * as tf from '@tensorflow/tfjs-core';
import type { TensorScope } from './tensor-scope.ts';

/** What forward keeps of a layer. */
export type Keep = 'nothing' | 'inputs' | 'intermediates';

/** Its input, of which backward computes the rest again, or all that backward needs. */
export type KeptLayer<Saved> = { readonly input: tf.Tensor2D } | { readonly saved: Saved };

/** What a layer makes of its input. */
interface LayerResult<Saved> {
  readonly y: tf.Tensor2D; // [N, D]
  readonly saved: Saved;
}

/**
 * Runs `count` layers on `x`, [N, D], which is the scope's. Everything it leaves belongs to the scope. `layerAt` is
 * called in no `tf.tidy`: weights that it makes live longer than one.
 */
export function forwardLayers<Saved extends tf.TensorContainer>(
  x: tf.Tensor2D,
  count: number,
  layerAt: (layer: number) => (input: tf.Tensor2D) => LayerResult<Saved>,
  keep: Keep,
  scope: TensorScope,
): { readonly x: tf.Tensor2D; readonly kept: readonly KeptLayer<Saved>[] } {
  const kept: KeptLayer<Saved>[] = [];
  let output = x;
  for (let layer = 0; layer < count; layer++) {
    const input = output;
    const forward = layerAt(layer);
    if (keep === 'intermediates') {
      const { y, saved } = forward(input);
      kept.push({ saved: scope.hold(saved) });
      output = scope.hold(y);
    } else {
      if (keep === 'inputs') kept.push({ input });
      output = scope.hold(tf.tidy(() => forward(input).y));
    }
    if (keep !== 'inputs') scope.free(input);
  }
  return { x: output, kept };
}

/** What backward needs of a layer: what was kept, or made again of its input, which it uses up. */
export function savedOf<Saved extends tf.TensorContainer>(
  kept: KeptLayer<Saved> | undefined,
  recompute: (input: tf.Tensor2D) => Saved,
  scope: TensorScope,
): Saved {
  assert(kept !== undefined);
  if ('saved' in kept) return kept.saved;
  const saved = scope.hold(recompute(kept.input));
  scope.free(kept.input);
  return saved;
}
