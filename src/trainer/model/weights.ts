/** The weights of a model on the engine, by Hugging Face name. */
import * as tf from '@tensorflow/tfjs-core';
import { TensorShapeError } from '../../errors.ts';
import { sizeOf, type TensorSpec } from '../../galore/slot.ts';

/** A tensor as it comes from a file, a snapshot or the generator. */
export interface WeightValues extends TensorSpec {
  readonly values: Float32Array;
}

/** A weight that is not kept as a tensor but made of something else whenever it is used. */
export interface WeightSource {
  readonly shape: readonly number[];
  /** What it is made of takes. */
  readonly bytes: number;
  /** A new tensor of that shape. */
  materialise(): tf.Tensor;
}

/** A weight by its source. */
export interface SourcedWeight {
  readonly name: string;
  readonly source: WeightSource;
}

/** Makes weights of the model that are none of the store's own. */
export interface WeightMaker {
  /** Of a weight that it makes; null: it does not. */
  shapeOf(name: string): readonly number[] | null;
  /** A new tensor of that shape, made of the store's own. */
  make(name: string, partOf: (name: string) => tf.Tensor): tf.Tensor;
}

/**
 * Owns one weight per name; names and shapes are fixed when the store is made. A weight is a tensor, or it has
 * a source: then its tensor is made when it is asked for and lives until the next `release`. With a maker the
 * store's own weights are parts of the model's: `get` has the model's, `part` the store's own.
 */
export class WeightStore {
  readonly #shapes = new Map<string, readonly number[]>();
  readonly #tensors = new Map<string, tf.Tensor>();
  readonly #sources = new Map<string, WeightSource>();
  #maker: WeightMaker | null = null;
  /** What it made since the last `release`. */
  readonly #made = new Map<string, tf.Tensor>();

  private constructor() {}

  /**
   * Makes the store. The engine may go on using the arrays themselves: do not write to them afterwards.
   * @throws TensorShapeError if an array's length is not its shape's, or a name comes twice
   */
  static fromArrays(weights: Iterable<WeightValues | SourcedWeight>): WeightStore {
    const store = new WeightStore();
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
  static async fromStream(
    weights: AsyncIterable<WeightValues | SourcedWeight> | Iterable<WeightValues | SourcedWeight>,
  ): Promise<WeightStore> {
    const store = new WeightStore();
    try {
      for await (const weight of weights) {
        const tensor = store.#add(weight);
        if (tensor !== null) upload(tensor);
      }
    } catch (error) {
      store.dispose();
      throw error;
    }
    return store;
  }

  #add(weight: WeightValues | SourcedWeight): tf.Tensor | null {
    const { name } = weight;
    if (this.#shapes.has(name)) throw new TensorShapeError(`${name} is there twice`);
    if ('source' in weight) {
      this.#shapes.set(name, weight.source.shape);
      this.#sources.set(name, weight.source);
      return null;
    }
    const { shape, values } = weight;
    if (values.length !== sizeOf(shape)) {
      throw new TensorShapeError(
        `${name} has ${values.length} values; its shape [${shape.join(', ')}] needs ${sizeOf(shape)}`,
      );
    }
    const tensor = tf.keep(tf.tensor(values, [...shape], 'float32'));
    this.#shapes.set(name, tensor.shape);
    this.#tensors.set(name, tensor);
    return tensor;
  }

  /** From now on `get` has weights that `maker` makes of the store's own; null: `get` has these themselves. */
  makeWith(maker: WeightMaker | null): void {
    this.release();
    this.#maker = maker;
  }

  /**
   * The model's tensor of that name; it stays the store's: do not dispose it. One that is made is good
   * until the next `release`, whatever becomes of what it was made of.
   */
  get(name: string): tf.Tensor {
    if (this.#maker === null || this.#maker.shapeOf(name) === null) return this.part(name);
    const before = this.#made.get(name);
    if (before !== undefined) return before;
    const made = tf.keep(this.#maker.make(name, (part) => this.part(part)));
    this.#made.set(name, made);
    return made;
  }

  /** The store's own tensor of that name; the same holds. */
  part(name: string): tf.Tensor {
    const tensor = this.#tensors.get(name);
    if (tensor !== undefined) return tensor;
    const source = this.#sources.get(name);
    if (source === undefined) throw new TensorShapeError(`the model has no weight named ${name}`);
    const made = tf.keep(source.materialise());
    this.#tensors.set(name, made);
    return made;
  }

  /** What the weight is made of; null: it is a tensor. */
  sourceOf(name: string): WeightSource | null {
    return this.#sources.get(name) ?? null;
  }

  /** @throws TensorShapeError if one of these tensors is not there or has another shape */
  requireShapes(tensors: readonly TensorSpec[]): void {
    for (const { name, shape } of tensors) {
      const actual = this.shapeOf(name);
      if (actual.join() !== shape.join()) {
        throw new TensorShapeError(
          `${name} is [${actual.join(', ')}]; the model needs [${shape.join(', ')}]`,
        );
      }
    }
  }

  /** Of the model's, without making a tensor. */
  shapeOf(name: string): readonly number[] {
    return this.#maker?.shapeOf(name) ?? this.#shapeOfPart(name);
  }

  #shapeOfPart(name: string): readonly number[] {
    const shape = this.#shapes.get(name);
    if (shape === undefined) throw new TensorShapeError(`the model has no weight named ${name}`);
    return shape;
  }

  /** Bytes the weight takes while nobody uses it. */
  bytesOf(name: string): number {
    return this.sourceOf(name)?.bytes ?? 4 * this.part(name).size;
  }

  /** Bytes of weights that have a source. */
  get arrayBytes(): number {
    return [...this.#sources.values()].reduce((sum, { bytes }) => sum + bytes, 0);
  }

  /** Puts `weight` in the place of its own of that name, whose tensor is disposed. The store owns it from then on. */
  set(name: string, weight: tf.Tensor | WeightSource): void {
    const shape = this.#shapeOfPart(name);
    if (shape.join() !== weight.shape.join()) {
      throw new TensorShapeError(`${name} is [${shape.join(', ')}], not [${weight.shape.join(', ')}]`);
    }
    const old = this.#tensors.get(name);
    if (isSource(weight)) {
      this.#sources.set(name, weight);
      this.#tensors.delete(name);
    } else {
      this.#sources.delete(name);
      this.#tensors.set(name, tf.keep(weight));
    }
    if (old !== weight) old?.dispose();
  }

  /** The names, in the order they were given. */
  names(): readonly string[] {
    return [...this.#shapes.keys()];
  }

  /** Frees the tensors of weights that are made. */
  release(): void {
    tf.dispose([...this.#made.values()]);
    this.#made.clear();
    for (const name of this.#sources.keys()) {
      this.#tensors.get(name)?.dispose();
      this.#tensors.delete(name);
    }
  }

  dispose(): void {
    this.release();
    for (const tensor of this.#tensors.values()) tensor.dispose();
    this.#tensors.clear();
    this.#sources.clear();
    this.#shapes.clear();
  }
}

function isSource(weight: tf.Tensor | WeightSource): weight is WeightSource {
  return 'materialise' in weight;
}

/** The engine takes an array over when its tensor is first used: so it is used. */
function upload(tensor: tf.Tensor): void {
  tf.tidy(() => tf.slice(tf.reshape(tensor, [-1]), 0, 1).dataSync());
}
