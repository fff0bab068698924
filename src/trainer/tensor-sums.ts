/** Sums of tensors by slot, which outlive any tidy, such as a gradient over the micro-batches of a step. */
import * as tf from '@tensorflow/tfjs-core';

export class TensorSums {
  readonly #sums = new Map<number, tf.Tensor>();

  /** Adds a term, which it disposes. */
  add(index: number, term: tf.Tensor): void {
    const sum = this.#sums.get(index);
    this.#sums.set(index, tf.keep(sum === undefined ? term.clone() : tf.add(sum, term)));
    tf.dispose([term, ...(sum === undefined ? [] : [sum])]);
  }

  /** The sum so far; it stays this object's. */
  get(index: number): tf.Tensor | undefined {
    return this.#sums.get(index);
  }

  /** The sum, which is the caller's from now on. @throws RangeError if there is none */
  take(index: number): tf.Tensor {
    const sum = this.#sums.get(index);
    if (sum === undefined) throw new RangeError(`nothing was added for slot ${index}`);
    this.#sums.delete(index);
    return sum;
  }

  /** The slots there are sums of, in the order in which they were added first. */
  indices(): readonly number[] {
    return [...this.#sums.keys()];
  }

  dispose(): void {
    tf.dispose([...this.#sums.values()]);
    this.#sums.clear();
  }
}
