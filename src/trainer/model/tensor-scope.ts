/**
 * Lifetimes of tensors that outlive one `tf.tidy` but not the function that made them. A backward
 * pass cannot be one tidy: it calls back in the middle, and a tidy would dispose what the callback
 * makes.
 */
import * as tf from '@tensorflow/tfjs-core';

/** Owns tensors, alone or nested in objects; what is left in it is disposed at the end of the block (`using`). */
export class TensorScope implements Disposable {
  readonly #held = new Set<tf.TensorContainer>();
  readonly #last: (() => void)[] = [];

  /** Takes ownership and returns what was given. */
  hold<T extends tf.TensorContainer>(tensors: T): T {
    this.#held.add(tensors);
    return tensors;
  }

  /** Disposes something of this scope before its end. */
  free(tensors: tf.TensorContainer): void {
    this.#held.delete(tensors);
    tf.dispose(tensors);
  }

  /** Gives up ownership: the caller disposes it from now on. */
  release<T extends tf.TensorContainer>(tensors: T): T {
    this.#held.delete(tensors);
    return tensors;
  }

  /** Has something else done at the end of the block. */
  atEnd(action: () => void): void {
    this.#last.push(action);
  }

  [Symbol.dispose](): void {
    for (const tensors of this.#held) tf.dispose(tensors);
    this.#held.clear();
    for (const action of this.#last.splice(0)) action();
  }
}
