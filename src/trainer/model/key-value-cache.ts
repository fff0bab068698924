/** Keys and values of the tokens a model has already seen, layer by layer, for generation. */
import * as tf from '@tensorflow/tfjs-core';
import type { Heads } from './layers/attention.ts';

interface LayerCache {
  readonly key: tf.Tensor4D; // [1, K, T, headDim]
  readonly value: tf.Tensor4D; // [1, K, T, headDim]
}

/** Owns its tensors; `dispose` frees them. */
export class KeyValueCache implements Disposable {
  readonly #layers: (LayerCache | undefined)[];

  constructor(layers: number) {
    this.#layers = Array.from({ length: layers }, () => undefined);
  }

  /** Tokens held. */
  get length(): number {
    return this.#layers[0]?.key.shape[2] ?? 0;
  }

  /**
   * Puts the keys and values of new tokens behind those of `layer` and returns heads that attend to all
   * of them. The cache owns the key and value returned.
   */
  extend(layer: number, heads: Heads): Heads {
    const before = this.#layers[layer];
    const [key, value] = (['key', 'value'] as const).map((part) =>
      tf.keep(before === undefined ? tf.clone(heads[part]) : tf.concat([before[part], heads[part]], 2)),
    ) as [tf.Tensor4D, tf.Tensor4D];
    this.#layers[layer] = { key, value };
    if (before !== undefined) tf.dispose([before.key, before.value]);
    return { query: heads.query, key, value };
  }

  dispose(): void {
    for (const layer of this.#layers) if (layer !== undefined) tf.dispose([layer.key, layer.value]);
    this.#layers.fill(undefined);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
