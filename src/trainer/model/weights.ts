/** The weights of a model on the engine, by Hugging Face name. */
import * as tf from '@tensorflow/tfjs-core';
import { TensorShapeError } from '../../errors.ts';
import { sizeOf, type TensorSpec } from '../../galore/slot.ts';

/** A tensor as it comes from a file, a snapshot or the generator. */
export interface WeightValues extends TensorSpec {
  readonly values: Float32Array;
}

/** Owns one tensor per name; names and shapes are fixed when the store is made. */
export class WeightStore {
  readonly #tensors: Map<string, tf.Tensor>;

  private constructor(tensors: Map<string, tf.Tensor>) {
    this.#tensors = tensors;
  }

  /**
   * Makes the store. The engine may go on using the arrays themselves: do not write to them afterwards.
   * @throws TensorShapeError if an array's length is not its shape's, or a name comes twice
   */
  static fromArrays(weights: Iterable<WeightValues>): WeightStore {
    const store = new WeightStore(new Map());
    try {
      for (const weight of weights) store.#add(weight);
    } catch (error) {
      store.dispose();
      throw error;
    }
    return store;
  }

  /**
   * The same one by one: each is handed to the engine before the next is asked for. Of an array that the
   * engine copied (it shares those it can) nothing is held then, so a large model is not in memory twice.
   * @throws TensorShapeError as `fromArrays`, and what `weights` throws
   */
  static async fromStream(weights: AsyncIterable<WeightValues>): Promise<WeightStore> {
    const store = new WeightStore(new Map());
    try {
      for await (const weight of weights) upload(store.#add(weight));
    } catch (error) {
      store.dispose();
      throw error;
    }
    return store;
  }

  #add({ name, shape, values }: WeightValues): tf.Tensor {
    if (this.#tensors.has(name)) throw new TensorShapeError(`${name} is there twice`);
    if (values.length !== sizeOf(shape)) {
      throw new TensorShapeError(
        `${name} has ${values.length} values; its shape [${shape.join(', ')}] needs ${sizeOf(shape)}`,
      );
    }
    const tensor = tf.keep(tf.tensor(values, [...shape], 'float32'));
    this.#tensors.set(name, tensor);
    return tensor;
  }

  /** The tensor of that name; it stays the store's: do not dispose it. */
  get(name: string): tf.Tensor {
    const tensor = this.#tensors.get(name);
    if (tensor === undefined) throw new TensorShapeError(`the model has no weight named ${name}`);
    return tensor;
  }

  /** Puts `tensor` in the place of the one of that name, which is disposed. The store owns it from then on. */
  set(name: string, tensor: tf.Tensor): void {
    const old = this.get(name);
    if (old.shape.join() !== tensor.shape.join()) {
      throw new TensorShapeError(`${name} is [${old.shape.join(', ')}], not [${tensor.shape.join(', ')}]`);
    }
    this.#tensors.set(name, tf.keep(tensor));
    if (old !== tensor) old.dispose();
  }

  /** Bytes the weight takes while nobody uses it. */
  bytesOf(name: string): number {
    return 4 * this.get(name).size;
  }

  /** The names, in the order they were given. */
  names(): readonly string[] {
    return [...this.#tensors.keys()];
  }

  dispose(): void {
    for (const tensor of this.#tensors.values()) tensor.dispose();
    this.#tensors.clear();
  }
}

/** The engine takes an array over when its tensor is first used: so it is used. */
function upload(tensor: tf.Tensor): void {
  tf.tidy(() => tf.slice(tf.reshape(tensor, [-1]), 0, 1).dataSync());
}
